"""What each group reads: slices of stacked values, and who needs which slice of a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from retiarii.optimizer.forest import SHARED, Port
from retiarii.optimizer.layout import pieces
from retiarii.optimizer.plan import Plan
from retiarii.optimizer.storage import Storage


class Source(NamedTuple):
    """A stacked tensor: a result of a group, or a stack of leaves (group -1 - stack)."""

    group: int
    result: int = 0

    @property
    def stack(self) -> int | None:
        return -1 - self.group if self.group < 0 else None


@dataclass(frozen=True, slots=True)
class Piece:
    """Members ``start`` to ``stop - 1`` of a source."""

    source: Source
    start: int
    stop: int


@dataclass(frozen=True)
class Routes:
    """Where everything that a plan reads lies.

    Attributes:
        inputs: (group, input) -> the pieces that make it, in order; one for shared inputs.
        outputs: the pieces of each output stack.
        needs: source -> the distinct (start, stop) that are read of it, in order.
        last: source -> the last group that reads it; outputs count as behind all groups.
    """

    inputs: Mapping[tuple[int, int], tuple[Piece, ...]]
    outputs: tuple[tuple[Piece, ...], ...]
    needs: Mapping[Source, tuple[tuple[int, int], ...]]
    last: Mapping[Source, int]


def route(plan: Plan, storage: Storage) -> Routes:
    """Works out what every group reads."""
    items = plan.forest.items
    at: dict[int, tuple[int, int]] = {}
    for leaf, (stack, place) in storage.of(plan.forest).items():
        at[leaf] = (-1 - stack, place)
    for g, group in enumerate(plan.groups):
        for place, m in enumerate(group.members):
            at[m] = (g, place)

    def found(ports: list[Port]) -> tuple[Piece, ...]:
        sources = ((*_head(at, p), at[p.item][1]) for p in ports)
        return tuple(Piece(Source(v, r), a, b) for v, r, a, b in pieces(sources))

    inputs: dict[tuple[int, int], tuple[Piece, ...]] = {}
    needs: dict[Source, set[tuple[int, int]]] = {}
    last: dict[Source, int] = {}

    def note(read: tuple[Piece, ...], when: int) -> None:
        for piece in read:
            needs.setdefault(piece.source, set()).add((piece.start, piece.stop))
            last[piece.source] = max(when, last.get(piece.source, -1))

    for g, group in enumerate(plan.groups):
        for j, shared in enumerate(group.shared):
            ports = [items[m].inputs[j] for m in group.members]
            if _is_input(plan, ports[0]):
                continue
            inputs[g, j] = found(ports[:1] if shared else ports)
            note(inputs[g, j], g)
    outputs = []
    for out in plan.outputs:
        shared = items[out.ports[0].item].owner == SHARED
        read = (
            () if _is_input(plan, out.ports[0]) else found(list(out.ports[: 1 if shared else None]))
        )
        outputs.append(read)
        note(read, len(plan.groups))
    return Routes(inputs, tuple(outputs), {s: tuple(sorted(r)) for s, r in needs.items()}, last)


def _head(at: Mapping[int, tuple[int, int]], port: Port) -> tuple[int, int]:
    return at[port.item][0], port.result


def _is_input(plan: Plan, port: Port) -> bool:
    leaf = plan.forest.items[port.item].leaf
    return leaf is not None and leaf.kind == "input"
