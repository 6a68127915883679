"""The controller's loop: asks a strategy, has trials evaluated, tells the strategy, in order.

Everything that could differ from one run to the next is kept out of the strategy's sight. Trials
are proposed in cohorts; those of cohort ``c`` when exactly the trials of the cohorts
``0 .. c - window`` have been told, in their order. So a search that was killed is resumed by going
through the same calls again, with stored results; and whether the trials of a cohort are trained
as one merged program makes no difference to what is proposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from retiarii.errors import StoreError
from retiarii.objectives.telling import Teller
from retiarii.runtime.executor import Runner
from retiarii.runtime.interrupts import Interrupts
from retiarii.runtime.job import point_of
from retiarii.runtime.progress import Told, Watcher
from retiarii.runtime.resumed import check_point, check_proposal, not_the_same
from retiarii.runtime.store import Store
from retiarii.search.budget import Ended
from retiarii.search.ledger import Ledger
from retiarii.search.lineage import Lineage
from retiarii.search.rounds import Rounds
from retiarii.search.spending import Spending
from retiarii.search.state import Settings
from retiarii.strategies.base import Strategy
from retiarii.training.events import TrialEvent

if TYPE_CHECKING:
    from retiarii.search_space import Point

_POLL_SECONDS = 1.0


class Explorer:
    """One search. `run` may be called once."""

    def __init__(
        self,
        strategy: Strategy,
        store: Store,
        executor: Runner,
        settings: Settings,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self._strategy = strategy
        self._store = store
        self._executor = executor
        self._settings = settings
        self._told = Told(settings.trials, watchers)
        self._sign = 1.0 if settings.maximize else -1.0
        self._teller = Teller(strategy, settings.aims, store)
        self._lineage = Lineage(strategy, store, settings.directory)
        self._beginning = settings.beginning
        self._carried = 0 if self._beginning is None else self._beginning.carried
        self._unheard: set[int] = set()  # the strategy does not ask how these go
        self._rounds = Rounds(
            settings.scheduler,
            settings.cohort,
            settings.window,
            settings.pauses,
            store,
            self._carried,
        )
        self._spending = Spending(settings.budget, settings.maximize, store)
        self._trials = Ledger(
            store,
            executor,
            settings,
            self._rounds,
            self._spending,
            self._lineage,
            self._told,
            # A strategy that does not listen to reports need not be told them again on resuming.
            self._hear if strategy.listens else None,
        )
        self._interrupts = Interrupts(settings.gentle)

    def run(self) -> Ended:
        """Searches until the trials are done, the space is used up, or Ctrl-C.

        Raises:
            StoreError: the store cannot be written, or holds what this space or strategy would
                not propose.
            StrategyError: the strategy cannot go on.
            RetiariiError: no worker can be started.
        """
        ended: Ended = "interrupted"
        try:
            with self._interrupts:
                ended = self._explore()
        except KeyboardInterrupt:
            pass
        except BaseException:
            with suppress(StoreError):  # what went wrong first is what to tell
                self._store.release()
            raise
        finally:
            self._executor.shutdown()
        self._spending.keep()
        self._store.release()
        self._store.set_meta(ended=ended, skipped=self._told.skipped)
        self._told("end")
        return ended

    # -- the loop

    def _explore(self) -> Ended:
        ended: Ended = "trials"
        self._carry()
        told = proposed = self._carried
        begun = False
        while proposed < self._settings.trials:
            if not begun and proposed >= self._trials.stored:
                begun = True
                self._told("begin")
            known = self._rounds.open(proposed)
            while told < known:
                if not self._settle(told):
                    return self._leave()
                told += 1
            if self._over() and proposed >= self._trials.stored:
                return self._leave()
            point = self._propose(proposed)
            if point is None:
                if proposed < self._trials.stored:
                    raise not_the_same(proposed, "nothing is proposed in its place")
                ended = "exhausted"
                break
            self._trials.admit(proposed, point)
            proposed += 1
            if self._rounds.full(proposed):
                self._trials.turn()
                self._trials.flush()
        self._rounds.close(proposed)
        if not begun:
            self._told("begin")
        while told < proposed:
            if not self._settle(told):
                return self._leave()
            told += 1
        return ended

    def _leave(self) -> Ended:
        """What the search has run out of; what is under way stays as it is."""
        if self._interrupts.asked:
            self._interrupts.wind_down(self._executor, self._deliver)
        self._executor.abandon()
        return self._spending.spent() or "interrupted"

    def _over(self) -> bool:
        return self._interrupts.asked or self._spending.spent() is not None

    def _settle(self, number: int) -> bool:
        """Waits for a trial's end, and tells it; whether that was within the budget."""
        while number not in self._trials.untold:
            self._trials.turn()
            if number in self._trials.untold:
                break
            if self._over():
                return False
            self._trials.flush()
            self._executor.poll(_POLL_SECONDS, self._deliver)
        self._tell(number, self._trials.untold.pop(number))
        return True

    def _tell(self, number: int, score: float | None) -> None:
        if number not in self._unheard:
            self._teller.tell(number, None if score is None else self._sign * score)
            self._lineage.release()

    def _carry(self) -> None:
        """Goes through the trials of an earlier search: results that are known before all else."""
        for number in range(self._carried):
            row = self._store.row(number)
            assert row is not None
            assert self._beginning is not None
            point = point_of(self._beginning.space, row.raws)
            key = point.key()
            check_proposal(row, point, key)
            self._trials.known(number, key)
            self._adopt(number, point)
            self._trials.replay_reports(number)
            if self._settings.aims is not None:
                self._settings.aims.complete(self._store, row, point)
            self._tell(number, row.score)
            self._told.done += 1
            self._told.resumed += 1
            self._trials.note_best(row)
        if (
            self._beginning is not None
            and self._beginning.text
            and self._trials.stored == self._carried
        ):
            self._told("note", note=self._beginning.text)

    def _propose(self, number: int) -> Point | None:
        """The point of a trial: the one that the user asked for, or the strategy's."""
        asked = None if self._beginning is None else self._beginning.point(number)
        if asked is not None:
            self._adopt(number, asked)
            return asked
        self._teller.settle()
        point = self._strategy.ask(number)
        self._told.skipped = int(getattr(self._strategy, "infeasible", 0))
        if point is not None:
            check_point(point, number, self._strategy.name)
        return point

    def _adopt(self, number: int, point: Point) -> None:
        if not self._strategy.adopt(number, point):
            self._unheard.add(number)

    def _hear(self, number: int, step: int, score: float) -> bool:
        """Whether the strategy stops a trial that has reported."""
        return number not in self._unheard and self._strategy.report(number, step, score)

    def _deliver(self, event: TrialEvent) -> None:
        if self._interrupts.asked:  # also within a poll that lasts as long as a cohort
            self._executor.rest()
        self._trials.deliver(event)
