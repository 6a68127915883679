"""What each group reads: slices of stacked values, and who needs which slice of a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from retiarii.optimizer.forest import SHARED, Port
from retiarii.optimizer.layout import pieces
from retiarii.optimizer.plan import Plan
from retiarii.optimizer.storage import Storage
from retiarii.optimizer.sums import terms


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


@dataclass(frozen=True, slots=True)
class Read:
    """What makes an input of a group.

    Attributes:
        first: the pieces that make it, in order.
        added: what is added to these: (first member, piece), in order.
    """

    first: tuple[Piece, ...]
    added: tuple[tuple[int, Piece], ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it is one slice, as it lies."""
        return len(self.first) == 1 and not self.added

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return (*self.first, *(piece for _, piece in self.added))

    @property
    def addends(self) -> Iterator[tuple[int, Piece]]:
        """(first member, piece) of all, in the order of addition."""
        at = 0
        for piece in self.first:
            yield at, piece
            at += piece.stop - piece.start
        yield from self.added


@dataclass(frozen=True)
class Routes:
    """Where everything that a plan reads lies.

    Attributes:
        inputs: (group, input) -> the pieces that make it, in order; one for shared inputs.
        added: (group, input) -> what is added to these: (first member, piece), in order.
        outputs: the pieces of each output stack.
        needs: source -> the distinct (start, stop) that are read of it, in order.
        last: source -> the last group that reads it; outputs count as behind all groups.
    """

    inputs: Mapping[tuple[int, int], tuple[Piece, ...]]
    added: Mapping[tuple[int, int], tuple[tuple[int, Piece], ...]]
    outputs: tuple[tuple[Piece, ...], ...]
    needs: Mapping[Source, tuple[tuple[int, int], ...]]
    last: Mapping[Source, int]

    def read(self, group: int, number: int) -> Read:
        """What makes an input of a group; nothing where that is an input of the models."""
        key = group, number
        return Read(self.inputs.get(key, ()), self.added.get(key, ()))

    def repeated(self) -> dict[Read, int]:
        """What is gathered for several groups in the same order, and the last of these."""
        readers: dict[Read, list[int]] = {}
        for g, j in self.inputs:
            read = self.read(g, j)
            if not read.whole and all(p.source.stack is None for p in read.first):
                readers.setdefault(read, []).append(g)
        return {read: max(found) for read, found in readers.items() if len(set(found)) > 1}


def route(plan: Plan, storage: Storage, sums: frozenset[int] = frozenset()) -> Routes:
    """Works out what every group reads.

    Args:
        plan: laid out.
        storage: where parameters and buffers lie.
        sums: items in no group, which are added up where they are read.
    """
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

    def rows(ports: list[Port]) -> Iterator[tuple[int, list[Port]]]:
        """The second, third ... terms, by runs of members that have one: (first member, terms)."""
        listed = [terms(p, items, sums) for p in ports]
        for row in range(1, max(map(len, listed))):
            has = [len(found) > row for found in listed]
            for wanted, run in groupby(range(len(ports)), key=has.__getitem__):
                members = list(run)
                if wanted:
                    yield members[0], [listed[m][row] for m in members]

    def more(ports: list[Port]) -> Iterator[tuple[int, Piece]]:
        for at_, own in rows(ports):
            for piece in found(own):
                yield at_, piece
                at_ += piece.stop - piece.start

    inputs: dict[tuple[int, int], tuple[Piece, ...]] = {}
    added: dict[tuple[int, int], tuple[tuple[int, Piece], ...]] = {}
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
            first = [terms(p, items, sums)[0] for p in ports]
            inputs[g, j] = found(first[:1] if shared else first)
            note(inputs[g, j], g)
            if not shared and sums:
                added[g, j] = tuple(more(ports))
                note(tuple(piece for _, piece in added[g, j]), g)
    outputs = []
    for out in plan.outputs:
        shared = items[out.ports[0].item].owner == SHARED
        read = (
            () if _is_input(plan, out.ports[0]) else found(list(out.ports[: 1 if shared else None]))
        )
        outputs.append(read)
        note(read, len(plan.groups))
    return Routes(
        inputs, added, tuple(outputs), {s: tuple(sorted(r)) for s, r in needs.items()}, last
    )


def _head(at: Mapping[int, tuple[int, int]], port: Port) -> tuple[int, int]:
    return at[port.item][0], port.result


def _is_input(plan: Plan, port: Port) -> bool:
    leaf = plan.forest.items[port.item].leaf
    return leaf is not None and leaf.kind == "input"
