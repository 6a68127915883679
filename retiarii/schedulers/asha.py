"""`Asha`: successive halving against all that got to a rung so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from retiarii.schedulers.base import Curve, Known, Scheduler, best_of, checked


class Asha(Scheduler):
    """Asynchronous successive halving (Li et al., A System for Massively Parallel Hyperparameter
    Tuning, MLSys 2020).

    Rungs are at ``grace``, ``grace * eta``, ``grace * eta**2``, ... epochs. At a rung a trial goes
    on if it is among the best ``1 / eta`` of all that got there: those of its own cohort and those
    of the cohorts before it. No cohort waits for a later one. In the paper a trial that paused may
    also go on when many worse ones have followed; here a cohort is left for good once it is told.

    Where trials cannot pause, a trial ends at a rung unless it is among the best ``1 / eta`` of
    itself and the earlier trials that got there.

    Args:
        eta: one in ``eta`` goes on.
        grace: epochs that every trial gets.
    """

    name: ClassVar[str] = "asha"

    def __init__(self, *, eta: int = 3, grace: int = 1) -> None:
        self.eta: int = checked(self.name, "eta", eta, 2)
        self.grace: int = checked(self.name, "grace", grace, 1)

    def rung(self, number: int, after: int) -> int | None:  # noqa: ARG002
        rung = self.grace
        while rung <= after:
            rung *= self.eta
        return rung

    def keep(self, rung: int, group: Mapping[int, float], known: Known) -> frozenset[int]:
        earlier = known.at(rung).values()
        places = max(1, (len(earlier) + len(group)) // self.eta)
        first = best_of(group, places)
        # Of equals the earlier ones go on.
        ahead = {n: sum(each >= group[n] for each in earlier) for n in first}
        ranked = sorted(first, key=lambda n: (-group[n], n))
        return frozenset(n for place, n in enumerate(ranked) if place + ahead[n] < places)

    def stops(self, number: int, curve: Curve, known: Known) -> bool:
        if self.setting.pauses:
            return False
        rung = crossed(self, number, curve)
        return rung is not None and number not in self.keep(rung, {number: curve[-1][1]}, known)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "eta": self.eta, "grace": self.grace}


def crossed(scheduler: Scheduler, number: int, curve: Curve) -> int | None:
    """The last rung that the last step of a curve got to, if the step before had not."""
    before = curve[-2][0] if len(curve) > 1 else 0
    rung, found = scheduler.rung(number, before), None
    while rung is not None and rung <= curve[-1][0]:
        rung, found = scheduler.rung(number, rung), rung
    return found
