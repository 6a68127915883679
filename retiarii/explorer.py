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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from retiarii.errors import StoreError
from retiarii.runtime.executor import Executor, Lost
from retiarii.runtime.job import Job, JobTrial
from retiarii.runtime.progress import Progress as Progress
from retiarii.runtime.progress import Watcher as Watcher
from retiarii.runtime.resumed import check_proposal, not_the_same
from retiarii.runtime.schema import SCORED, TERMINAL
from retiarii.runtime.store import Store, TrialRow
from retiarii.seeding import derive
from retiarii.strategies.base import Strategy
from retiarii.training.events import Failed, Finished, Noted, Reported, Started, TrialEvent

if TYPE_CHECKING:
    from retiarii.search_space import Point

Ended = Literal["trials", "exhausted", "interrupted"]

_POLL_SECONDS = 1.0


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


def trial_seed(search_seed: int, number: int, attempt: int) -> int:
    """The seed of a trial: by its number, and by how often it began afresh."""
    extra = (attempt,) if attempt else ()
    return derive(search_seed, "trial", number, *extra)


def trial_directory(directory: Path, number: int, attempt: int) -> Path:
    """Where a trial's checkpoints are; an attempt that begins afresh has its own place."""
    return directory / "trials" / (f"{number}.{attempt}" if attempt else str(number))


@dataclass(slots=True)
class _Active:
    """A trial that is not at its end: what the controller must know of it."""

    point: Point
    seed: int
    attempt: int = 0
    lost: int = 0
    seconds: float = 0.0
    since: float | None = None
    last_step: int = -1
    leader: int | None = None  # waits for this trial, which is the same model

    def elapsed(self) -> float:
        return self.seconds + (0.0 if self.since is None else time.monotonic() - self.since)


