"""The trials of a search on their way: from a proposal to their end, whatever comes between.

A proposal is known from the store, equal to another trial, or to be evaluated; what is evaluated
may pause, be stopped, fail and begin again, or lose its worker. All of it is written down as it
happens.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from retiarii.errors import DiskError
from retiarii.runtime.executor import Lost, Runner
from retiarii.runtime.job import Job, JobTrial
from retiarii.runtime.progress import Told
from retiarii.runtime.resumed import check_proposal
from retiarii.runtime.rows import TrialRow
from retiarii.runtime.schema import SCORED, TERMINAL
from retiarii.runtime.store import Store
from retiarii.search.lineage import Lineage
from retiarii.search.rounds import Rounds, blind, of_verdict
from retiarii.search.spending import Spending
from retiarii.search.state import (
    Active,
    Settings,
    drop_checkpoints,
    trial_directory,
)
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


class Ledger:
    """The trials of one search.

    Args:
        store: where they are written down.
        executor: what evaluates them.
        settings: what the search is asked for.
        rounds: which of them pause, and go on.
        spending: what they have cost.
        lineage: who goes on from whose weights.
        told: who watches.
        hears: is told (trial, step, score) of each report, a higher score being better, and
            answers whether the trial is to stop; ``None`` where nobody listens.

    Attributes:
        untold: trials that have ended, in any order, with their scores; whoever tells them takes
            them out.
        stored: how many trials the store had when the search began.
    """

    def __init__(
        self,
        store: Store,
        executor: Runner,
        settings: Settings,
        rounds: Rounds,
        spending: Spending,
        lineage: Lineage,
        told: Told,
        hears: Callable[[int, int, float], bool] | None,
    ) -> None:
        self._store = store
        self._executor = executor
        self._settings = settings
        self._rounds = rounds
        self._spending = spending
        self._lineage = lineage
        self._told = told
        self._hears = hears
        self._sign = 1.0 if settings.maximize else -1.0
        self._aims = settings.aims
        self._asks = settings.scheduler is not None or hears is not None
        self._active: dict[int, Active] = {}
        self._keys: dict[str, int] = {}  # canonical key -> the trial that is trained for it
        self._followers: dict[int, list[int]] = {}
        self._stopping: set[int] = set()  # by the strategy
        self._early: set[int] = set()  # by the scheduler
        self._pending: list[int] = []  # to be submitted, with others
        self.untold: dict[int, float | None] = {}
        self.stored = store.count()

    def admit(self, number: int, point: Point) -> None:
        """A proposal becomes a trial: known from the store, a duplicate, or to be evaluated."""
        key = point.key()
        row = self._store.row(number) if number < self.stored else None
        if row is not None:
            check_proposal(row, point, key)
            last_step = self.replay_reports(number)
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

    def known(self, number: int, key: str) -> None:
        """A trial that was evaluated in an earlier search: equal ones take over its score."""
        self._keys[key] = number

    def turn(self) -> None:
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

    def flush(self) -> None:
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

    # -- what comes back

    def deliver(self, event: TrialEvent) -> None:
        """Takes in what has happened to a trial.

        Raises:
            DiskError: a worker cannot write.
            StoreError: the store cannot be written.
        """
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
        if self._hears is not None and self._hears(number, step, self._sign * score):
            self._stopping.add(number)
            self._executor.stop(number)

    def replay_reports(self, number: int) -> int:
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
        self.untold[number] = row.score if scored else None
        if scored:
            self._keys.setdefault(key, number)
            self.note_best(row)
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

    def note_best(self, row: TrialRow) -> None:
        """Takes note of a whole trial's score.

        Raises:
            SchedulerError: the scheduler has nothing to go by.
        """
        if row.state != "complete" or row.score is None:
            return
        if row.same_as is None and self._rounds.blind:
            raise blind(self._settings.metric, self._store.steps(row.id))
        self._spending.score(row.score)
        best = self._told.best
        if best is None or self._sign * row.score > self._sign * best[1]:
            self._told.best = (row.id, row.score)
