"""How much of its budget a search has spent, in all the runs of its directory together."""

from __future__ import annotations

import time

from retiarii.runtime.store import Store
from retiarii.search.budget import Budget, Ended

_SPENT = "seconds"
_KEEP_SECONDS = 1.0


class Spending:
    """Counts epochs and seconds.

    Args:
        budget: what ends the search.
        maximize: whether a higher score is better.
        store: where the seconds are kept; holds the epochs of earlier runs.
    """

    def __init__(self, budget: Budget, maximize: bool, store: Store) -> None:
        self._budget = budget
        self._sign = 1.0 if maximize else -1.0
        self._store = store
        self._epochs = store.count_steps()
        self._before = float(store.meta(_SPENT, 0.0))
        self._began = self._kept = time.monotonic()
        self._reached = False

    def epoch(self) -> None:
        """An epoch has been reported that was not known."""
        self._epochs += 1

    def score(self, score: float) -> None:
        """A trial is complete with a score."""
        target = self._budget.target
        if target is not None and self._sign * score >= self._sign * target:
            self._reached = True

    def spent(self) -> Ended | None:
        """What the search has run out of, or that it has found what it was to find."""
        now = time.monotonic()
        if now - self._kept >= _KEEP_SECONDS:
            self.keep()
        budget = self._budget
        if self._reached:
            return "target"
        if budget.epochs is not None and self._epochs >= budget.epochs:
            return "epochs"
        if budget.seconds is not None and self._before + now - self._began >= budget.seconds:
            return "time"
        return None

    def keep(self) -> None:
        """Writes down how long the search has run."""
        self._kept = time.monotonic()
        self._store.set_meta(**{_SPENT: self._before + self._kept - self._began})
