"""What training the best again has shown: means and deviations, kept in the store."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retiarii.runtime.rows import TrialRow
from retiarii.runtime.store import Store

#: How many trials are confirmed: the best so many. With three seeds that is one cohort of fifteen.
TOP = 5

RUNS = "confirm.runs"  # (trial, run) of each training, in the order of their numbers
SEEDS = "confirm.seeds"
SCORES = "confirm.scores"  # number of a training -> its score, or null where it failed


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A trial that was trained again, from other seeds.

    Attributes:
        scores: of each training that has a score; the search's own is not among them, since it is
            what the trial was chosen by.
        failed: how many trainings failed.
        wanted: how many there are to be.
    """

    scores: tuple[float, ...]
    failed: int
    wanted: int

    @property
    def mean(self) -> float:
        """The mean score; NaN without any."""
        return statistics.fmean(self.scores) if self.scores else math.nan

    @property
    def deviation(self) -> float | None:
        """The standard deviation of one training (by n - 1); ``None`` for fewer than two."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def done(self) -> bool:
        """Whether all trainings have ended."""
        return len(self.scores) + self.failed >= self.wanted

    @property
    def counts(self) -> bool:
        """Whether the mean may be compared with others: all trainings have a score."""
        return len(self.scores) >= self.wanted

    def to_json(self) -> dict[str, Any]:
        return {
            "runs": self.wanted,
            "scores": list(self.scores),
            "failed": self.failed,
            "mean": self.mean if self.scores else None,
            "deviation": self.deviation,
        }

    def __str__(self) -> str:
        if not self.scores:
            return f"{self.failed} of {self.wanted} trainings failed"
        spread = "" if self.deviation is None else f" ± {self.deviation:.2g}"
        some = "" if self.counts else f" ({len(self.scores)} of {self.wanted} seeds)"
        return f"{self.mean:.5g}{spread}{some}"


def leaders(rows: Sequence[TrialRow], maximize: bool) -> list[int]:
    """The trials to confirm: the best that are complete and not the same as another."""
    sign = 1.0 if maximize else -1.0
    scored = [
        (-sign * row.score, row.id)
        for row in rows
        if row.state == "complete" and row.same_as is None and row.score is not None
    ]
    return [number for _, number in sorted(scored)[:TOP]]


def read_confirmed(store: Store) -> dict[int, Confirmed]:
    """Trial -> what training it again has shown so far."""
    wanted = int(store.meta(SEEDS, 0))
    ended: Mapping[str, float | None] = store.meta(SCORES, {})
    found: dict[int, list[float | None]] = {}
    for number, (trial, _) in enumerate(store.meta(RUNS, [])):
        scores = found.setdefault(int(trial), [])
        if str(number) in ended:
            scores.append(ended[str(number)])
    return {
        trial: Confirmed(tuple(s for s in scores if s is not None), scores.count(None), wanted)
        for trial, scores in found.items()
    }


def winner(
    confirmed: Mapping[int, Confirmed], leading: Sequence[int], maximize: bool
) -> int | None:
    """The trial with the best mean; ``None`` while one of the leading is not confirmed yet."""
    if not leading or any(n not in confirmed or not confirmed[n].done for n in leading):
        return None
    sign = 1.0 if maximize else -1.0
    means = [(-sign * each.mean, n) for n, each in confirmed.items() if each.counts]
    return min(means)[1] if means else None
