"""Sums that are computed where they are read: no group of their own, and no copy afterwards.

Additions cost what a copy costs. A sum whose members would be gathered for one reader is not
written first: the reader's gather adds up. So chains of additions become sums of several terms, and
sums in unlike branches become one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from retiarii.optimizer.forest import SHARED, Item, Port
from retiarii.optimizer.plan import Group, Plan


class _Read(NamedTuple):
    """Where an item is read: input ``j`` of group ``g``."""

    group: int
    input: int


def inlined(plan: Plan) -> tuple[Plan, frozenset[int]]:
    """The plan without the sums that are computed where they are read, and these sums."""
    found = inlinable(plan, tuple)
    if not found:
        return plan, found
    groups = (
        replace(group, members=tuple(m for m in group.members if m not in found))
        for group in plan.groups
    )
    return replace(plan, groups=tuple(g for g in groups if g.members)), found


def inlinable(
    plan: Plan, listed: Callable[[Iterable[Port]], Collection[Port]] = frozenset
) -> frozenset[int]:
    """The sums that can be computed where they are read.

    Args:
        plan: what runs.
        listed: what has to be equal of the inputs of all that read a sum: a tuple where members
            are in order, a set where their order is still to be found.
    """
    items = plan.forest.items
    reads: dict[int, list[_Read]] = {}
    lists: dict[_Read, Collection[Port]] = {}
    for g, group in enumerate(plan.groups):
        for j in range(len(group.shared)):
            ports = [items[m].inputs[j] for m in group.members]
            lists[_Read(g, j)] = listed(ports)
            for port in ports:
                reads.setdefault(port.item, []).append(_Read(g, j))
    of = {m: g for g, group in enumerate(plan.groups) for m in group.members}
    returned = {p.item for out in plan.outputs for p in out.ports}
    return frozenset(
        m
        for group in plan.groups
        if is_sum(items[group.members[0]], items) and not _aligned(group, plan, of)
        for m in group.members
        if m not in returned and _once(plan, group, reads.get(m, ()), lists)
    )


def is_sum(item: Item, items: Sequence[Item]) -> bool:
    """Whether an item is a sum of two of the model's own tensors, of the result's type."""
    call = item.call
    return (
        item.leaf is None
        and call.op == "add"
        and item.owner != SHARED
        and not item.no_grad
        and not call.attrs
        and call.inputs == (call.results[0],) * 2
        and call.results[0].dtype.is_floating_point
        and all(items[p.item].owner != SHARED and items[p.item].leaf is None for p in item.inputs)
    )


def _aligned(group: Group, plan: Plan, of: Mapping[int, int]) -> bool:
    """Whether a group adds up whole results of other groups: it takes no copy as it is."""
    for j in range(2):
        reads = {plan.forest.items[m].inputs[j].item for m in group.members}
        (source, *others) = {of[item] for item in reads}
        if others or len(plan.groups[source].members) != len(reads):
            return False
    return True


def _once(
    plan: Plan, own: Group, reads: Sequence[_Read], lists: Mapping[_Read, Collection[Port]]
) -> bool:
    """Whether all that read a sum gather the same, so that one gather serves them."""
    if not reads or any(lists[read] != lists[reads[0]] for read in reads):
        return False
    for read in reads:
        group = plan.groups[read.group]
        if len(group.members) == len(own.members) == 1:
            return False
        if group.no_grad or group.shared[read.input] or group.call.op == "opaque":
            return False
        if group.call.op == "add" and (
            read.input > 0 or not is_sum(plan.forest.items[group.members[0]], plan.forest.items)
        ):
            return False  # a + (b + c) is not (a + b) + c to the last bit
    return True


def terms(port: Port, items: Sequence[Item], sums: frozenset[int]) -> tuple[Port, ...]:
    """What is added up for a tensor, in order: itself, where it is no such sum."""
    if port.item not in sums:
        return (port,)
    left, right = items[port.item].inputs
    return (*terms(left, items, sums), *terms(right, items, sums))
