"""Which nodes of a graph run in one mode only: all that is made of them is used in that mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retiarii.ir.types import ByMode, Ref, Result, leaves

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph
    from retiarii.ir.node import NodeRecord

# Of a `by_mode` node: its first input is what training uses, its second what evaluation uses.
_SIDES = (True, False)


def sides(graph: Graph, records: Sequence[NodeRecord]) -> Mapping[str, bool]:
    """The mode of each node that runs in one only: node name -> the training flag.

    A ``by_mode`` node chooses lazily: what only one of its inputs needs runs in that mode only, as
    in the model that was parsed (random numbers are drawn where the model drew them).

    Args:
        graph: the graph.
        records: the nodes that run at all, in order.
    """
    uses: dict[str, set[bool | None]] = {}
    outputs = graph.output_refs()
    structure = Result(0) if graph.output_structure is None else graph.output_structure
    if not any(r.op == "by_mode" for r in records) and not _holds_modes(structure):
        return {}
    _returned(structure, outputs, None, uses)
    found: dict[str, bool] = {}
    for record in reversed(records):
        own = uses.get(record.name, {None})
        side = next(iter(own)) if len(own) == 1 else None
        if side is not None:
            found[record.name] = side
        for position, ref in enumerate(record.inputs):
            chosen = record.op == "by_mode" and side is None
            used = _SIDES[position] if chosen else side
            uses.setdefault(ref.node, set()).add(used)
    return found


def _holds_modes(structure: Any) -> bool:
    if isinstance(structure, ByMode):
        return True
    return isinstance(structure, tuple) and any(map(_holds_modes, structure))


def _returned(
    structure: Any,
    outputs: tuple[Ref, ...],
    side: bool | None,
    uses: dict[str, set[bool | None]],
) -> None:
    if isinstance(structure, ByMode):
        _returned(structure.training, outputs, True, uses)
        _returned(structure.evaluating, outputs, False, uses)
    elif isinstance(structure, tuple):
        for part in structure:
            _returned(part, outputs, side, uses)
    else:
        for leaf in leaves(structure):
            if isinstance(leaf, Result):
                uses.setdefault(outputs[leaf.index].node, set()).add(side)
