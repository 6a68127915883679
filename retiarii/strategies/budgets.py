"""Scores of trials that were trained for different times, made comparable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from retiarii.schedulers.base import reach
from retiarii.strategies.tried import Step


class _Told(NamedTuple):
    """A result: the curve that led to it, and the score; no score where there is none."""

    steps: tuple[Step, ...]
    curve: tuple[tuple[int, float], ...]
    score: float | None


class Budgets:
    """Results at one budget: the largest that enough trials have had.

    Where trials stop early, their last scores are of different budgets. A model of all of them
    would take what was trained for long to be good. So, as in BOHB (Falkner et al., ICML 2018),
    the results at the largest budget are learnt from that has two more observations than a model
    has parameters; a trial that went further is seen as it was then, and one that did not get
    there is left out. With too few observations at any budget it is the smallest one.
    """

    def __init__(self) -> None:
        self._curves: dict[int, list[tuple[int, float]]] = {}
        self._told: dict[int, _Told] = {}
        self._infeasible: list[tuple[Step, ...]] = []
        self._ends: dict[int, int] = {}  # how many trials ended there
        self._decisions = 0
        self.level = 0

    def note(self, number: int, step: int, score: float) -> None:
        """A score on the way; the same step may come again."""
        curve = self._curves.setdefault(number, [])
        if not curve or curve[-1][0] < step:
            curve.append((step, score))

    def infeasible(self, steps: tuple[Step, ...]) -> None:
        """A point that leads to no model."""
        self._infeasible.append(steps)

    def tell(self, number: int, steps: tuple[Step, ...], score: float | None) -> bool:
        """The end of a trial; ``None`` if it failed.

        Returns:
            Whether results are those at another budget now.
        """
        curve = tuple(self._curves.pop(number, ()))
        self._told[number] = _Told(steps, curve, score)
        if score is None or not curve:
            return False
        self._ends[curve[-1][0]] = self._ends.get(curve[-1][0], 0) + 1
        self._decisions = max(self._decisions, len(steps))
        before, self.level = self.level, self._largest()
        return before != self.level

    def value(self, number: int) -> float | None:
        """What a trial had scored at the budget; ``None`` if it failed, or did not get there."""
        told = self._told[number]
        if told.score is None:
            return None
        if not told.curve:  # it took over a score, or nobody reports any
            return None if self._ends else told.score
        return reach(told.curve, self.level)

    def failed(self, number: int) -> bool:
        """Whether a trial ended without a score."""
        return self._told[number].score is None

    def results(self) -> Iterator[tuple[tuple[Step, ...], float | None]]:
        """(decisions, value) of all that count at this budget; no value where there is no score."""
        for steps in self._infeasible:
            yield steps, None
        for number, told in self._told.items():
            value = self.value(number)
            if value is not None or self.failed(number):
                yield told.steps, value

    def _largest(self) -> int:
        """The budget to learn from."""
        enough = self._decisions + 3  # a model has one parameter more than there are decisions
        count = 0
        for end in sorted(self._ends, reverse=True):
            count += self._ends[end]
            if count >= enough:
                return end
        return min(self._ends)
