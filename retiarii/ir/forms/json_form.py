"""The JSON form of a graph, which round-trips it exactly; `docs/ir.md` documents it.

Weights and opaque modules are not in it, as they are not in the text form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from retiarii.errors import GraphError
from retiarii.ir.context import FixedSize, GraphContext, InputSpec
from retiarii.ir.forms.json_schema import (
    FORMAT,
    VERSION,
    ConstantForm,
    GraphForm,
    NodeForm,
    RefForm,
    TypeForm,
)
from retiarii.ir.forms.json_values import fail, read_value, write_value
from retiarii.ir.forms.text_print import INLINE_LIMIT
from retiarii.ir.infer import TypeCache
from retiarii.ir.node import NodeRecord
from retiarii.ir.types import Attrs, Ref, Result, TensorType, leaves

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph


# --- writing -----------------------------------------------------------------------------------


def to_json(graph: Graph, *, indent: int | None = 2) -> str:
    """The graph as JSON text, without weights.

    Args:
        graph: any graph that verifies.
        indent: spaces of indentation; ``None`` for one line.

    Returns:
        Text from which `from_json` makes a graph with equal records.
    """
    context = graph.context
    spec = context.forward
    records = list(graph.records())
    keys = dict.fromkeys(r.attrs["key"] for r in records if r.op == "constant")
    whole = {
        "format": FORMAT,
        "version": VERSION,
        "batch": context.batch,
        "batch_input": context.batch_input,
        "training": context.training,
        "forward": [
            {
                "name": name,
                "value": write_value(structure),
                **({"keyword_only": True} if name in spec.keyword_only else {}),
            }
            for name, structure in spec.params
        ],
        "fixed": sorted(context.fixed),
        "sizes": [
            {"input": size.input, "dim": size.dim, "where": size.where} for size in graph.sizes
        ],
        "frozen": sorted(context.frozen),
        "ties": dict(context.ties),
        "modes": dict(context.modes),
        "constants": {
            key: _constant(context.constants[key])
            for key in keys
            if key in context.constants and _is_inline(context.constants[key])
        },
        "nodes": [_node(record) for record in records],
        "outputs": [_ref(ref) for ref in graph.output_refs()],
        "returns": write_value(graph.output_structure),
    }
    return json.dumps(whole, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def _node(record: NodeRecord) -> dict[str, Any]:
    fields = {
        "inputs": [_ref(ref) for ref in record.inputs],
        "attrs": {key: write_value(value) for key, value in record.attrs.items()},
        "types": [_type(kind) for kind in record.types],
        "path": record.path,
        "fresh": record.fresh,
        "no_grad": record.no_grad,
        "where": record.where,
    }
    # A path may be empty text: a layer that is the whole model.
    said = {k: v for k, v in fields.items() if v not in (None, False, [], {})}
    if record.result is not None:
        said["result"] = write_value(record.result)
    return {"name": record.name, "op": record.op, **said}


def _ref(ref: Ref) -> dict[str, Any]:
    return {"node": ref.node, "index": ref.index} if ref.index else {"node": ref.node}


def _type(kind: TensorType) -> dict[str, Any]:
    return {"dtype": str(kind.dtype).removeprefix("torch."), "shape": list(kind.shape)}


def _constant(value: torch.Tensor) -> dict[str, Any]:
    def frozen(part: Any) -> Any:
        return [frozen(p) for p in part] if isinstance(part, list) else write_value(part)

    numbers = frozen(value.detach().cpu().tolist())
    return {"type": _type(TensorType.of(value)), "values": numbers}


def _is_inline(value: torch.Tensor) -> bool:
    return value.numel() <= INLINE_LIMIT and not value.is_complex() and not value.is_meta


# --- reading -----------------------------------------------------------------------------------


def from_json(text: str) -> Graph:
    """The graph that `to_json` wrote.

    Args:
        text: JSON of a schema version that this retiarii knows.

    Returns:
        A graph that verifies, without weights.

    Raises:
        GraphError: ``where`` is the path in the JSON (``$.nodes[3].types[0].dtype``) of what is
            not right, or the node that does not verify.
    """
    from retiarii.ir.graph import Graph
    from retiarii.ir.verify import verify

    try:
        form = GraphForm.model_validate_json(text)
    except ValidationError as error:
        raise _explained(error) from None
    records: dict[str, NodeRecord] = {}
    for i, node in enumerate(form.nodes):
        if node.name in records:
            fail(f"two nodes are called {node.name!r}", f"$.nodes[{i}].name", "rename one of them")
        records[node.name] = _read_node(node, f"$.nodes[{i}]", records)
    outputs = _read_refs(form.outputs, "$.outputs", records)
    context = GraphContext(
        forward=_read_forward(form, records),
        batch=form.batch,
        batch_input=form.batch_input,
        training=form.training,
        ties=form.ties,
        constants={k: _read_constant(c, f"$.constants.{k}") for k, c in form.constants.items()},
        modes=form.modes,
        frozen=frozenset(form.frozen),
        fixed=frozenset(form.fixed),
        sizes=tuple(FixedSize(size.input, size.dim, size.where) for size in form.sizes),
        types=TypeCache(form.batch),
    )
    structure = read_value(form.returns, "$.returns")
    _check_results(structure, len(outputs), "$.returns")
    graph = Graph.build(records.values(), outputs, structure, context)
    verify(graph)
    return graph


def _explained(error: ValidationError) -> GraphError:
    """The first thing that is wrong, with its path."""
    first = error.errors(include_url=False)[0]
    place = "$" + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"])
    others = error.error_count() - 1
    cause = str(first["msg"]).removeprefix("Value error, ")
    return GraphError(
        f"the JSON is not a graph: {cause[:1].lower()}{cause[1:]}"
        + (f" (and {others} more)" if others else ""),
        where=place,
        fix="compare it with what graph.to_json() writes; docs/ir.md has the schema",
    )


def _read_node(node: NodeForm, place: str, above: Mapping[str, NodeRecord]) -> NodeRecord:
    attrs = {key: read_value(v, f"{place}.attrs.{key}") for key, v in node.attrs.items()}
    return NodeRecord(
        node.name,
        node.op,
        _read_refs(node.inputs, f"{place}.inputs", above),
        Attrs(attrs),
        tuple(map(_read_type, node.types)),
        read_value(node.result, f"{place}.result"),
        node.path,
        node.fresh,
        node.no_grad,
        node.where,
    )


def _read_refs(
    refs: tuple[RefForm, ...], place: str, above: Mapping[str, NodeRecord]
) -> tuple[Ref, ...]:
    for i, ref in enumerate(refs):
        made = above.get(ref.node)
        if made is None:
            fail(
                f"{ref.node!r} is read, but no node above makes it",
                f"{place}[{i}].node",
                "put the nodes in topological order",
            )
        if ref.index >= len(made.types):
            fail(
                f"{ref.node!r} has no result number {ref.index}",
                f"{place}[{i}].index",
                f"it makes {len(made.types)}",
            )
    return tuple(Ref(ref.node, ref.index) for ref in refs)


def _read_type(form: TypeForm) -> TensorType:
    return TensorType(form.shape, getattr(torch, form.dtype))


def _read_forward(form: GraphForm, records: Mapping[str, NodeRecord]) -> InputSpec:
    inputs = sum(record.op == "input" for record in records.values())
    params: list[tuple[str, Any]] = []
    for i, parameter in enumerate(form.forward):
        place = f"$.forward[{i}].value"
        structure = read_value(parameter.value, place)
        _check_results(structure, inputs, place)
        params.append((parameter.name, structure))
    return InputSpec(tuple(params), frozenset(p.name for p in form.forward if p.keyword_only))


def _check_results(structure: Any, number: int, place: str) -> None:
    for leaf in leaves(structure):
        if isinstance(leaf, Result) and leaf.index >= number:
            fail(f"there is no tensor number {leaf.index}, but {number} in all", place)


def _read_constant(form: ConstantForm, place: str) -> torch.Tensor:
    kind = _read_type(form.type)
    numbers = read_value(form.values, f"{place}.values")
    try:
        return torch.tensor(numbers, dtype=kind.dtype).reshape(kind.shape)
    except (TypeError, ValueError, RuntimeError) as error:
        fail(f"the numbers do not make a {kind}: {error}", f"{place}.values")
