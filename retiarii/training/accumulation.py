"""Which batches make one optimizer step, and how much each counts in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """One batch's part of an optimizer step.

    Attributes:
        weight: what its loss is multiplied by.
        begins: whether it is the first of its step.
        ends: whether it is the last of its step.
    """

    weight: float
    begins: bool
    ends: bool


def shares(sizes: Sequence[int], every: int, summed: bool) -> tuple[Share, ...]:
    """The shares of an epoch's batches.

    The step of ``every`` batches is that of one batch of all their samples: a loss that is a mean
    counts by its batch's part of the samples, one that is a sum counts whole. What is left over at
    the end of an epoch makes a step too.

    Args:
        sizes: samples in each batch.
        every: batches a step.
        summed: whether a batch's loss is a sum over its samples.
    """
    found = []
    for start in range(0, len(sizes), every):
        group = sizes[start : start + every]
        total = sum(group)
        for index, size in enumerate(group):
            weight = 1.0 if summed or len(group) == 1 else size / total
            found.append(Share(weight, index == 0, index == len(group) - 1))
    return tuple(found)
