"""The rules of the IR, checked on a whole graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from retiarii.errors import GraphError, RetiariiError
from retiarii.ir.infer import infer
from retiarii.ir.ops import op_spec
from retiarii.ir.types import Attrs, Operand, Result, TensorType, leaves

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph
    from retiarii.ir.node import NodeRecord


def verify(graph: Graph) -> None:
    """Checks that a graph keeps every rule.

    Names are unique; what a node reads is there and earlier; types are what inference says;
    structural nodes have their attributes; the calls of one module agree; outputs exist.

    Raises:
        GraphError: naming the node, what is wrong and what to do.
    """
    seen: dict[str, NodeRecord] = {}
    users: dict[str, set[str]] = {}
    owners: dict[str, NodeRecord] = {}
    for record in graph.records():
        if record.name in seen:
            _fail(record, "its name is used twice", "rename one of the two nodes")
        _check_inputs(record, seen)
        _check_operands(record)
        _check_kind(graph, record)
        _check_types(graph, record)
        _check_owner(record, owners)
        seen[record.name] = record
        for ref in record.inputs:
            users.setdefault(ref.node, set()).add(record.name)
    _check_outputs(graph, seen)
    _check_forward(graph)
    for name, record in seen.items():
        if set(graph.users_of(name)) != users.get(name, set()):
            _fail(record, "its list of users is not what reads it", "this is a fault in retiarii")


def _check_inputs(record: NodeRecord, seen: Mapping[str, NodeRecord]) -> None:
    for ref in record.inputs:
        maker = seen.get(ref.node)
        if maker is None:
            _fail(
                record,
                f"it reads {ref.node!r}, which no earlier node makes",
                "put the nodes in topological order, or rewire the input",
            )
        if not 0 <= ref.index < len(maker.types):
            _fail(
                record,
                f"it reads result {ref.index} of {ref.node!r}, which makes {len(maker.types)}",
                "rewire the input to a result that exists",
            )


def _check_operands(record: NodeRecord) -> None:
    for key, value in record.attrs.items():
        for leaf in leaves(value):
            if isinstance(leaf, Operand) and not 0 <= leaf.index < len(record.inputs):
                _fail(
                    record,
                    f"attribute {key!r} stands for input {leaf.index}, "
                    f"and there are {len(record.inputs)}",
                    "give the node that input, or change the attribute",
                )
            if isinstance(leaf, torch.Tensor):
                _fail(
                    record,
                    f"attribute {key!r} holds a tensor",
                    "make it an input of the node: a constant, a buffer or a parameter",
                )


def _check_kind(graph: Graph, record: NodeRecord) -> None:
    check = _STRUCTURAL.get(record.op)
    if check is not None:
        for fault in check(graph, record):
            _fail(record, fault, "give the node the attributes that its op has")
        return
    try:
        spec = op_spec(record.op)
    except RetiariiError as error:
        _fail(record, error.cause, error.fix or "use an op of the table")
    if spec.kind == "module" and not record.path:
        _fail(record, "a module op has no path", "give it the path that owns its parameters")


def _check_types(graph: Graph, record: NodeRecord) -> None:
    if record.op == "opaque":
        return  # it may return no tensors: numbers, or None
    if record.op in _HOLDERS:
        if not record.types:
            _fail(record, "it has no type", "write the types of what it makes")
        return
    try:
        types, result = infer(
            record.op, record.attrs, graph.input_types(record), graph.context.types
        )
    except GraphError as error:
        _fail(record, error.cause, error.fix or "correct the attributes or the inputs")
    if types != record.types:
        _fail(
            record,
            f"its types are {_shown(record.types)}, and {record.op} of "
            f"{_shown(graph.input_types(record)) or 'nothing'} makes {_shown(types)}",
            "correct the types, the attributes or the inputs",
        )
    if result != record.result:
        _fail(
            record,
            f"it returns {record.result!r}, and {record.op} returns {result!r}",
            "correct the structure of its result",
        )


def _check_owner(record: NodeRecord, owners: dict[str, NodeRecord]) -> None:
    if record.path is None:
        return
    first = owners.setdefault(record.path, record)
    if first is not record and _making(first) != _making(record):
        _fail(
            record,
            f"it shares module {record.path!r} with {first.name!r}, whose op or attributes differ",
            "give it a path of its own, or equal attributes",
        )


def _making(record: NodeRecord) -> tuple[str, Attrs, bool]:
    """What says which module it is: all but the arguments of the call."""
    if record.op == "opaque":
        return record.op, Attrs(), record.fresh
    of_call = op_spec(record.op).forward
    return (
        record.op,
        Attrs({k: v for k, v in record.attrs.items() if k not in of_call}),
        record.fresh,
    )


def _check_outputs(graph: Graph, seen: Mapping[str, NodeRecord]) -> None:
    refs = graph.output_refs()
    for ref in refs:
        maker = seen.get(ref.node)
        if maker is None or not 0 <= ref.index < len(maker.types):
            raise GraphError(
                f"the graph returns {ref.node!r}[{ref.index}], which nothing makes",
                where="the graph's outputs",
                fix="return a value of a node that is in the graph",
            )
    structure = Result(0) if graph.output_structure is None else graph.output_structure
    named = {leaf.index for leaf in leaves(structure) if isinstance(leaf, Result)}
    if named != set(range(len(refs))):
        raise GraphError(
            f"the structure returned names outputs {sorted(named)}, and there are {len(refs)}",
            where="the graph's outputs",
            fix="let output_structure have Result(i) for each output i",
        )


def _check_forward(graph: Graph) -> None:
    params = graph.context.forward.params
    found = [leaf.index for _, s in params for leaf in leaves(s) if isinstance(leaf, Result)]
    count = len(graph.inputs)
    if sorted(set(found)) != list(range(count)):
        raise GraphError(
            f"forward's parameters hold inputs {sorted(set(found))}, and there are {count}",
            where="the graph's inputs",
            fix="let each input stand in one of forward's parameters",
        )
    shapes = [node.record.types[0].shape for node in graph.inputs]
    for size in graph.sizes:
        if not (0 <= size.input < count and 0 <= size.dim < len(shapes[size.input])):
            raise GraphError(
                f"dimension {size.dim} of input {size.input} has a fixed size, and is not there",
                where="what the graph says is fixed",
                fix=f"name one of the {count} inputs and one of its dimensions, counted from 0",
            )


# --- structural nodes ------------------------------------------------------------------------


def _input(_: Graph, record: NodeRecord) -> Iterator[str]:
    if record.inputs or record.attrs:
        yield "an input reads nothing and has no attributes"


def _held(extra: str) -> Callable[[Graph, NodeRecord], Iterator[str]]:
    def check(_: Graph, record: NodeRecord) -> Iterator[str]:
        attrs: Attrs = record.attrs
        missing = [key for key in ("shape", "dtype", extra) if key not in attrs]
        if missing:
            yield f"a {record.op} has an attribute {missing[0]!r}"
        elif record.inputs:
            yield f"a {record.op} reads nothing"
        elif record.types != (TensorType(tuple(attrs["shape"]), attrs["dtype"]),):
            yield f"its type is {_shown(record.types)}, and its shape {attrs['shape']}"
        if not record.path:
            yield f"a {record.op} has the path of its state_dict key"

    return check


def _constant(_: Graph, record: NodeRecord) -> Iterator[str]:
    if not isinstance(record.attrs.get("key"), str):
        yield "a constant has a key"
    elif record.inputs:
        yield "a constant reads nothing"


def _opaque(_: Graph, record: NodeRecord) -> Iterator[str]:
    if not isinstance(record.attrs.get("reason"), str):
        yield "an opaque node has a reason"
    elif not isinstance(record.path, str):
        yield "an opaque node has the path of its module"


_HOLDERS = frozenset({"input", "parameter", "buffer", "constant"})
_STRUCTURAL: Mapping[str, Callable[[Graph, NodeRecord], Iterator[str]]] = {
    "input": _input,
    "parameter": _held("requires_grad"),
    "buffer": _held("persistent"),
    "constant": _constant,
    "opaque": _opaque,
}


def _shown(types: Any) -> str:
    return ", ".join(map(str, types))


def _fail(record: NodeRecord, cause: str, fix: str) -> NoReturn:
    place = f"node {record.name!r}" + (f" ({record.where})" if record.where else "")
    raise GraphError(f"{place}: {cause}", where=place, fix=fix)
