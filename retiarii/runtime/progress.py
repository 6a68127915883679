"""What a search tells whoever watches it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from retiarii.runtime.rows import TrialRow

Kind = Literal["begin", "note", "step", "trial", "end"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How a search is getting on, for whoever shows it.

    Attributes:
        kind: ``begin`` (what was stored is read), ``note`` (how trials are evaluated), ``step``
            (metrics on the way), ``trial`` (one has ended), ``end``.
        total: how many trials were asked for.
        done: how many have ended.
        resumed: how many had ended before this process began.
        skipped: how many proposals were infeasible.
        seconds: since this process began.
        best: (trial, score) of the best complete trial.
        trial: the trial that this is about, with ``step`` and ``trial``.
        step, metrics: with ``step``: what was reported.
        note: with ``note``: one line, such as what a cohort is merged to.
    """

    kind: Kind
    total: int
    done: int
    resumed: int
    skipped: int
    seconds: float
    best: tuple[int, float] | None = None
    trial: TrialRow | None = None
    step: int | None = None
    metrics: dict[str, float] | None = None
    note: str | None = None


Watcher = Callable[[Progress], None]


@dataclass(slots=True)
class Told:
    """What whoever watches is told: the counts of a search, and what has just happened.

    Attributes:
        total: how many trials were asked for.
        watchers: called with each `Progress`.
        done, resumed, skipped, best: as in `Progress`.
    """

    total: int
    watchers: Sequence[Watcher]
    done: int = 0
    resumed: int = 0
    skipped: int = 0
    best: tuple[int, float] | None = None
    _began: float = field(default_factory=time.monotonic)

    def __call__(
        self,
        kind: Kind,
        trial: TrialRow | None = None,
        step: int | None = None,
        metrics: dict[str, float] | None = None,
        note: str | None = None,
    ) -> None:
        if not self.watchers:
            return
        progress = Progress(
            kind,
            self.total,
            self.done,
            self.resumed,
            self.skipped,
            time.monotonic() - self._began,
            self.best,
            trial,
            step,
            metrics,
            note,
        )
        for watcher in self.watchers:
            watcher(progress)
