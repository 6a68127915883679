"""One trial as the store keeps it, and how its decisions and metrics are written as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retiarii.errors import StoreError
from retiarii.mutators.choice import Decision, Numbered, Raw
from retiarii.runtime.schema import State
from retiarii.runtime.shown import plain

COLUMNS = (
    "id, state, decisions, key, score, metrics, seconds, error, trace, seed, attempt, lost, "
    "same_as, started, finished"
)

# Of these columns: id, seed, attempt and lost; and the trial whose score a trial takes over.
_NUMBERS, _SAME_AS = (0, 9, 10, 11), 12


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial as stored.

    Attributes:
        decisions: (label, raw answer, displayed value), in the order asked.
        key: the canonical key of model and hyper-parameters.
        seconds: time spent in evaluating it, all interruptions left out.
        trace: the traceback of a failure.
        attempt: how often it was started afresh after a failure; decides ``seed``.
        lost: how many workers died with it since it last made progress.
        same_as: the trial whose score this one reuses.
        started, finished: seconds since 1970.
    """

    id: int
    state: State
    decisions: tuple[tuple[str, Raw, Any], ...]
    key: str
    score: float | None
    metrics: Mapping[str, Any]
    seconds: float
    error: str | None
    trace: str | None
    seed: int
    attempt: int
    lost: int
    same_as: int | None
    started: float | None
    finished: float | None

    @property
    def raws(self) -> tuple[tuple[str, Raw], ...]:
        return tuple((label, raw) for label, raw, _ in self.decisions)


#: (step, metrics), in order
Steps = Sequence[tuple[int, Mapping[str, Any]]]


def written(decisions: Sequence[Decision]) -> str:
    """Label, raw answer and value of each; the name of an option that has only a number."""
    return dump(
        [
            (d.label, d.raw, plain(d.value), *([repr(d.value)] * isinstance(d.value, Numbered)))
            for d in decisions
        ]
    )


def dump(value: Any) -> str:
    """A value as JSON, as short as it gets."""
    return json.dumps(value, separators=(",", ":"), default=plain)


def row_of(values: Sequence[Any]) -> TrialRow:
    """A trial, from what is in its `COLUMNS`.

    Raises:
        StoreError: something else is there.
    """
    fields = list(values)
    try:
        # SQLite keeps a text in a column of numbers; some of these name directories.
        if any(type(fields[index]) is not int for index in _NUMBERS) or not (
            fields[_SAME_AS] is None or type(fields[_SAME_AS]) is int
        ):
            raise ValueError("a text where a number belongs")
        fields[2] = tuple(
            (label, raw, Numbered.of(int(shown), str(*name)) if name else shown)
            for label, raw, shown, *name in json.loads(fields[2])
        )
        fields[5] = json.loads(fields[5])
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"the store is damaged: trial {fields[0]!r:.40}: {error}",
            fix="restore it from a copy, or choose another directory",
        ) from error
    return TrialRow(*fields)