class Explorer:
    """One search. `run` may be called once."""

    def __init__(
        self,
        strategy: Strategy,
        store: Store,
        executor: Executor,
        settings: Settings,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self._strategy = strategy
        self._store = store
        self._executor = executor
        self._settings = settings
        self._watchers = watchers
        self._sign = 1.0 if settings.maximize else -1.0
        # A strategy that does not listen to reports need not be told them again on resuming.
        self._listens = type(strategy).report is not Strategy.report
        self._active: dict[int, _Active] = {}
        self._untold: dict[int, float | None] = {}  # ended, in any order
        self._keys: dict[str, int] = {}  # canonical key -> the trial that is trained for it
        self._followers: dict[int, list[int]] = {}
        self._stopping: set[int] = set()
        self._pending: list[int] = []  # to be submitted, with others
        self._stored = store.count()
        self._done = self._resumed = 0
        self._skipped = 0
        self._best: tuple[int, float] | None = None
        self._began = time.monotonic()

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
            ended = self._explore()
        except KeyboardInterrupt:
            pass
        except BaseException:
            with suppress(StoreError):  # what went wrong first is what to tell
                self._store.release()
            raise
        finally:
            self._executor.shutdown()
        self._store.release()
        self._store.set_meta(ended=ended, skipped=self._skipped)
        self._tell_watchers("end")
        return ended

    # -- the loop

    def _explore(self) -> Ended:
        ended: Ended = "trials"
        told = proposed = 0
        begun = False
        while proposed < self._settings.trials:
            if not begun and proposed >= self._stored:
                begun = True
                self._tell_watchers("begin")
            while told < self._known_before(proposed):
                self._settle(told)
                told += 1
            point = self._strategy.ask(proposed)
            self._note_skipped()
            if point is None:
                if proposed < self._stored:
                    raise not_the_same(proposed, "nothing is proposed in its place")
                ended = "exhausted"
                break
            self._admit(proposed, point)
            proposed += 1
            if proposed % self._settings.cohort == 0:
                self._flush()
        if not begun:
            self._tell_watchers("begin")
        while told < proposed:
            self._settle(told)
            told += 1
        return ended

    def _known_before(self, number: int) -> int:
        """How many trials have been told when this one is proposed."""
        cohort = number // self._settings.cohort
        return max(0, cohort - self._settings.window + 1) * self._settings.cohort

    def _settle(self, number: int) -> None:
        """Waits for a trial's end, and tells it."""
        while number not in self._untold:
            self._flush()
            self._executor.poll(_POLL_SECONDS, self._deliver)
        score = self._untold.pop(number)
        self._strategy.tell(number, None if score is None else self._sign * score)

    def _note_skipped(self) -> None:
        self._skipped = int(getattr(self._strategy, "infeasible", 0))

    def _admit(self, number: int, point: Point) -> None:
        """A proposal becomes a trial: known from the store, a duplicate, or to be evaluated."""
        key = point.key()
        row = self._store.row(number) if number < self._stored else None
        if row is not None:
            check_proposal(row, point, key)
            last_step = self._replay_reports(number)
            if row.state in TERMINAL:
                self._done += 1
                self._resumed += 1
                self._end(row, key)
                return
            active = _Active(
                point, row.seed, row.attempt, row.lost, row.seconds, last_step=last_step
            )
        else:
            active = _Active(point, trial_seed(self._settings.seed, number, 0))
        leader = self._keys.get(key)
        original = self._ended_row(leader)
        now = time.time()
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
        else:
            self._keys[key] = number
            self._pending.append(number)

    def _ended_row(self, number: int | None) -> TrialRow | None:
        return None if number is None or number in self._active else self._store.row(number)

    def _flush(self) -> None:
        """Submits what is waiting for it."""
        together: list[int] = []
        for number in self._pending:
            # What a worker died of may be one of the trials it had: each goes on by itself.
            if self._settings.together and not self._active[number].lost:
                together.append(number)
            else:
                self._submit([number])
        self._pending.clear()
        for start in range(0, len(together), self._settings.cohort):
            self._submit(together[start : start + self._settings.cohort])

    def _submit(self, numbers: Sequence[int]) -> None:
        trials = []
        for number in numbers:
            active = self._active[number]
            place = trial_directory(self._settings.directory, number, active.attempt)
            trials.append(
                JobTrial(
                    number, active.seed, active.attempt, active.point.raws, place, active.point
                )
            )
        self._executor.submit(Job(tuple(trials), self._settings.seed))
        for number in self._stopping.intersection(numbers):
            self._executor.stop(number)

    # -- what comes back

    def _deliver(self, event: TrialEvent) -> None:
        active = self._active.get(event.number)
        if active is None:
            return  # a late word of a trial that has ended
        match event:
            case Started(number):
                active.since = time.monotonic()
                self._store.start(number, time.time())
            case Noted(_, text):
                self._tell_watchers("note", note=text)
            case Reported(number, step, metrics):
                self._reported(active, number, step, dict(metrics))
            case Finished(number, score, metrics, stopped) if math.isfinite(score):
                state: Literal["pruned", "complete"] = "pruned" if stopped else "complete"
                self._store.finish(number, state, score, metrics, active.elapsed(), time.time())
                self._finished_one(number)
            case Finished(number, score):
                self._failed(active, number, f"the score is {score}", None)
            case Failed(number, message, trace):
                self._failed(active, number, message, trace or None)
            case Lost(number, message):
                self._lost(active, number, message)

    def _reported(self, active: _Active, number: int, step: int, metrics: dict[str, float]) -> None:
        again = step <= active.last_step
        progress = not again and active.lost > 0
        self._store.report(number, step, metrics, active.elapsed(), progress)
        if not again:
            active.last_step = step
            active.lost = 0
            self._consult(number, step, metrics)
        if self._watchers:
            self._tell_watchers("step", self._store.row(number), step, metrics)

    def _consult(self, number: int, step: int, metrics: dict[str, Any]) -> None:
        score = metrics.get(self._settings.metric)
        if not self._listens or score is None:
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

    def _failed(self, active: _Active, number: int, message: str, trace: str | None) -> None:
        seconds = active.elapsed()
        if active.attempt + active.lost >= self._settings.retries:
            self._store.fail(number, message, trace, seconds, time.time())
            self._finished_one(number)
            return
        before = trial_directory(self._settings.directory, number, active.attempt)
        attempt = active.attempt + 1
        seed = trial_seed(self._settings.seed, number, attempt)
        self._store.retry(number, attempt, seed, message, trace, seconds)
        shutil.rmtree(before, ignore_errors=True)
        self._active[number] = _Active(active.point, seed, attempt, active.lost, seconds)
        self._stopping.discard(number)
        self._pending.append(number)

    def _lost(self, active: _Active, number: int, message: str) -> None:
        """A worker died: the trial goes on elsewhere, unless it seems to be what kills them."""
        active.lost += 1
        active.seconds = active.elapsed()
        active.since = None
        if active.attempt + active.lost > self._settings.retries:
            message = f"{message}; it was tried {active.attempt + active.lost} times"
            self._store.fail(number, message, None, active.seconds, time.time())
            self._finished_one(number)
            return
        self._store.lose(number, active.lost, message, active.seconds)
        self._pending.append(number)

    def _reuse(self, number: int, original: TrialRow) -> None:
        self._store.reuse(number, original, time.time())
        self._finished_one(number)

    def _finished_one(self, number: int) -> None:
        row = self._store.row(number)
        assert row is not None
        self._done += 1
        self._end(row, row.key)
        self._tell_watchers("trial", row)

    def _end(self, row: TrialRow, key: str) -> None:
        """Takes note of a trial's end, and sees to those that waited for it."""
        number = row.id
        self._active.pop(number, None)
        self._stopping.discard(number)
        scored = row.state in SCORED
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
            if others:
                self._followers[first] = others
            self._pending.append(first)

    def _note_best(self, row: TrialRow) -> None:
        if row.state != "complete" or row.score is None:
            return
        if self._best is None or self._sign * row.score > self._sign * self._best[1]:
            self._best = (row.id, row.score)

    def _tell_watchers(
        self,
        kind: Literal["begin", "note", "step", "trial", "end"],
        trial: TrialRow | None = None,
        step: int | None = None,
        metrics: dict[str, float] | None = None,
        note: str | None = None,
    ) -> None:
        if not self._watchers:
            return
        progress = Progress(
            kind,
            self._settings.trials,
            self._done,
            self._resumed,
            self._skipped,
            time.monotonic() - self._began,
            self._best,
            trial,
            step,
            metrics,
            note,
        )
        for watcher in self._watchers:
            watcher(progress)
