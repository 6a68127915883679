"""Learning rate schedules: pure functions of the step, as frozen descriptions.

The rate depends on the step alone and holds no state, so that a resumed trial and a merged cohort
compute the same numbers. Each field may be a choice; its label is ``schedule.`` and its name.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from retiarii.errors import EvaluatorError, nearest
from retiarii.training.fields import (
    COUNT,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    Fields,
    Rule,
    possible,
)


@dataclass(frozen=True, slots=True)
class Moment:
    """A step of a training.

    Attributes:
        step: optimizer steps done.
        total_steps: in the whole training.
        epoch_steps: in one epoch.
    """

    step: int
    total_steps: int
    epoch_steps: int = 1


class Schedule(Fields, ABC):
    """Base of the schedules."""

    @abstractmethod
    def factor(self, at: Moment) -> float:
        """What the base learning rate is multiplied by."""

    def lr(self, step: int, total_steps: int, base_lr: float, epoch_steps: int = 1) -> float:
        """The learning rate of one optimizer step.

        Args:
            step: from 0 to ``total_steps - 1``; beyond, the last one counts.
            total_steps: optimizer steps in the whole training.
            base_lr: the optimizer's ``lr``.
            epoch_steps: optimizer steps an epoch, for schedules that count epochs.
        """
        last = max(total_steps - 1, 0)
        return base_lr * self.factor(Moment(min(step, last), total_steps, epoch_steps))


@dataclass(frozen=True)
class Constant(Schedule):
    """The base learning rate throughout."""

    def factor(self, at: Moment) -> float:
        del at
        return 1.0


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Multiplied by ``gamma`` after every ``every`` epochs, as ``torch``'s ``StepLR``."""

    every: Any = 10
    gamma: Any = 0.1

    RULES: ClassVar[Mapping[str, Rule]] = {"every": COUNT, "gamma": POSITIVE}

    def factor(self, at: Moment) -> float:
        return float(self.gamma ** (at.step // (self.every * at.epoch_steps)))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from the base learning rate down to ``minimum`` times it."""

    minimum: Any = 0.0

    RULES: ClassVar[Mapping[str, Rule]] = {"minimum": FRACTION}

    def factor(self, at: Moment) -> float:
        half = (1 + math.cos(math.pi * at.step / at.total_steps)) / 2
        return float(self.minimum + (1 - self.minimum) * half)


@dataclass(frozen=True)
class LinearDecay(Schedule):
    """A line from ``start`` to ``end`` times the base learning rate."""

    start: Any = 1.0
    end: Any = 0.0

    RULES: ClassVar[Mapping[str, Rule]] = {"start": NOT_NEGATIVE, "end": NOT_NEGATIVE}

    def factor(self, at: Moment) -> float:
        return float(self.start + (self.end - self.start) * at.step / at.total_steps)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to the base learning rate and down again, as ``torch``'s ``OneCycleLR`` (cosine).

    The optimizer's ``lr`` is the peak. Momentum is left as it is.

    Attributes:
        rise: the part of the training that goes up, between 0 and 1.
        start_divisor: the first rate is the peak divided by it.
        end_divisor: the last rate is the first divided by it.
    """

    rise: Any = 0.3
    start_divisor: Any = 25.0
    end_divisor: Any = 1e4

    RULES: ClassVar[Mapping[str, Rule]] = {
        "rise": FRACTION,
        "start_divisor": POSITIVE,
        "end_divisor": POSITIVE,
    }

    def factor(self, at: Moment) -> float:
        first = 1 / self.start_divisor
        last = first / self.end_divisor
        final = at.total_steps - 1
        peak = self.rise * at.total_steps - 1
        if at.step <= peak or peak >= final:
            return _cosine(first, 1.0, at.step / peak if peak > 0 else 1.0)
        return _cosine(1.0, last, (at.step - peak) / (final - peak))


def _cosine(start: float, end: float, part: float) -> float:
    return float(end + (start - end) / 2 * (1 + math.cos(math.pi * min(part, 1.0))))


@dataclass(frozen=True)
class WarmUp(Schedule):
    """A line up to the base learning rate, and then another schedule over what is left.

    Attributes:
        part: the part of the training that goes up, between 0 and 1.
        start: the line begins here, as a part of the base learning rate.
        then: the schedule of the rest, or its name; ``None`` stays at the base learning rate.
    """

    part: Any = 0.1
    start: Any = 0.0
    then: Any = None

    RULES: ClassVar[Mapping[str, Rule]] = {
        "part": FRACTION,
        "start": FRACTION,
        "then": Rule("a schedule or None", lambda v: v is None or isinstance(v, Schedule)),
    }

    def __post_init__(self) -> None:
        if isinstance(self.then, str):
            object.__setattr__(self, "then", make_schedule(self.then))
        super().__post_init__()

    def factor(self, at: Moment) -> float:
        rising = round(self.part * at.total_steps)
        if at.step < rising:
            # One step ahead, so that a start of 0 does not waste the first step.
            return float(self.start + (1 - self.start) * (at.step + 1) / rising)
        if self.then is None:
            return 1.0
        then: Schedule = self.then
        return then.factor(Moment(at.step - rising, at.total_steps - rising, at.epoch_steps))


SCHEDULES: Mapping[str, type[Schedule]] = MappingProxyType(
    {
        "constant": Constant,
        "step": StepDecay,
        "cosine": Cosine,
        "linear": LinearDecay,
        "one-cycle": OneCycle,
        "warm-up": WarmUp,
    }
)


def make_schedule(given: Any) -> Any:
    """A schedule from a schedule, its name, ``None`` (constant), or a choice of schedules.

    Raises:
        EvaluatorError: it is none of these.
    """
    if given is None:
        return Constant()
    if isinstance(given, str):
        if given not in SCHEDULES:
            raise EvaluatorError(
                f"there is no schedule {given!r}",
                where="Supervised(schedule=...)",
                fix=f"nearest: {nearest(given, list(SCHEDULES))}",
            )
        return SCHEDULES[given]()
    for plain in possible(given):
        if plain is not None and not isinstance(plain, Schedule | str):
            raise EvaluatorError(
                f"schedule is {plain!r:.80}, which is not a schedule",
                where="Supervised(schedule=...)",
                fix=f"use one of retiarii's: {', '.join(sorted(SCHEDULES))}",
            )
        if isinstance(plain, str):
            make_schedule(plain)
    return given
