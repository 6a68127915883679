"""What a search tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from retiarii.runtime.store import TrialRow


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

    kind: Literal["begin", "note", "step", "trial", "end"]
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
