"""Widths that follow: the far ends of residual branches, when what they all start from changed.

In ``x + f(x)``, a wider ``x`` widens what ``f`` reads, and not what it makes. Where an operation
that joins branches fails for that, the layers that make the narrow side get the new width too, if
they read (over whatever detours) from what makes the wide one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from retiarii.ir.edit.axis import Axis
from retiarii.ir.edit.channels import links_back
from retiarii.ir.edit.widths import makes_axis, width_name
from retiarii.ir.node import NodeRecord
from retiarii.ir.ops import op_spec
from retiarii.ir.types import Ref, TensorType

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph

Types = tuple[TensorType, ...]
# (maker of a width, axis of its result) -> the new size
Widths = dict[tuple[str, int], int]


def joins_branches(record: NodeRecord) -> bool:
    """Whether the node needs inputs of equal shapes (all but along one axis, for ``cat``)."""
    elementwise = op_spec(record.op).elementwise or record.op in ("where", "stack")
    return len(record.inputs) > 1 and (elementwise or record.op == "cat")


def widths_to_follow(graph: Graph, record: NodeRecord, old: Types, new: Types) -> Widths:
    """The makers of the sides that lag behind, and the size that each should have.

    Args:
        graph: the graph, settled up to this node.
        record: the node whose inputs do not agree.
        old: types of its inputs that did.
        new: types of its inputs now.

    Returns:
        Nothing where a lagging side cannot follow, or does not come from what changed.
    """
    if not joins_branches(record):
        return {}
    widths: Widths = {}
    for end, size, moved, lagging in _disagreements(record, old, new):
        roots = _roots(graph, record, new, moved, end)
        for i in lagging:
            at = Axis(record.inputs[i].index, len(new[i].shape) - end)
            makers = _makers(graph, record.inputs[i].node, at)
            if makers is None or not all(_comes_from(graph, name, roots) for name, _ in makers):
                return {}
            widths.update(dict.fromkeys(makers, size))
    return widths


def _disagreements(
    record: NodeRecord, old: Types, new: Types
) -> Iterator[tuple[int, int, list[int], list[int]]]:
    """(axis from the end, new size, inputs that have it, inputs that do not yet)."""
    if [len(t.shape) for t in old] != [len(t.shape) for t in new]:
        return
    rank = max(len(t.shape) for t in new)
    along = record.attrs.get("dim", 0) % rank if record.op == "cat" else None
    for end in range(1, rank + 1):
        if along == rank - end:
            continue
        wide = [i for i, t in enumerate(old) if len(t.shape) >= end and t.shape[-end] != 1]
        if len({old[i].shape[-end] for i in wide}) != 1:
            continue
        before = old[wide[0]].shape[-end]
        sizes = {new[i].shape[-end] for i in wide} - {before}
        moved = [i for i in wide if new[i].shape[-end] != before]
        lagging = [i for i in wide if new[i].shape[-end] == before]
        if len(sizes) == 1 and lagging:
            yield end, sizes.pop(), moved, lagging


def _roots(
    graph: Graph, record: NodeRecord, new: Types, moved: Sequence[int], end: int
) -> set[str]:
    roots: set[str] = set()
    for i in moved:
        ref = record.inputs[i]
        roots.add(ref.node)
        at = Axis(ref.index, len(new[i].shape) - end)
        roots.update(name for name, _ in _makers(graph, ref.node, at) or ())
    return roots


def _makers(graph: Graph, name: str, at: Axis) -> list[tuple[str, int]] | None:
    """The layers and raw parameters whose own width the axis is; ``None`` if others have a say."""
    makers: list[tuple[str, int]] = []
    seen: set[tuple[str, Axis]] = set()
    stack = [(name, at)]
    while stack:
        place = stack.pop()
        if place in seen:
            continue
        seen.add(place)
        name, at = place
        record = graph.record(name)
        _note(graph, name)
        if record.op == "parameter" or (record.op != "buffer" and makes_axis(record, at)):
            width = width_name(record)
            if width and record.attrs[width] != record.types[at.index].shape[at.axis]:
                return None  # two directions of a recurrent layer
            makers.append((name, at.axis))
            continue
        types = graph.input_types(record)
        found = links_back(record, types, at, graph.context.batch) if types else None
        plain = {link.input.index: link for link in found or () if link.plain}
        if not found or plain.keys() != {link.input.index for link in found}:
            return None
        for link in plain.values():
            ref: Ref = record.inputs[link.input.index]
            stack.append((ref.node, Axis(ref.index, link.input.axis)))
    return makers


def _comes_from(graph: Graph, name: str, roots: set[str]) -> bool:
    if graph.record(name).op == "parameter":
        return True
    first = min(graph.order.key(root) for root in roots)
    stack, seen = [name], {name}
    while stack:
        for ref in graph.record(stack.pop()).inputs:
            if ref.node in roots:
                return True
            if ref.node not in seen and graph.order.key(ref.node) > first:
                seen.add(ref.node)
                _note(graph, ref.node)
                stack.append(ref.node)
    return False


def _note(graph: Graph, name: str) -> None:
    for facet in ("op", "attrs", "types", "arity", "users"):
        graph.reads.note(facet, name)
