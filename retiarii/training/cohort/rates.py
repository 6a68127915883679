"""The learning rates of all models, with the state that some schedules have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retiarii.training.schedules import Schedule


@dataclass(frozen=True, slots=True)
class Progress:
    """Where one model stands in its training.

    Attributes:
        step: optimizer steps done.
        total_steps: in the whole training.
        epoch_steps: in one epoch.
    """

    step: int
    total_steps: int
    epoch_steps: int


class Rates:
    """Each model's learning rate.

    Args:
        schedules: each model's, every choice in it made.
        base: each optimizer's ``lr``.
    """

    def __init__(self, schedules: Sequence[Schedule], base: Sequence[float]) -> None:
        self._schedules = tuple(schedules)
        self._base = tuple(base)
        self._states = [schedule.begin() for schedule in schedules]

    def at(self, progress: Sequence[Progress]) -> list[float]:
        """The rate of each model's next step."""
        return [
            schedule.lr(p.step, p.total_steps, base, p.epoch_steps, state)
            for schedule, base, state, p in zip(
                self._schedules, self._base, self._states, progress, strict=True
            )
        ]

    def after_epoch(self, model: int, score: float, maximize: bool) -> None:
        """Tell a model's schedule the score that its validation gave."""
        schedule = self._schedules[model]
        self._states[model] = schedule.after_epoch(self._states[model], score, maximize)

    def state_of(self, model: int) -> dict[str, Any]:
        """The state of a model's schedule, as JSON."""
        return dict(self._states[model])

    def load_state_of(self, model: int, state: Mapping[str, Any]) -> None:
        """Take over a state as :meth:`state_of` gives it."""
        self._states[model] = dict(state)
