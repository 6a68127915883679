"""Learning rate schedules as frozen descriptions.

The rate is a pure function of the step, and of a small state that only :class:`ReduceOnPlateau`
has and that whoever trains keeps, so that a resumed trial and a merged cohort compute the same
numbers. Each field may be a choice; its label is ``schedule.`` and its name.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from retiarii.errors import EvaluatorError, nearest
from retiarii.training.fields import (
    COUNT,
    FLAG,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    WHOLE,
    Fields,
    Rule,
    possible,
)

_NO_STATE: Mapping[str, Any] = MappingProxyType({})
_SHRINKING = Rule("a number above 0 and below 1", lambda v: POSITIVE.holds(v) and v < 1)
_MODE = Rule("'min', 'max' or None", lambda v: v in ("min", "max", None))


@dataclass(frozen=True, slots=True)
class Moment:
    """A step of a training.

    Attributes:
        step: optimizer steps done.
        total_steps: in the whole training.
        epoch_steps: in one epoch.
        state: what the schedule's :meth:`Schedule.begin` and :meth:`Schedule.after_epoch` gave.
    """

    step: int
    total_steps: int
    epoch_steps: int = 1
    state: Mapping[str, Any] = field(default_factory=dict)


class Schedule(Fields, ABC):
    """Base of the schedules."""

    @abstractmethod
    def multiplier(self, at: Moment) -> float:
        """What the base learning rate is multiplied by."""

    def begin(self) -> dict[str, Any]:
        """The state before the first epoch, as JSON; empty for a schedule without one."""
        return {}

    def after_epoch(self, state: Mapping[str, Any], score: float, maximize: bool) -> dict[str, Any]:
        """The state after an epoch.

        Args:
            state: before it.
            score: the validation metric.
            maximize: whether a higher one is better.
        """
        del score, maximize
        return dict(state)

    def lr(
        self,
        step: int,
        total_steps: int,
        base_lr: float,
        epoch_steps: int = 1,
        state: Mapping[str, Any] = _NO_STATE,
    ) -> float:
        """The learning rate of one optimizer step.

        Args:
            step: from 0 to ``total_steps - 1``; beyond, the last one counts.
            total_steps: optimizer steps in the whole training.
            base_lr: the optimizer's ``lr``.
            epoch_steps: optimizer steps an epoch, for schedules that count epochs.
            state: as :meth:`begin` and :meth:`after_epoch` gave it.
        """
        last = max(total_steps - 1, 0)
        return base_lr * self.multiplier(Moment(min(step, last), total_steps, epoch_steps, state))


@dataclass(frozen=True)
class Constant(Schedule):
    """The base learning rate throughout."""

    def multiplier(self, at: Moment) -> float:
        del at
        return 1.0


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Multiplied by ``gamma`` after every ``every`` epochs, as ``torch``'s ``StepLR``."""

    every: Any = 10
    gamma: Any = 0.1

    RULES: ClassVar[Mapping[str, Rule]] = {"every": COUNT, "gamma": POSITIVE}

    def multiplier(self, at: Moment) -> float:
        return float(self.gamma ** (at.step // (self.every * at.epoch_steps)))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from the base learning rate down to ``minimum`` times it."""

    minimum: Any = 0.0

    RULES: ClassVar[Mapping[str, Rule]] = {"minimum": FRACTION}

    def multiplier(self, at: Moment) -> float:
        half = (1 + math.cos(math.pi * at.step / at.total_steps)) / 2
        return float(self.minimum + (1 - self.minimum) * half)


@dataclass(frozen=True)
class LinearDecay(Schedule):
    """A line from ``start`` to ``end`` times the base learning rate."""

    start: Any = 1.0
    end: Any = 0.0

    RULES: ClassVar[Mapping[str, Rule]] = {"start": NOT_NEGATIVE, "end": NOT_NEGATIVE}

    def multiplier(self, at: Moment) -> float:
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

    def multiplier(self, at: Moment) -> float:
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

    def multiplier(self, at: Moment) -> float:
        rising = round(self.part * at.total_steps)
        if at.step < rising:
            # One step ahead, so that a start of 0 does not waste the first step.
            return float(self.start + (1 - self.start) * (at.step + 1) / rising)
        if self.then is None:
            return 1.0
        then: Schedule = self.then
        rest = Moment(at.step - rising, at.total_steps - rising, at.epoch_steps, at.state)
        return then.multiplier(rest)

    def begin(self) -> dict[str, Any]:
        return {} if self.then is None else dict(self.then.begin())

    def after_epoch(self, state: Mapping[str, Any], score: float, maximize: bool) -> dict[str, Any]:
        if self.then is None:
            return dict(state)
        return dict(self.then.after_epoch(state, score, maximize))


@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """Multiplied by ``factor`` when the metric has stopped getting better.

    As ``torch``'s ``ReduceLROnPlateau``, fed with the validation metric after each epoch. Its state
    is part of the checkpoint.

    Attributes:
        factor: what the rate is multiplied by.
        patience: so many epochs without a better score are let pass.
        threshold: a score is better when it is by this much, see ``relative``.
        relative: whether the threshold is a part of the best score, or a difference.
        cooldown: so many epochs after a reduction are not counted.
        minimum: the rate stays at this part of the base learning rate.
        mode: ``"min"`` or ``"max"``: what is better; ``None``: what the metric says.
    """

    factor: Any = 0.1
    patience: Any = 10
    threshold: Any = 1e-4
    relative: Any = True
    cooldown: Any = 0
    minimum: Any = 0.0
    mode: Any = None

    RULES: ClassVar[Mapping[str, Rule]] = {
        "factor": _SHRINKING,
        "patience": WHOLE,
        "threshold": NOT_NEGATIVE,
        "relative": FLAG,
        "cooldown": WHOLE,
        "minimum": FRACTION,
        "mode": _MODE,
    }

    def multiplier(self, at: Moment) -> float:
        return float(at.state.get("multiplier", 1.0))

    def begin(self) -> dict[str, Any]:
        return {"multiplier": 1.0, "best": None, "waited": 0, "cooling": 0}

    def after_epoch(self, state: Mapping[str, Any], score: float, maximize: bool) -> dict[str, Any]:
        upward = maximize if self.mode is None else self.mode == "max"
        multiplier, best = state["multiplier"], state["best"]
        waited, cooling = state["waited"], state["cooling"]
        if best is None or self._better(score, best, upward):
            best, waited = score, 0
        else:
            waited += 1
        if cooling > 0:
            waited, cooling = 0, cooling - 1
        if waited > self.patience:
            multiplier = max(multiplier * self.factor, self.minimum)
            waited, cooling = 0, self.cooldown
        return {"multiplier": multiplier, "best": best, "waited": waited, "cooling": cooling}

    def _better(self, score: float, best: float, upward: bool) -> bool:
        sign = 1.0 if upward else -1.0
        if self.relative:
            return bool(sign * score > sign * best * (1.0 + sign * self.threshold))
        return bool(sign * score > sign * best + self.threshold)


SCHEDULES: Mapping[str, type[Schedule]] = MappingProxyType(
    {
        "constant": Constant,
        "step": StepDecay,
        "cosine": Cosine,
        "linear": LinearDecay,
        "one-cycle": OneCycle,
        "plateau": ReduceOnPlateau,
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
                fix=nearest(given, list(SCHEDULES)),
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
