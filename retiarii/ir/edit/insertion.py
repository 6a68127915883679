"""`Graph.insert`: nodes from a module, a module class, a function, an op's name or a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from retiarii.errors import GraphError, RetiariiError, ShapeError, nearest
from retiarii.ir.claims import claims_of
from retiarii.ir.edit.editing import own_ref, own_refs
from retiarii.ir.edit.resize import resize
from retiarii.ir.infer import infer
from retiarii.ir.node import Node, NodeRecord, Value
from retiarii.ir.ops import OPS, OpSpec, bind_call, function_op, module_attrs, module_op, op_spec
from retiarii.ir.types import Attrs, Operand, Ref, Result, TensorType, map_leaves

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph

Layers = tuple[tuple[str, str, Attrs], ...]


def insert(
    graph: Graph,
    what: Any,
    inputs: tuple[Any, ...],
    name: str | None,
    attrs: Mapping[str, Any],
) -> Node:
    """See `Graph.insert`."""
    from retiarii.ir.graph import Graph as GraphType

    if isinstance(what, nn.Module | GraphType):
        if attrs:
            raise GraphError(
                f"arguments {sorted(attrs)} do not go with a module that is made already",
                fix="give them to its constructor",
            )
        name = name or default_name(what)
        return _result(graph, insert_module(graph, what, inputs, name, fresh=True), name)
    if isinstance(what, type) and issubclass(what, nn.Module):
        return _insert_class(graph, what, inputs, name, attrs)
    spec, operands, given = _bound(what, inputs, attrs)
    operand_refs = tuple(own_ref(graph, operand) for operand in operands)
    return _add(graph, spec.name, operand_refs, Attrs(given), name or spec.name)


def insert_module(
    graph: Graph, what: nn.Module | Graph, inputs: tuple[Any, ...], name: str, *, fresh: bool
) -> tuple[Ref, ...]:
    """Inserts a module under the path ``name``; the refs of what it returns.

    Args:
        fresh: its parameters are new; else they are the parsed model's, at that path.
    """
    if not isinstance(what, nn.Module):
        return _splice(graph, what, inputs, name, fresh)
    layers = _layers(what) if fresh else _kept_layers(graph, what)
    if layers is not None:
        refs = tuple(ref for value in _flat(inputs) for ref in own_refs(graph, value))
        for suffix, op, attrs in layers:
            node = _add(graph, op, refs, attrs, f"{name}{suffix}", path=True, fresh=fresh)
            refs = own_refs(graph, node)
        return refs
    if not fresh and hasattr(what, "opaque_reason"):
        return _hold(graph, what, inputs, name)
    if _is_chain(what) and len(inputs) == 1:
        for child_name, child in what.named_children():
            refs = insert_module(graph, child, inputs, f"{name}.{child_name}", fresh=fresh)
            inputs = tuple(Value(graph, ref.node, ref.index) for ref in refs)
        return refs
    return _splice(graph, what, inputs, name, fresh)


def _result(graph: Graph, refs: tuple[Ref, ...], name: str) -> Node:
    """The one node that makes all of what a module returns, and nothing else.

    Raises:
        GraphError: it returns several tensors that no single node makes.
    """
    if len(refs) == 1 and len(graph.record(refs[0].node).types) > 1:
        return _add(graph, "Identity", refs, Attrs(), f"{name}.result", path=True)
    if refs != tuple(Ref(refs[0].node, i) for i in range(len(refs))):
        raise GraphError(
            f"{name!r} returns {len(refs)} tensors that no single node makes",
            where=f"inserting {name!r}",
            fix="insert its parts one by one, or let its forward return one tensor",
        )
    return Node(graph, refs[0].node)


def _layers(module: nn.Module) -> Layers | None:
    """A layer, or a chain of layers, as (suffix of its name, op, arguments); else ``None``."""
    op = module_op(type(module))
    if op is not None:
        plain = all(map(_runs_as_its_class, module.modules()))
        return (("", op, module_attrs(module)),) if plain else None
    if not _is_chain(module):
        return None
    chain: list[tuple[str, str, Attrs]] = []
    for name, child in module.named_children():
        layers = _layers(child)
        if layers is None:
            return None
        chain += [(f".{name}{suffix}", op, attrs) for suffix, op, attrs in layers]
    return tuple(chain)


def _is_chain(module: nn.Module) -> bool:
    filled = type(module) is nn.Sequential and len(module) > 0
    return filled and _runs_as_its_class(module)


def _runs_as_its_class(module: nn.Module) -> bool:
    """Whether calling it is calling its class's forward, with no hook on the way.

    Otherwise it is parsed: what a hook does is then in the graph, or the module is refused.
    """
    from retiarii.ir.tracing.layers import has_hooks

    return not has_hooks(module) and "forward" not in module.__dict__


def _kept_layers(graph: Graph, module: nn.Module) -> Layers | None:
    """`_layers` of a part of the parsed model, which never changes."""
    kept = graph.context.layers
    if module not in kept:
        kept[module] = _layers(module)
    return kept[module]


def default_name(what: Any) -> str:
    """The name of an inserted node, where none is given."""
    return type(what).__name__.lower()


def _insert_class(
    graph: Graph,
    what: type[nn.Module],
    inputs: tuple[Any, ...],
    name: str | None,
    attrs: Mapping[str, Any],
) -> Node:
    op = module_op(what)
    name = name or what.__name__.lower()
    if op is None:
        return _result(
            graph, insert_module(graph, _made(what, attrs), inputs, name, fresh=True), name
        )
    refs = tuple(ref for value in _flat(inputs) for ref in own_refs(graph, value))
    given = Attrs(attrs)
    completed = graph.context.completed
    if (op, given) not in completed:
        completed[op, given] = _completed(op, attrs, name)
    return _add(graph, op, refs, completed[op, given], name, path=True)


def _made(what: type[nn.Module], attrs: Mapping[str, Any]) -> nn.Module:
    try:
        with torch.device("meta"):
            return what(**attrs)
    except RetiariiError:
        raise
    except Exception as error:
        raise GraphError(
            f"{what.__name__}({', '.join(f'{k}={v!r}' for k, v in attrs.items())}) "
            f"cannot be made: {error}",
            fix="check the arguments of its constructor",
        ) from error


def _completed(op: str, attrs: Mapping[str, Any], name: str) -> Attrs:
    """All constructor arguments, with defaults; placeholders for input sizes that were left out."""
    spec = op_spec(op)
    known = (*spec.signature, "dtype") if spec.placed else spec.signature
    unknown = [key for key in attrs if key not in known]
    if unknown:
        raise GraphError(
            f"{op} has no argument {unknown[0]!r}",
            where=f"node {name!r}",
            fix=nearest(unknown[0], list(spec.signature)),
        )
    return module_attrs(_made(spec.target, {**spec.placeholders(attrs), **attrs}))


def _bound(
    what: Any, inputs: tuple[Any, ...], attrs: Mapping[str, Any]
) -> tuple[OpSpec, list[Any], dict[str, Any]]:
    if isinstance(what, str):
        if what not in OPS:
            raise GraphError(f"no op is called {what!r}", fix=nearest(what, sorted(OPS)))
        spec = OPS[what]
    elif callable(what):
        match = function_op(what)
        if match is None:
            raise GraphError(
                f"{getattr(what, '__name__', what)!r} is not a function of torch",
                fix="wrap it in a module: class Mine(nn.Module) with forward(...), and insert that",
            )
        spec = match.spec
    else:
        raise GraphError(
            f"a {type(what).__name__} cannot be inserted",
            fix="insert a module, a module class, a torch function, an op's name, or a graph",
        )
    operands, given = bind_call(spec, inputs, dict(attrs), lambda v: isinstance(v, Node | Value))
    return spec, operands, given


def _add(
    graph: Graph,
    op: str,
    refs: tuple[Ref, ...],
    attrs: Attrs,
    name: str,
    *,
    path: bool = False,
    fresh: bool = True,
) -> Node:
    name = graph.free_name(name)
    for ref in refs:
        graph.reads.note("types", ref.node)
    graph.settle()
    record = NodeRecord(name, op, refs, attrs, path=name if path else None, fresh=fresh)
    kinds = graph.input_types(record)
    fitted = graph.context.types.fitted
    fit = fitted.get((op, attrs, kinds))
    if fit is None:
        try:
            sized = resize(record, kinds)
            fit = sized, *infer(op, sized, kinds, graph.context.types)
        except ShapeError as error:
            shown = ", ".join(f"{ref.node} {t}" for ref, t in zip(refs, kinds, strict=True))
            inputs = f"inputs {shown}" if shown else "without inputs"
            raise ShapeError(
                error.cause, where=f"inserting {name!r}, {inputs}", fix=error.fix
            ) from None
        fitted[op, attrs, kinds] = fit
    sized, types, result = fit
    graph.add(record.with_(attrs=sized, types=types, result=result))
    graph.transaction.added(name)
    return Node(graph, name)


def _hold(graph: Graph, choice: nn.Module, inputs: tuple[Any, ...], name: str) -> tuple[Ref, ...]:
    """Inserts a choice within a choice as one node, to be resolved in its turn."""
    values = _flat(inputs)
    refs = tuple(own_ref(graph, value) for value in values)
    places = {id(value): Operand(i) for i, value in enumerate(values)}
    inner = _inner(graph, choice, inputs, refs, keep=True)
    flat = all(isinstance(value, Node | Value) for value in inputs)
    attrs = {} if flat else {"args": _structured(inputs, places)}
    name = graph.free_name(name)
    graph.add(
        NodeRecord(
            name,
            "opaque",
            refs,
            Attrs({**attrs, "reason": str(choice.opaque_reason)}),
            tuple(value.type for value in inner.outputs),
            None if inner.output_structure == Result(0) else inner.output_structure,
            path=name,
        )
    )
    graph.transaction.added(name)
    return tuple(Ref(name, i) for i in range(len(inner.outputs)))


def _splice(
    graph: Graph, what: nn.Module | Graph, inputs: tuple[Any, ...], name: str, fresh: bool
) -> tuple[Ref, ...]:
    """Inserts all nodes of a module that has several, or of a graph."""
    values = _flat(inputs)
    refs = [own_ref(graph, value) for value in values]
    if isinstance(what, nn.Module):
        inner = _inner(graph, what, inputs, tuple(refs), keep=not fresh)
    else:
        inner = what
    if len(inner.inputs) != len(refs):
        raise GraphError(
            f"{name!r} takes {len(inner.inputs)} tensors and is given {len(refs)}",
            where=f"inserting {name!r}",
            fix="give as many inputs as its forward takes",
        )
    _check_general(graph, inner, name)
    if inner.sizes:
        graph.claim(claims_of(inner.sizes, refs))
    if fresh:
        name = _free_prefix(graph, inner, name)
    moved: dict[Ref, Ref] = {
        Ref(node.name): ref for node, ref in zip(inner.inputs, refs, strict=True)
    }
    for record in inner.records():
        if record.op == "input":
            continue
        choice = record.is_choice and not fresh
        if record.op in ("opaque", "constant") and not choice:
            raise GraphError(
                f"{name!r} holds {record.name!r}, which could not be lowered: "
                f"{record.attrs.get('reason', 'a constant tensor')}",
                where=f"inserting {name!r}" + (f" ({record.where})" if record.where else ""),
                fix=_fix_of(what),
            )
        new = graph.free_name(f"{name}.{record.name}")
        graph.add(
            record.with_(
                name=new,
                inputs=tuple(moved[ref] for ref in record.inputs),
                path=None if record.path is None else f"{name}.{record.path}",
                fresh=fresh,
            )
        )
        graph.transaction.added(new)
        for i in range(len(record.types)):
            moved[Ref(record.name, i)] = Ref(new, i)
    return tuple(moved[ref] for ref in inner.output_refs())


def _free_prefix(graph: Graph, inner: Graph, name: str) -> str:
    """The name under which all of the module's nodes are new: its layers share no path."""
    prefix, number = name, 0
    names = [record.name for record in inner.records() if record.op != "input"]
    while any(f"{prefix}.{other}" in graph for other in names):
        number += 1
        prefix = f"{name}_{number}"
    return prefix


