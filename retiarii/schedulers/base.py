"""What a scheduler is, and what it sees of a search."""

from __future__ import annotations

from abc import ABC
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from retiarii.errors import SchedulerError

#: (step, score) of one trial, in order; higher scores are better.
Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a scheduler is told of the search before it begins.

    Attributes:
        cohort: how many trials are proposed together.
        longest: the most epochs that a trial may have; ``None`` where the evaluator does not say.
        pauses: whether a trial that stopped can go on from where it stopped.
    """

    cohort: int
    longest: int | None
    pauses: bool


class Known:
    """The curves of the trials whose results were known when a trial was proposed.

    What was asked of it is kept and added to, so that a long search does not look through all of
    its trials at every step.

    Args:
        curves: trial -> its whole curve; no failed trials, and none that took over a score.

    Attributes:
        curves: as given.
        best: the best last score of all, or ``None``.
    """

    def __init__(self, curves: Mapping[int, Curve] = MappingProxyType({})) -> None:
        self.curves: dict[int, Curve] = {}
        self.best: float | None = None
        self._at: dict[int, dict[int, float]] = {}
        self._means: dict[int, list[float]] = {}
        for number, curve in curves.items():
            self.add(number, curve)

    def add(self, number: int, curve: Curve) -> None:
        """One more trial is known."""
        self.curves[number] = curve
        if curve:
            last = curve[-1][1]
            self.best = last if self.best is None else max(self.best, last)
        for step, scores in self._at.items():
            score = reach(curve, step)
            if score is not None:
                scores[number] = score
        for step, means in self._means.items():
            mean = _mean(curve, step)
            if mean is not None:
                insort(means, mean)

    def copy(self) -> Known:
        """Another one, to add to."""
        made = Known()
        made.curves, made.best = dict(self.curves), self.best
        made._at = {step: dict(scores) for step, scores in self._at.items()}
        made._means = {step: list(means) for step, means in self._means.items()}
        return made

    def at(self, step: int) -> Mapping[int, float]:
        """Trial -> score, of all that got to ``step``."""
        if step not in self._at:
            reached = {number: reach(curve, step) for number, curve in self.curves.items()}
            self._at[step] = {n: score for n, score in reached.items() if score is not None}
        return self._at[step]

    def means(self, step: int) -> Sequence[float]:
        """The mean scores up to ``step`` of all that got there, in ascending order."""
        if step not in self._means:
            found = (_mean(curve, step) for curve in self.curves.values())
            self._means[step] = sorted(mean for mean in found if mean is not None)
        return self._means[step]


class Scheduler(ABC):
    """Decides which trials stop early.

    There are two ways, and a subclass takes one of them:

    - *Rungs.* Trials that were proposed together train up to a rung and pause there; once all have,
      `keep` says which of them go on to the next. Needs an evaluator whose trials can pause.
    - *One by one.* After each report `stops` says whether that trial ends.

    Decisions are functions of curves: of the trial's own group, and of the trials that were known
    when it was proposed. Nothing else may decide, no clock and no random numbers of its own, so
    that a search that resumes decides alike.
    """

    name: ClassVar[str] = "custom"
    #: The strategy whose proposals this scheduler is made for; ``None`` leaves it to the user.
    strategy: ClassVar[str | None] = None

    setting: Setting

    def begin(self, setting: Setting) -> None:
        """Starts a search; called once, before anything else.

        Raises:
            SchedulerError: this scheduler cannot work for it.
        """
        self.setting = setting

    def group(self, number: int) -> range:
        """The trials that ``number`` is proposed together with, and compared to."""
        size = self.setting.cohort
        start = number // size * size
        return range(start, start + size)

    def rung(self, number: int, after: int) -> int | None:  # noqa: ARG002
        """The first rung after ``after`` epochs for a trial and its group; ``None``: no more."""
        return None

    def keep(
        self,
        rung: int,  # noqa: ARG002
        group: Mapping[int, float],
        known: Known,  # noqa: ARG002
    ) -> frozenset[int]:
        """The trials of a group that go on.

        Args:
            rung: the epoch at which they are.
            group: trial -> score, of all that got there.
            known: earlier trials.
        """
        return frozenset(group)

    def stops(self, number: int, curve: Curve, known: Known) -> bool:  # noqa: ARG002
        """Whether a trial ends after the last step of its curve."""
        return False

    def describe(self) -> dict[str, Any]:
        """The name and the options, JSON-able: part of a search's identity."""
        return {"name": self.name}


def reach(curve: Curve, step: int) -> float | None:
    """The score at ``step``, or at the first one after it; ``None``: it never got there."""
    return next((score for at, score in curve if at >= step), None)


def _mean(curve: Curve, step: int) -> float | None:
    if not curve or curve[-1][0] < step:
        return None
    scores = [score for at, score in curve if at <= step]
    return sum(scores) / len(scores) if scores else None


def best_of(scores: Mapping[int, float], count: int) -> frozenset[int]:
    """The ``count`` trials with the highest scores; of equals, the earlier ones."""
    ranked = sorted(scores, key=lambda number: (-scores[number], number))
    return frozenset(ranked[:count])


def checked(scheduler: str, name: str, value: Any, low: float, *, whole: bool = True) -> Any:
    """``value`` if it is a (whole) number of at least ``low``.

    Raises:
        SchedulerError: it is not.
    """
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not value >= low:
        noun = "a whole number" if whole else "a number"
        raise SchedulerError(
            f"{name} must be {noun} of at least {low:g}, not {value!r}",
            where=f"scheduler {scheduler}, option {name}",
            fix=f"give {name}={low:g} or more",
        )
    return value


def below(scheduler: str, name: str, value: Any, high: float) -> float:
    """``value`` if it is a number above 0 and below ``high``.

    Raises:
        SchedulerError: it is not.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < high:
        raise SchedulerError(
            f"{name} must be a number above 0 and below {high:g}, not {value!r}",
            where=f"scheduler {scheduler}, option {name}",
            fix=f"give one in between, such as {name}={high / 20:g}",
        )
    return float(value)
