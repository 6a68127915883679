"""What a search is asked for, and what its controller keeps of a trial on its way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from retiarii.search.budget import Budget
from retiarii.seeding import derive

if TYPE_CHECKING:
    from retiarii.objectives.aims import Aims
    from retiarii.schedulers.base import Scheduler
    from retiarii.search.beginning import Beginning
    from retiarii.search_space import Point


def trial_seed(search_seed: int, number: int, attempt: int) -> int:
    """The seed of a trial: by its number, and by how often it began afresh."""
    extra = (attempt,) if attempt else ()
    return derive(search_seed, "trial", number, *extra)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a search is asked for.

    Attributes:
        trials: how many, duplicates included.
        window: how many cohorts may be without a result.
        cohort: how many trials are proposed together.
        together: whether those are evaluated together, or one by one.
        seed: the search's seed.
        retries: how often a trial that failed is tried again.
        metric: the score's name among the metrics.
        maximize: whether a higher score is better.
        directory: where checkpoints go.
        scheduler: what stops trials early; it has begun. ``None`` stops none.
        pauses: whether trials can pause.
        gentle: whether the first Ctrl-C lets the epoch at hand end.
        budget: what ends the search besides.
        beginning: trials that no strategy proposes.
        aims: several objectives; ``None``: the metric alone counts.
        seeds: (seed, trial, attempt) -> the trial's seed.
        repeats: whether what is the same as an earlier trial is trained again.
    """

    trials: int
    window: int
    cohort: int
    together: bool
    seed: int
    retries: int
    metric: str
    maximize: bool
    directory: Path
    scheduler: Scheduler | None = None
    pauses: bool = False
    gentle: bool = False
    budget: Budget = field(default_factory=Budget)
    beginning: Beginning | None = None
    aims: Aims | None = None
    seeds: Callable[[int, int, int], int] = trial_seed
    repeats: bool = False


def trial_directory(directory: Path, number: int, attempt: int) -> Path:
    """Where a trial's checkpoints are; an attempt that begins afresh has its own place."""
    return directory / "trials" / (f"{number}.{attempt}" if attempt else str(number))


def drop_checkpoints(directory: Path) -> None:
    """Deletes what a trial would have gone on from."""
    for path in directory.glob("checkpoint-*"):
        path.unlink(missing_ok=True)


@dataclass(slots=True)
class Active:
    """A trial that is not at its end: what the controller must know of it."""

    point: Point
    seed: int
    attempt: int = 0
    lost: int = 0
    seconds: float = 0.0
    since: float | None = None
    last_step: int = -1
    leader: int | None = None  # waits for this trial, which is the same model
    stored: bool = False  # it had paused before this process began

    def elapsed(self) -> float:
        return self.seconds + (0.0 if self.since is None else time.monotonic() - self.since)

    def rest(self) -> None:
        """It is not evaluated any more, for now."""
        self.seconds, self.since = self.elapsed(), None
