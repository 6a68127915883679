"""Stands before a dispatcher, and writes down what happens: ``status.json``, and trials' logs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from retiarii.dispatch.dispatcher import Dispatcher
from retiarii.dispatch.state import Running
from retiarii.runtime.executor import Deliver, Device, Lost
from retiarii.runtime.job import Job
from retiarii.runtime.live import Live, LiveCohort, remove_live
from retiarii.runtime.logs import append, ranges, trial_log
from retiarii.training.events import Failed, Finished, Noted, Reported, Started, TrialEvent

_WRITE_SECONDS = 1.0
# How many of the trials that wait are named.
_NAMED = 10


class _Pace:
    """How fast a trial's epochs follow each other."""

    __slots__ = ("at", "log", "seconds", "step")

    def __init__(self, log: Path | None) -> None:
        self.log = log
        self.step = 0
        self.at: float | None = None
        self.seconds: float | None = None  # between its last two

    def report(self, step: int, now: float) -> None:
        if self.at is not None and now > self.at:
            self.seconds = now - self.at
        self.step, self.at = step, now

    def begin(self) -> None:
        self.at = self.seconds = None


class Reporting:
    """A dispatcher whose doings are written down in the search's directory.

    Args:
        dispatcher: which does the work.
        directory: the search's.
        phase: what the trials are for: ``search`` or ``confirm``.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        directory: Path,
        phase: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dispatcher = dispatcher
        self._directory = directory
        self._phase = phase
        self._clock = clock
        self._began = clock()
        self._written = -math.inf
        self._paces: dict[int, _Pace] = {}  # of trials that have not ended

    def devices(self) -> tuple[Device, ...]:
        return self._dispatcher.devices()

    def submit(self, job: Job) -> None:
        for trial in job.trials:
            log = trial_log(trial.directory, trial.number)
            self._paces[trial.number] = _Pace(log)
            if trial.attempt and log is not None:
                append(log, f"attempt {trial.attempt + 1}, from another seed")
        self._dispatcher.submit(job)

    def poll(self, timeout: float, deliver: Deliver) -> None:
        self._dispatcher.poll(timeout, lambda event: self._pass(event, deliver))
        self._write()

    def stop(self, number: int) -> None:
        self._dispatcher.stop(number)

    def rest(self) -> None:
        self._dispatcher.rest()

    def busy(self) -> bool:
        return self._dispatcher.busy()

    def abandon(self) -> None:
        self._dispatcher.abandon()

    def shutdown(self) -> None:
        self._dispatcher.shutdown()
        remove_live(self._directory)

    # -- inside

    def _pass(self, event: TrialEvent, deliver: Deliver) -> None:
        pace = self._paces.get(event.number)
        if pace is not None:
            self._note(event, pace)
        deliver(event)
        self._write()

    def _note(self, event: TrialEvent, pace: _Pace) -> None:
        text: str | None = None
        match event:
            case Started():
                pace.begin()
            case Reported(_, step):
                pace.report(step, self._clock())
            case Noted(_, note):
                text = note
            case Finished(number):
                del self._paces[number]
            case Failed(number, message, trace):
                text = f"failed: {message}\n{trace}"
                del self._paces[number]
            case Lost(number, message):
                text = f"lost: {message}"
                del self._paces[number]
        if text is not None and pace.log is not None:
            append(pace.log, text)

    def _write(self) -> None:
        now = self._clock()
        if now - self._written < _WRITE_SECONDS:
            return
        self._written = now
        state = self._dispatcher.state()
        Live(
            pid=os.getpid(),
            phase=self._phase,
            updated=time.time(),
            seconds=now - self._began,
            devices=tuple((device.name, device.kind) for device in state.devices),
            cohorts=tuple(self._cohort(each, state.now) for each in state.running),
            waiting=self._dispatcher.waiting(),
            next=tuple(each.number for each in state.waiting[:_NAMED]),
        ).write(self._directory)

    def _cohort(self, running: Running, now: float) -> LiveCohort:
        paces = [self._paces[n] for n in running.trials if n in self._paces]
        steps = [pace.step for pace in paces] or [0]
        known = [pace.seconds for pace in paces if pace.seconds is not None]
        return LiveCohort(
            device=running.device,
            count=len(running.trials),
            trials=ranges(running.trials),
            epochs=(min(steps), max(steps)),
            seconds=now - running.since,
            rate=sum(1 / each for each in known) if known else None,
            leaving=running.leaving,
        )
