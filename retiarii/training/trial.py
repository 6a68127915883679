"""A trial as an evaluator and a user's function see it."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from retiarii.errors import DISK, DiskError, EvaluatorError, RetiariiError, TrialError
from retiarii.training.events import (
    Failed,
    Finished,
    Halted,
    Noted,
    Reported,
    Started,
    TrialEvent,
)
from retiarii.user_code import users_line

if TYPE_CHECKING:
    from torch import nn


class Channel(Protocol):
    """The way from a trial to the controller and back."""

    def send(self, event: TrialEvent) -> None: ...

    def stop_requested(self, number: int) -> bool: ...


class Buildable(Protocol):
    """What an evaluator needs of a candidate."""

    @property
    def decisions(self) -> Mapping[str, Any]: ...

    def build(self, seed: int) -> nn.Module: ...


class _Silent:
    """A channel for a trial that nobody listens to (a user calling their function by hand)."""

    def send(self, event: TrialEvent) -> None:
        del event

    def stop_requested(self, number: int) -> bool:
        del number
        return False


class Trial:
    """One candidate being evaluated.

    Attributes:
        number: its number in the search, from 0 on.
        seed: its own seed: initial weights and dropout follow from it.
        search_seed: the search's seed: the order of the data follows from it.
        attempt: 0 the first time, one more at each retry.
        decisions: label to the value chosen, hyper-parameters included.
        candidate: the model chosen; nothing is built before ``candidate.build(seed)``.
        hyperparameters: label to the value chosen.
        directory: its own directory for checkpoints and weights, or ``None``.
        limit: the epoch at which it pauses, where its evaluator can do that; or ``None``.
        parent: the directory of another trial whose checkpoint it goes on from, or ``None``.
        outcome: how it ended, ``None`` while it runs.
    """

    def __init__(
        self,
        number: int,
        seed: int,
        *,
        search_seed: int = 0,
        attempt: int = 0,
        decisions: Mapping[str, Any] | None = None,
        candidate: Any = None,
        hyperparameters: Mapping[str, Any] | None = None,
        directory: Path | None = None,
        channel: Channel | None = None,
        limit: int | None = None,
        parent: Path | None = None,
    ) -> None:
        self.number = number
        self.seed = seed
        self.search_seed = search_seed
        self.attempt = attempt
        self.decisions = dict(decisions or {})
        self.candidate = candidate
        self.hyperparameters = dict(hyperparameters or {})
        self.directory = directory
        self.limit = limit
        self.parent = parent
        self.outcome: Finished | Failed | None = None
        self._channel: Channel = channel or _Silent()
        self._started = False
        self._stopped = False

    def __repr__(self) -> str:
        return f"Trial(number={self.number}, decisions={self.decisions!r})"

    def start(self) -> None:
        """Tell that the evaluation begins; evaluators call it, once."""
        if not self._started:
            self._started = True
            self._channel.send(Started(self.number))

    def note(self, text: str, fits: int | None = None) -> None:
        """Tell whoever watches the search something about how this trial is evaluated.

        Args:
            text: one line.
            fits: how many trials fit the device's memory together, if it is about that.
        """
        self._channel.send(Noted(self.number, text, fits))

    def report(self, step: int, **metrics: Any) -> None:
        """Tell the metrics after ``step`` (an epoch, or what a function counts).

        Raises:
            EvaluatorError: ``step`` is not a whole number from 0 on, or a metric not a number.
        """
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise EvaluatorError(
                f"trial.report was given step {step!r}",
                where=f"trial {self.number}",
                fix="give a whole number that counts from 0 or 1: trial.report(epoch, loss=...)",
            )
        numbers = {name: as_number(value, f"metric {name!r}") for name, value in metrics.items()}
        self._channel.send(Reported(self.number, step, numbers))

    def should_stop(self) -> bool:
        """Whether the search has asked this trial to end early; return what you have."""
        self._stopped = bool(self._channel.stop_requested(self.number)) or self._stopped
        return self._stopped

    def finish(
        self, score: Any, metrics: Mapping[str, Any] | None = None, *, stopped: bool | None = None
    ) -> None:
        """End with a score; evaluators call it.

        Args:
            score: a finite number.
            metrics: name to number.
            stopped: whether it ended early; by default, whether it has seen a request to stop.

        Raises:
            TrialError: the score is NaN or infinite.
            EvaluatorError: something is not a number.
        """
        number = as_number(score, "the score")
        numbers = {k: as_number(v, f"metric {k!r}") for k, v in (metrics or {}).items()}
        if not math.isfinite(number):
            raise TrialError(
                f"the score is {number}",
                where=f"trial {self.number}",
                fix="scores must be finite; look for a division by zero or a diverging loss",
            )
        early = self._stopped if stopped is None else stopped
        self._end(Finished(self.number, number, numbers, early))

    def fail(self, message: str, traceback_text: str = "") -> None:
        """End without a score; evaluators call it."""
        self._end(Failed(self.number, message, traceback_text))

    def end_by(self, error: Exception) -> None:
        """End by an exception, which is being handled: without a score, as failed.

        One that is the machine's ends the search instead: this trial goes on with it.
        """
        if isinstance(error, DiskError):
            self._channel.send(Halted(self.number, error.cause, error.where, error.fix))
            raise error
        if isinstance(error, OSError) and error.errno in DISK:
            cause = f"{error.strerror}, in user code"
            fix = "make room; the same command then goes on"
            self._channel.send(Halted(self.number, cause, users_line(error), fix))
            raise error
        self.fail(describe_error(error), traceback.format_exc())

    def _end(self, outcome: Finished | Failed) -> None:
        if self.outcome is not None:
            raise EvaluatorError(
                f"trial {self.number} has ended before, and cannot end again",
                fix="an evaluator calls trial.finish or trial.fail once",
            )
        self.outcome = outcome
        self._channel.send(outcome)


def as_number(value: Any, what: str) -> float:
    """``value`` as a float: Python and NumPy numbers, and tensors or arrays of one element.

    Raises:
        EvaluatorError: it is none of these.
    """
    if isinstance(value, int | float):
        return float(value)
    # A string would pass through float(), and is a mistake.
    if not isinstance(value, str | bytes) and hasattr(value, "__float__"):
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError, RetiariiError):
            pass
    shown = f"of shape {tuple(value.shape)}" if hasattr(value, "shape") else f"{value!r:.60}"
    raise EvaluatorError(
        f"{what} is not a number but a {type(value).__name__}: {shown}",
        fix="give an int, a float, or a tensor with one element",
    )


@contextmanager
def failures_end(trial: Trial) -> Iterator[None]:
    """Within it an exception ends this trial as failed, and goes no further."""
    try:
        yield
    except Exception as error:
        if trial.outcome is not None:
            raise
        trial.end_by(error)


def describe_error(error: Exception) -> str:
    """An error as a user reads it: ours as they are, others by class, text and the user's line."""
    if isinstance(error, RetiariiError):
        return str(error)
    text = str(error)
    cause = f"{type(error).__name__}: {text}" if text else type(error).__name__
    place = users_line(error)
    return f"{cause}\n  at: {place}" if place else cause