def _check_general(graph: Graph, inner: Graph, name: str) -> None:
    """What holds for one batch size or mode only may not go where the graph would not say so."""
    beyond = set(inner.context.fixed - graph.context.fixed)
    if inner.context.batch != graph.context.batch:
        beyond.discard("batch")  # its inputs begin with something else
    if beyond:
        what = {"batch": "at one batch size", "training": "in one mode"}[min(beyond)]
        raise GraphError(
            f"{name!r} runs {what} only",
            where=f"inserting {name!r}",
            fix="write its forward so that it runs at every batch size and in both modes",
        )


def _fix_of(what: nn.Module | Graph) -> str:
    """What to do about a module of which a part could not be lowered."""
    from retiarii.ir.tracing.layers import has_hooks

    if isinstance(what, nn.Module):
        for path, part in what.named_modules():
            if has_hooks(part):
                of = f"its part {path!r}" if path else f"the {type(part).__name__}"
                return f"remove the hooks of {of}, or write what they do in a module's forward"
    return "register constants as buffers; write data-dependent code outside of mutators"


def _flat(inputs: Any) -> list[Node | Value]:
    found: list[Node | Value] = []
    for value in inputs:
        if isinstance(value, list | tuple):
            found += _flat(value)
        else:
            found.append(value)
    return found


def _structured(inputs: Any, places: Mapping[int, Any]) -> Any:
    return tuple(
        _structured(v, places) if isinstance(v, list | tuple) else places[id(v)] for v in inputs
    )


def _inner(
    graph: Graph, module: nn.Module, inputs: Any, refs: tuple[Ref, ...], *, keep: bool
) -> Graph:
    """The module's graph; kept for the options of placeholders, which are spliced many times."""
    from retiarii.ir.parse import parse

    graph.settle()
    for ref in refs:
        graph.reads.note("types", ref.node)
    types = [graph.record(ref.node).types[ref.index] for ref in refs]
    kinds = _structured(inputs, dict(zip(map(id, _flat(inputs)), types, strict=True)))
    by_types = graph.context.parsed.setdefault(module, {}) if keep else {}
    if kinds not in by_types:
        # Mutators run under the meta device, where a forward could not compute its constants.
        with torch.device("cpu"):
            by_types[kinds] = parse(module, map_leaves(TensorType.meta, kinds))
    return by_types[kinds]
