"""The controller's loop: asks a strategy, has trials evaluated, tells the strategy, in order.

Everything that could differ from one run to the next is kept out of the strategy's sight. Trials
are proposed in cohorts; those of cohort ``c`` when exactly the trials of the cohorts
``0 .. c - window`` have been told, in their order. So a search that was killed is resumed by going
through the same calls again, with stored results; and whether the trials of a cohort are trained
as one merged program makes no difference to what is proposed.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from retiarii.budget import Ended
from retiarii.errors import DiskError, StoreError
from retiarii.lineage import Lineage
from retiarii.objectives.telling import Teller
from retiarii.rounds import Rounds, blind, of_verdict
from retiarii.runtime.executor import Lost, Runner
from retiarii.runtime.interrupts import Interrupts
from retiarii.runtime.job import Job, JobTrial, point_of
from retiarii.runtime.progress import Told, Watcher
from retiarii.runtime.resumed import check_point, check_proposal, not_the_same
from retiarii.runtime.schema import SCORED, TERMINAL
from retiarii.runtime.store import Store, TrialRow
from retiarii.search_state import (
    Active,
    Settings,
    drop_checkpoints,
    trial_directory,
)
from retiarii.spending import Spending
from retiarii.strategies.base import Strategy
from retiarii.training.events import (
    Failed,
    Finished,
    Halted,
    Noted,
    Reported,
    Started,
    TrialEvent,
)

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
        # A strategy that does not listen to reports need not be told them again on resuming.
        self._listens = strategy.listens
        self._aims = settings.aims
        self._teller = Teller(strategy, settings.aims, store)
        self._lineage = Lineage(strategy, store, settings.directory)
        self._active: dict[int, Active] = {}
        self._untold: dict[int, float | None] = {}  # ended, in any order
        self._keys: dict[str, int] = {}  # canonical key -> the trial that is trained for it
        self._followers: dict[int, list[int]] = {}
        self._stopping: set[int] = set()  # by the strategy
        self._early: set[int] = set()  # by the scheduler
        self._pending: list[int] = []  # to be submitted, with others
        self._stored = store.count()
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
        self._asks = settings.scheduler is not None or self._listens
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
            if not begun and proposed >= self._stored:
                begun = True
                self._told("begin")
            known = self._rounds.open(proposed)
            while told < known:
                if not self._settle(told):
                    return self._leave()
                told += 1
            if self._over() and proposed >= self._stored:
                return self._leave()
            point = self._propose(proposed)
            if point is None:
                if proposed < self._stored:
                    raise not_the_same(proposed, "nothing is proposed in its place")
                ended = "exhausted"
                break
            self._admit(proposed, point)
            proposed += 1
            if self._rounds.full(proposed):
                self._turn()
                self._flush()
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
        while number not in self._untold:
            self._turn()
            if number in self._untold:
                break
            if self._over():
                return False
            self._flush()
            self._executor.poll(_POLL_SECONDS, self._deliver)
        self._tell(number, self._untold.pop(number))
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
            self._keys[key] = number
            self._adopt(number, point)
            self._replay_reports(number)
            if self._aims is not None:
                self._aims.complete(self._store, row, point)
            self._tell(number, row.score)
            self._told.done += 1
            self._told.resumed += 1
            self._note_best(row)
        if self._beginning is not None and self._beginning.text and self._stored == self._carried:
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

    def _turn(self) -> None:
        """Carries out what can be decided by now on trials that have paused."""
        while (verdict := self._rounds.decide()) is not None:
            if verdict.new:
                self._told("note", note=of_verdict(verdict))
            for number in verdict.kept:
                limit = self._rounds.limit(number)
                if limit is not None and self._active[number].last_step >= limit:
                    self._rounds.paused(number)  # it got there before
                else:
                    self._pending.append(number)
            for number in verdict.dropped:
                active = self._active[number]
                place = trial_directory(self._settings.directory, number, active.attempt)
                drop_checkpoints(place)
                if active.stored:
                    self._told.resumed += 1
                self._finished_one(number)

    def _admit(self, number: int, point: Point) -> None:
        """A proposal becomes a trial: known from the store, a duplicate, or to be evaluated."""
        key = point.key()
        row = self._store.row(number) if number < self._stored else None
        if row is not None:
            check_proposal(row, point, key)
            last_step = self._replay_reports(number)
            paused = self._has_paused(row, last_step)
            if row.state in TERMINAL and not paused:
                self._told.done += 1
                self._told.resumed += 1
                self._end(row, key)
                return
            active = Active(
                point, row.seed, row.attempt, row.lost, row.seconds, None, last_step, stored=paused
            )
        else:
            paused = False
            active = Active(point, self._settings.seeds(self._settings.seed, number, 0))
        leader = None if self._settings.repeats else self._keys.get(key)
        original = self._ended_row(leader)
        now = time.time()
        if row is None:
            self._lineage.note(number, point)
        if row is None and original is not None:
            self._store.add_reused(number, point.decisions, key, active.seed, now, original)
            self._finished_one(number)
            return
        if row is None:
            self._store.add(number, point.decisions, key, active.seed, now)
        self._active[number] = active
        if original is not None:
            self._reuse(number, original)
        elif leader is not None:
            active.leader = leader
            self._followers.setdefault(leader, []).append(number)
            self._rounds.wait(number, leader)
        else:
            self._keys[key] = number
            self._rounds.enter(number)
            if paused:
                self._rounds.paused(number)
            else:
                self._pending.append(number)

    def _has_paused(self, row: TrialRow, last_step: int) -> bool:
        """Whether a stored trial is at a rung, and not at its end."""
        return (
            row.state == "pruned"
            and row.same_as is None
            and row.id not in self._stopping
            and self._rounds.pauses(row.id)
            and not self._rounds.stops(row.id, last_step)
        )

    def _ended_row(self, number: int | None) -> TrialRow | None:
        return None if number is None or number in self._active else self._store.row(number)

    def _flush(self) -> None:
        """Submits what is waiting for it."""
        self._measure()
        together: list[int] = []
        for number in self._pending:
            # What a worker died of may be one of the trials it had: each goes on by itself.
            if self._settings.together and not self._active[number].lost:
                together.append(number)
            else:
                self._submit([number], alone=True)
        self._pending.clear()
        for start in range(0, len(together), self._settings.cohort):
            self._submit(together[start : start + self._settings.cohort])

    def _measure(self) -> None:
        """Measures what is about to be trained, together; what cannot be has failed."""
        while self._aims is not None and self._pending:
            points = {number: self._active[number].point for number in self._pending}
            failed = self._aims.measure(points)
            for note in self._aims.notes():
                self._told("note", note=note)
            if not failed:
                return
            self._pending = [number for number in self._pending if number not in failed]
            for number, why in failed.items():  # which may bring those that waited for them
                self._store.fail(number, why, None, self._active[number].elapsed(), time.time())
                self._finished_one(number)

    def _submit(self, numbers: Sequence[int], alone: bool = False) -> None:
        trials = []
        for number in numbers:
            active = self._active[number]
            place = trial_directory(self._settings.directory, number, active.attempt)
            stage = active.point.stage
            trials.append(
                JobTrial(
                    number,
                    active.seed,
                    active.attempt,
                    active.point.raws,
                    place,
                    active.point,
                    self._rounds.limit(number) if stage is None else stage.until,
                    self._lineage.parent(active.point),
                )
            )
        self._executor.submit(Job(tuple(trials), self._settings.seed, self._asks, alone))
        for number in self._stopping.intersection(numbers):
            self._executor.stop(number)

    # -- what comes back

    def _deliver(self, event: TrialEvent) -> None:
        if self._interrupts.asked:  # also within a poll that lasts as long as a cohort
            self._executor.rest()
        active = self._active.get(event.number)
        if active is None:
            return  # a late word of a trial that has ended
        match event:
            case Started(number):
                active.since = time.monotonic()
                self._store.start(number, time.time())
            case Noted(_, text):
                self._told("note", note=text)
            case Reported(number, step, metrics):
                self._reported(active, number, step, dict(metrics))
            case Finished(number, score, metrics, stopped) if math.isfinite(score):
                if self._aims is not None:
                    metrics = self._aims.completed(active.point, score, metrics)
                    useless = None if stopped else self._aims.check(metrics)
                    if useless is not None:
                        self._failed(active, number, useless, None)
                        return
                active.rest()
                state: Literal["pruned", "complete"] = "pruned" if stopped else "complete"
                self._store.finish(number, state, score, metrics, active.seconds, time.time())
                ended = number in self._early or number in self._stopping
                if stopped and not ended and self._rounds.pauses(number):
                    self._rounds.paused(number)
                else:
                    self._finished_one(number)
            case Finished(number, score):
                self._failed(active, number, f"the score is {score}", None)
            case Failed(number, message, trace):
                self._failed(active, number, message, trace or None)
            case Lost(number, message):
                self._lost(active, number, message)
            case Halted(_, cause, where, fix):
                raise DiskError(cause, where=where, fix=fix)

    def _reported(self, active: Active, number: int, step: int, metrics: dict[str, float]) -> None:
        again = step <= active.last_step
        progress = not again and active.lost > 0
        self._store.report(number, step, metrics, active.elapsed(), progress)
        if not again:
            active.last_step = step
            active.lost = 0
            self._spending.epoch()
            self._consult(number, step, metrics)
        # Also of a step that comes again: a trial that begins again ends where it had ended.
        if self._rounds.stops(number, step):
            self._early.add(number)
            self._executor.stop(number)
        if self._spending.spent():
            self._executor.abandon()
        if self._told.watchers:
            self._told("step", self._store.row(number), step, metrics)

    def _consult(self, number: int, step: int, metrics: dict[str, Any]) -> None:
        score = metrics.get(self._settings.metric)
        if score is None:
            return
        self._rounds.note(number, step, self._sign * score)
        if not self._listens or number in self._unheard:
            return
        if self._strategy.report(number, step, self._sign * score):
            self._stopping.add(number)
            self._executor.stop(number)

    def _replay_reports(self, number: int) -> int:
        """Tells the strategy what a stored trial reported; answers its last step."""
        steps = self._store.steps(number)
        for step, metrics in steps:
            self._consult(number, step, metrics)
        return steps[-1][0] if steps else -1

    def _failed(self, active: Active, number: int, message: str, trace: str | None) -> None:
        seconds = active.elapsed()
        if active.attempt + active.lost >= self._settings.retries:
            self._store.fail(number, message, trace, seconds, time.time())
            self._finished_one(number)
            return
        before = trial_directory(self._settings.directory, number, active.attempt)
        attempt = active.attempt + 1
        seed = self._settings.seeds(self._settings.seed, number, attempt)
        self._store.retry(number, attempt, seed, message, trace, seconds)
        shutil.rmtree(before, ignore_errors=True)
        self._active[number] = Active(active.point, seed, attempt, active.lost, seconds)
        self._stopping.discard(number)
        self._early.discard(number)
        self._rounds.forget(number)
        self._pending.append(number)

    def _lost(self, active: Active, number: int, message: str) -> None:
        """A worker died: the trial goes on elsewhere, unless it seems to be what kills them."""
        active.lost += 1
        active.rest()
        if active.attempt + active.lost > self._settings.retries:
            message = f"{message}; it was tried {active.attempt + active.lost} times"
            self._store.fail(number, message, None, active.seconds, time.time())
            self._finished_one(number)
            return
        self._early.discard(number)
        self._store.lose(number, active.lost, message, active.seconds)
        self._pending.append(number)

    def _reuse(self, number: int, original: TrialRow) -> None:
        self._store.reuse(number, original, time.time())
        self._finished_one(number)

    def _finished_one(self, number: int) -> None:
        row = self._store.row(number)
        assert row is not None
        self._told.done += 1
        self._end(row, row.key)
        self._told("trial", row)

    def _end(self, row: TrialRow, key: str) -> None:
        """Takes note of a trial's end, and sees to those that waited for it."""
        number = row.id
        self._active.pop(number, None)
        self._stopping.discard(number)
        self._early.discard(number)
        scored = row.state in SCORED
        self._rounds.left(number, known=scored and row.same_as is None)
        self._untold[number] = row.score if scored else None
        if scored:
            self._keys.setdefault(key, number)
            self._note_best(row)
        elif self._keys.get(key) == number:
            del self._keys[key]
        waiting = self._followers.pop(number, [])
        if scored:
            for each in waiting:
                self._reuse(each, row)
        elif waiting:  # there is no score to share: the first of them is evaluated itself
            first, *others = waiting
            self._keys[key] = first
            self._active[first].leader = None
            self._rounds.enter(first)
            for each in others:
                self._followers.setdefault(first, []).append(each)
                self._rounds.wait(each, first)
            self._pending.append(first)

    def _note_best(self, row: TrialRow) -> None:
        if row.state != "complete" or row.score is None:
            return
        if row.same_as is None and self._rounds.blind:
            raise blind(self._settings.metric, self._store.steps(row.id))
        self._spending.score(row.score)
        best = self._told.best
        if best is None or self._sign * row.score > self._sign * best[1]:
            self._told.best = (row.id, row.score)
