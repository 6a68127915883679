"""Policies that ask no clock: what runs with what follows from the trials alone."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from retiarii.dispatch.state import Action, Launch, State, Waiting


@dataclass(frozen=True, slots=True)
class AsGiven:
    """First in, first out: cohorts exactly as they were handed in.

    Scores are then the same bits in every run, however many devices there are. Trials of a cohort
    have its ``kin`` alone. With ``most=1`` it is one model a device, which is what searches
    without merging do.

    Attributes:
        most: how many of them are trained together at most; ``None``: all.
    """

    most: int | None = None

    def __call__(self, state: State) -> tuple[Action, ...]:
        queues: dict[Hashable, list[Waiting]] = {}
        for each in state.waiting:
            key = ("alone", each.number) if each.kin is None else ("kin", each.kin)
            queues.setdefault(key, []).append(each)
        cohorts = []
        for queue in queues.values():
            size = self.most or len(queue)
            cohorts += [queue[i : i + size] for i in range(0, len(queue), size)]
        return tuple(
            Launch(device.name, tuple(each.number for each in cohort))
            for device, cohort in zip(state.idle(), cohorts, strict=False)
        )
