"""`Median`: a trial ends that is worse than half of the earlier ones were by then."""

from __future__ import annotations

from typing import Any, ClassVar

from retiarii.schedulers.base import Curve, Known, Scheduler, checked


class Median(Scheduler):
    """The median stopping rule (Golovin et al., Google Vizier: A Service for Black-Box
    Optimization, KDD 2017).

    After each step a trial ends if its best score so far is worse than the median, over the earlier
    trials that got this far, of their mean score up to this step.

    Args:
        grace: steps that every trial gets.
        least: earlier trials that there must be before anything is stopped.
    """

    name: ClassVar[str] = "median"

    def __init__(self, *, grace: int = 1, least: int = 5) -> None:
        self.grace: int = checked(self.name, "grace", grace, 1)
        self.least: int = checked(self.name, "least", least, 1)

    def stops(self, number: int, curve: Curve, known: Known) -> bool:  # noqa: ARG002
        step = curve[-1][0]
        if step < self.grace:
            return False
        means = known.means(step)
        if len(means) < self.least:
            return False
        half = len(means) // 2
        middle = means[half] if len(means) % 2 else (means[half - 1] + means[half]) / 2
        return max(score for _, score in curve) < middle

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "grace": self.grace, "least": self.least}
