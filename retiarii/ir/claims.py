"""Values inside a graph whose sizes must stay as they are, and what that fixes of its inputs.

A module whose Python acted on the sizes of what it got (`FixedSize`) may be put anywhere in a
graph. Which sizes of the graph's inputs these follow is worked out when it is put there by an edit,
and when somebody asks (`Graph.sizes`) where choices are resolved at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from retiarii.ir.context import FixedSize
from retiarii.ir.node import NodeRecord
from retiarii.ir.reach import Reach
from retiarii.ir.types import Ref


@dataclass(frozen=True, slots=True)
class Claim:
    """A dimension of a value must have the size that it has.

    Attributes:
        ref: the value.
        dim: which of its dimensions.
        where: ``file:line`` where the size was read.
    """

    ref: Ref
    dim: int
    where: str | None = None


def claims_of(sizes: Iterable[FixedSize], refs: Sequence[Ref]) -> Iterator[Claim]:
    """What a graph's sizes claim of the values that are to be its inputs."""
    return (Claim(refs[size.input], size.dim, size.where) for size in sizes)


def reach_of(
    inputs: Iterable[NodeRecord], batch: int, record_of: Callable[[str], NodeRecord]
) -> Reach:
    """Where sizes in a graph come from.

    Args:
        inputs: the graph's.
        batch: the example's batch size; what follows it is not fixed.
        record_of: finds the record of a node by its name.
    """
    starts: list[tuple[NodeRecord, frozenset[int]]] = []
    for record in inputs:
        shape = record.types[0].shape
        follows = {0} if shape[:1] == (batch,) else set()
        starts.append((record, frozenset(range(len(shape))) - follows))
    return Reach(starts, record_of)


def bound(
    sizes: tuple[FixedSize, ...], claims: Iterable[Claim], reach: Reach
) -> tuple[FixedSize, ...]:
    """The sizes of inputs that are fixed, with those that claims add."""
    found = {(size.input, size.dim): size for size in sizes}
    for claim in claims:
        for at in reach.of(claim.ref, claim.dim):
            found.setdefault(at, FixedSize(*at, claim.where))
    return tuple(found[at] for at in sorted(found))
