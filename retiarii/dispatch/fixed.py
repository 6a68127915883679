"""Policies that ask no clock: what runs with what follows from the trials alone."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from retiarii.dispatch.state import Action, Launch, State


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
        idle = state.idle()
        cohorts: list[list[int]] = []
        filling: dict[Hashable, list[int]] = {}  # kin -> the cohort that takes in more of it
        full = 0
        for each in state.waiting:
            if full == len(idle):
                break
            cohort = filling.get(each.kin)
            if cohort is None:
                if len(cohorts) == len(idle):
                    continue
                cohort = []
                cohorts.append(cohort)
                if each.kin is not None:
                    filling[each.kin] = cohort
            cohort.append(each.number)
            if each.kin is None or len(cohort) == self.most:
                filling.pop(each.kin, None)
                full += 1
        return tuple(
            Launch(device.name, tuple(cohort))
            for device, cohort in zip(idle, cohorts, strict=False)
        )
