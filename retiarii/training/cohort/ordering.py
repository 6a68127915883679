"""Which members come first where not all of them fit one cohort: those that share most."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from retiarii.ir.node import NodeRecord
from retiarii.training.cohort.member import Member


class Ordering:
    """Members by what their models have in common: equal calls on equal types become one.

    Args:
        members: compatible, with graphs that are known.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._numbers = {id(member): i for i, member in enumerate(members)}
        self._common = _in_common([_calls(member) for member in members])

    def alike_first(self, members: Sequence[Member]) -> list[Member]:
        """The first member, then always the one that has most in common with those before it.

        Where several have the same, the first of them: the order is a function of the models.
        """
        numbers = np.array([self._numbers[id(member)] for member in members])
        common = self._common[np.ix_(numbers, numbers)]
        total = np.zeros(len(members))
        order, at = [], 0
        for _ in members:
            order.append(members[at])
            total += common[at]
            total[at] = -np.inf
            at = int(total.argmax())
        return order


def _calls(member: Member) -> list[Hashable]:
    assert member.graph is not None
    records = member.graph.records()
    return [_call(record) for record in records if record.op not in ("input", "buffer")]


def _call(record: NodeRecord) -> Hashable:
    return record.op, record.attrs, record.types


def _in_common(members: Sequence[Sequence[Hashable]]) -> np.ndarray[Any, Any]:
    """For any two, how many of their calls are equal, as a part of the longer one's."""
    kinds: dict[Hashable, int] = {}
    rows = [[kinds.setdefault(call, len(kinds)) for call in calls] for calls in members]
    counts = np.zeros((len(rows), len(kinds)), dtype=np.int32)
    for row, found in zip(counts, rows, strict=True):
        np.add.at(row, found, 1)
    lengths = np.maximum(counts.sum(1), 1)
    both = np.stack([np.minimum(row, counts).sum(1) for row in counts])
    shares: np.ndarray[Any, Any] = both / np.maximum(lengths[:, None], lengths[None, :])
    return shares
