"""What a trial tells the controller: small frozen records that travel as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class TrialEvent:
    """Something that happened to one trial.

    Attributes:
        number: the trial's number.
    """

    number: int

    def to_json(self) -> str:
        """One line of JSON, without the line's end."""
        return json.dumps({"event": type(self).__name__, **asdict(self)}, separators=(",", ":"))

    @staticmethod
    def from_json(line: str) -> TrialEvent:
        """The event that :meth:`to_json` wrote.

        Raises:
            ValueError: the line is not JSON, or not an event.
        """
        fields = json.loads(line)
        if not isinstance(fields, dict) or fields.get("event") not in _KINDS:
            raise ValueError(f"not a trial's event: {line!r}")
        kind = _KINDS[fields.pop("event")]
        try:
            event: TrialEvent = kind(**fields)
        except TypeError as error:
            raise ValueError(f"not a trial's event: {line!r}") from error
        return event


@dataclass(frozen=True, slots=True)
class Started(TrialEvent):
    """Its evaluation begins."""


@dataclass(frozen=True, slots=True)
class Noted(TrialEvent):
    """Something about how it is evaluated that whoever watches may want to know.

    Attributes:
        text: one line.
        fits: how many trials are known by now to fit the device's memory together, where this is
            about that.
    """

    text: str
    fits: int | None = None


@dataclass(frozen=True, slots=True)
class Reported(TrialEvent):
    """Metrics after one step (an epoch). A step may come again after a resume, with equal values.

    Attributes:
        step: from 1 on for :class:`~retiarii.training.supervised.Supervised`: epochs done.
        metrics: name to value.
    """

    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Finished(TrialEvent):
    """It has a score.

    Attributes:
        score: the evaluator's metric, in its own direction.
        metrics: name to value, at the end.
        stopped: the trial ended early because it was asked to.
    """

    score: float
    metrics: Mapping[str, float]
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Failed(TrialEvent):
    """It has no score.

    Attributes:
        message: cause, place and fix, for a user to read.
        traceback: where it happened, for ``--debug``.
    """

    message: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Halted(TrialEvent):
    """Its machine cannot go on, and the trial is not at fault: it stays as its checkpoint is.

    Attributes:
        cause, where, fix: as of `RetiariiError`.
    """

    cause: str
    where: str | None = None
    fix: str | None = None


_KINDS: Mapping[str, Any] = MappingProxyType(
    {kind.__name__: kind for kind in (Started, Noted, Reported, Finished, Failed, Halted)}
)
