"""Stands between the controller and an executor, and carries out what a policy decides."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from itertools import islice
from types import MappingProxyType

from retiarii.dispatch.speeds import Speeds
from retiarii.dispatch.state import Launch, Policy, Running, State, Waiting
from retiarii.runtime.executor import Deliver, Device, Executor, Lost, Yielded
from retiarii.runtime.job import Job, JobTrial
from retiarii.training.events import Failed, Finished, Noted, Reported, TrialEvent

# How often a policy is asked when nothing but the time has changed.
_TICK_SECONDS = 1.0


# How many of the trials that wait a policy sees, for each idle device and at least: beyond, they
# change nothing but its cost.
_AHEAD, _LEAST_AHEAD = 64, 1024


@dataclass(eq=False, slots=True)
class _Held:
    """A trial that was handed in and has not ended."""

    spec: JobTrial
    job: Job  # that it was handed in with
    waiting: Waiting  # as a policy sees it, or last saw it
    cohort: int | None = None  # that it runs in


@dataclass(eq=False, slots=True)
class _Cohort:
    """A cohort under way, and what is measured of it."""

    running: Running
    size: int  # when the measurement began
    step: int = -1  # the last epoch that one of them has reported
    at: float | None = None  # when that was
    reports: int = 0  # of that epoch


class Dispatcher:
    """Trials come in as jobs, and go to devices as a policy says; events pass through.

    Args:
        executor: what runs cohorts.
        policy: what decides.
        regroup: whether trials of different jobs may be trained together.
        speeds: what is known of the devices from before.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        executor: Executor,
        policy: Policy,
        *,
        regroup: bool = False,
        speeds: Speeds | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor = executor
        self._policy = policy
        self._regroup = regroup
        self._clock = clock
        self._trials: dict[int, _Held] = {}  # waiting or running
        self._waiting: dict[int, None] = {}  # of those, in order
        self._cohorts: dict[int, _Cohort] = {}
        self._busy: set[str] = set()
        self._fits: dict[str, int] = {}
        self._jobs = 0
        self._stopping: set[int] = set()
        self._kinds: tuple[tuple[Device, ...], dict[str, str]] = ((), {})
        self._changed = False  # since the policy was asked
        self._asked = -math.inf
        self._resting = False
        self.speeds = speeds or Speeds()

    def devices(self) -> tuple[Device, ...]:
        """Where cohorts can run now."""
        return self._executor.devices()

    def submit(self, job: Job) -> None:
        """Takes in trials; a policy decides when they run, and with whom."""
        self._jobs += 1
        together: Hashable = (job.search_seed, job.asks) if self._regroup else self._jobs
        now = self._clock()
        for spec in job.trials:
            self._stopping.discard(spec.number)
            kin = None if job.alone else together
            self._trials[spec.number] = _Held(spec, job, Waiting(spec.number, now, kin))
            self._waiting[spec.number] = None
        self._changed = True

    def poll(self, timeout: float, deliver: Deliver) -> None:
        """Decides, then calls ``deliver`` for each event; see `Executor.poll`."""
        self._decide()
        self._executor.poll(timeout, lambda event: self._deliver(event, deliver))

    def stop(self, number: int) -> None:
        """Asks a trial to end early, wherever it is."""
        self._stopping.add(number)
        self._executor.stop(number)

    def rest(self) -> None:
        """Launches nothing more, and asks all cohorts to give their devices back."""
        self._resting = True
        for cohort in self._cohorts.values():
            self._ask_back(cohort)

    def waiting(self) -> int:
        """How many trials wait for a device."""
        return len(self._waiting)

    def busy(self) -> bool:
        """Whether a cohort is under way."""
        return bool(self._cohorts)

    def abandon(self) -> None:
        self._waiting.clear()
        self._executor.abandon()

    def shutdown(self) -> None:
        self._executor.shutdown()

    def state(self) -> State:
        """What there is now."""
        devices = self._executor.devices()
        ahead = max(_LEAST_AHEAD, _AHEAD * (len(devices) - len(self._busy)))
        seen = islice(self._waiting, ahead)
        return State(
            self._clock(),
            devices,
            tuple(self._trials[number].waiting for number in seen),
            tuple(cohort.running for cohort in self._cohorts.values()),
            self.speeds,
            MappingProxyType(dict(self._fits)),
        )

    # -- inside

    def _decide(self) -> None:
        now = self._clock()
        idle = len(self._busy) < len(self._executor.devices())
        due = now - self._asked >= _TICK_SECONDS
        if self._resting or not (due or (self._changed and idle and self._waiting)):
            return
        self._changed, self._asked = False, now
        for action in self._policy(self.state()):
            if isinstance(action, Launch):
                self._launch(action)
            else:
                self._ask_back(self._cohorts[action.job])

    def _ask_back(self, cohort: _Cohort) -> None:
        if not cohort.running.leaving:
            cohort.running = replace(cohort.running, leaving=True)
            self._executor.leave(cohort.running.trials)

    def _launch(self, action: Launch) -> None:
        held = [self._trials[number] for number in action.trials]
        self._jobs += 1
        now = self._clock()
        for each in held:
            del self._waiting[each.spec.number]
            each.cohort = self._jobs
        running = Running(
            self._jobs, action.device, action.trials, len(held), now, held[0].waiting.kin
        )
        self._busy.add(action.device)
        self._cohorts[self._jobs] = _Cohort(running, len(held))
        first = held[0].job
        job = Job(tuple(each.spec for each in held), first.search_seed, first.asks, first.alone)
        self._executor.submit(job, action.device)
        for number in self._stopping.intersection(action.trials):
            self._executor.stop(number)

    def _deliver(self, event: TrialEvent, deliver: Deliver) -> None:
        match event:
            case Yielded(number):
                self._back(number)
                return
            case Reported(number, step):
                self._measure(number, step)
            case Noted(number, _, fits) if fits is not None:
                self._note_fit(number, fits)
            case Finished(number) | Failed(number) | Lost(number):
                self._out(number)
                self._trials.pop(number, None)
        deliver(event)

    def _back(self, number: int) -> None:
        """A trial waits again."""
        held = self._trials[number]
        self._out(number)
        held.waiting = replace(held.waiting, since=self._clock(), begun=True)
        self._waiting[number] = None
        self._changed = True

    def _out(self, number: int) -> None:
        """A trial is no more in its cohort."""
        held = self._trials.get(number)
        if held is None or held.cohort is None:
            return
        cohort = self._cohorts[held.cohort]
        left = tuple(each for each in cohort.running.trials if each != number)
        cohort.running = replace(cohort.running, trials=left)
        self._changed = True
        if not left:
            del self._cohorts[held.cohort]
            self._busy.discard(cohort.running.device)
        held.cohort = None

    def _measure(self, number: int, step: int) -> None:
        """Learns from the time between two epochs of a cohort that stayed as it was."""
        held = self._trials.get(number)
        if held is None or held.cohort is None:
            return
        cohort = self._cohorts[held.cohort]
        if step <= cohort.step:
            return
        now, count = self._clock(), len(cohort.running.trials)
        same = cohort.at is not None and count == cohort.size and step == cohort.step + 1
        kind = self._kind(cohort.running.device)
        if same and kind is not None and cohort.at is not None and now > cohort.at:
            self.speeds = self.speeds.add(kind, _bucket(count), count / (now - cohort.at))
        cohort.step, cohort.at, cohort.size = step, now, count

    def _note_fit(self, number: int, fits: int) -> None:
        held = self._trials.get(number)
        if held is None or held.cohort is None:
            return
        kind = self._kind(self._cohorts[held.cohort].running.device)
        if kind is not None:
            self._fits[kind] = min(fits, self._fits.get(kind, fits))

    def _kind(self, device: str) -> str | None:
        devices = self._executor.devices()
        if devices is not self._kinds[0]:
            self._kinds = devices, {each.name: each.kind for each in devices}
        return self._kinds[1].get(device)


def _bucket(size: int) -> int:
    """The power of two that is nearest to a size, by ratio."""
    lower = 1 << (size.bit_length() - 1)
    return lower * 2 if size * size > 2 * lower * lower else lower
