"""Sizes that the code wrote as numbers, set to what the channels behind them became."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from retiarii.errors import GraphError
from retiarii.ir.edit.coupling import Coupling, Place
from retiarii.ir.edit.widths import FILLED
from retiarii.ir.types import BatchSize

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph
    from retiarii.ir.node import NodeRecord

# (record, axis of the result -> its new size, batch) -> attributes that change
Rule = Callable[["NodeRecord", Mapping[int, int], int], dict[str, Any]]


def new_sizes(
    graph: Graph, coupling: Coupling, sizes: Mapping[Place, int]
) -> dict[str, dict[str, Any]]:
    """The attributes of views, splits and their like, for the sizes of what goes through them.

    Args:
        graph: the graph.
        coupling: what changes.
        sizes: place -> its new size.

    Returns:
        node -> attributes that change.

    Raises:
        GraphError: pieces of different sizes that the code makes equal.
    """
    by_node: dict[str, dict[tuple[int, int], int]] = {}
    for place in coupling.channels:
        by_node.setdefault(place.node, {})[place.result, place.axis] = sizes[place]
    changes: dict[str, dict[str, Any]] = {}
    for name, made in by_node.items():
        record = graph.settled(name)
        rule = _RULES.get(record.op)
        if rule is not None:
            axes = {axis: size for (_, axis), size in made.items()}
            changes[name] = rule(record, axes, graph.context.batch)
        elif record.op in ("split", "chunk"):
            changes[name] = _pieces(record, made)
    return {name: attrs for name, attrs in changes.items() if attrs}


def _literal(name: str) -> Rule:
    def rule(record: NodeRecord, made: Mapping[int, int], batch: int) -> dict[str, Any]:
        sizes = record.attrs.get(name)
        if not isinstance(sizes, tuple) or len(sizes) != len(record.types[0].shape):
            return {}
        return {name: tuple(_size(s, made.get(i), batch) for i, s in enumerate(sizes))}

    return rule


def _size(old: Any, new: int | None, batch: int) -> Any:
    if new is None or old == -1:
        return old
    if isinstance(old, BatchSize):
        return BatchSize(new // batch) if old.divisor == 1 and not old.offset else old
    return new if isinstance(old, int) else old


def _unflatten(name: str) -> Rule:
    def rule(record: NodeRecord, made: Mapping[int, int], batch: int) -> dict[str, Any]:
        sizes, at = record.attrs[name], record.attrs["dim"]
        start = at % (len(record.types[0].shape) - len(sizes) + 1)
        return {name: tuple(_size(s, made.get(start + i), batch) for i, s in enumerate(sizes))}

    return rule


def _pieces(record: NodeRecord, made: Mapping[tuple[int, int], int]) -> dict[str, Any]:
    """Pieces of a split have the sizes of what they hold."""
    along = record.attrs.get("dim", 0) % len(record.types[0].shape)
    if not any(axis == along for _, axis in made):
        return {}
    sizes = tuple(made.get((i, along), k.shape[along]) for i, k in enumerate(record.types))
    if record.op == "split":
        return {"split_size_or_sections": sizes}
    if len(set(sizes)) > 1:
        raise GraphError(
            f"{record.name!r} splits its channels evenly, and the pieces would have {list(sizes)}",
            where=f"node {record.name!r}",
            fix="change each piece by the same number of channels",
        )
    return {}


_RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        **dict.fromkeys(FILLED, _literal("size")),
        "view": _literal("size"),
        "reshape": _literal("shape"),
        "expand": _literal("size"),
        "broadcast_to": _literal("size"),
        "unflatten": _unflatten("sizes"),
        "Unflatten": _unflatten("unflattened_size"),
    }
)
