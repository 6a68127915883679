"""Tells a strategy how trials did in several objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retiarii.objectives.standing import Standing
from retiarii.strategies.base import Strategy

if TYPE_CHECKING:
    from retiarii.objectives.aims import Aims
    from retiarii.runtime.store import Store


class Teller:
    """Between a search of several objectives and its strategy.

    A strategy that takes several values gets them all; any other gets one score (see `Standing`),
    and before its next proposal those of all earlier trials anew. What is told is a function of
    the results, in their order.

    Args:
        strategy: it has begun.
        aims: the objectives; ``None``: there is but the score, and that is told.
        store: has the trials' metrics.
    """

    def __init__(self, strategy: Strategy, aims: Aims | None, store: Store) -> None:
        self._strategy = strategy
        self._aims = aims
        self._store = store
        self._standing = Standing()
        self._changed = False

    def tell(self, number: int, score: float | None) -> None:
        """The result of a trial, a higher score being better; ``None`` if it failed."""
        if self._aims is None:
            self._strategy.tell(number, score)
            return
        row = None if score is None else self._store.row(number)
        values = None if row is None else self._aims.values(row.metrics)
        if self._strategy.several:
            self._strategy.tell_all(number, values)
        elif values is None:
            self._strategy.tell(number, None)
        else:
            self._standing.add(number, values)
            self._changed = True
            self._strategy.tell(number, self._standing.scores()[number])

    def settle(self) -> None:
        """To be called before a proposal."""
        if self._changed:
            self._changed = False
            self._strategy.rescore(self._standing.scores())
