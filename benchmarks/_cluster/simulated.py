"""An executor whose devices are made up: it keeps the time, and says what becomes of trials."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from retiarii.runtime.executor import Deliver, Device, Lost, Yielded
from retiarii.runtime.job import Job
from retiarii.training.events import Finished, Reported, Started, TrialEvent


@dataclass(frozen=True, slots=True)
class Machine:
    """A kind of device.

    Attributes:
        kind: its name.
        rates: cohort size -> trial-epochs a second of the whole cohort; on the line between two
            sizes, and as the largest beyond it.
        merging: seconds before the first epoch of a cohort, and more for each of its trials.
        spread: the logarithmic deviation of an epoch's time.
        mtbf: mean seconds until it fails; infinite: never.
        repair: seconds until it is back.
    """

    kind: str
    rates: Mapping[int, float]
    merging: tuple[float, float] = (1.0, 0.05)
    spread: float = 0.05
    mtbf: float = math.inf
    repair: float = 60.0

    def epoch(self, size: int) -> float:
        """Seconds of one epoch of a cohort."""
        known = sorted(self.rates)
        if size <= known[0]:
            return 1.0 / self.rates[known[0]] * known[0]
        for low, high in itertools.pairwise(known):
            if size <= high:
                share = (size - low) / (high - low)
                rate = self.rates[low] + share * (self.rates[high] - self.rates[low])
                return size / rate
        return size / self.rates[known[-1]]


@dataclass(frozen=True, slots=True)
class Length:
    """How a trial goes: its epochs, what one costs against the usual, and its scores' end."""

    epochs: int
    cost: float
    score: float


@dataclass(eq=False, slots=True)
class _Cohort:
    device: str
    open: dict[int, int]  # trial -> epochs done
    leaving: bool = False


@dataclass(slots=True)
class Measured:
    """What came of it.

    Attributes:
        busy: device -> seconds in which it trained.
        trained: trial-epochs that were trained, those included that a failure lost.
    """

    busy: dict[str, float] = field(default_factory=dict)
    trained: float = 0.0


class Simulated:
    """An `Executor`.

    Args:
        machines: (kind, how many of it).
        length: trial -> how it goes.
        seed: of the times of failures and epochs.
    """

    def __init__(
        self,
        machines: Sequence[tuple[Machine, int]],
        length: Callable[[int], Length],
        seed: int,
    ) -> None:
        self.now = 0.0
        self.measured = Measured()
        self._length = length
        self._random = random.Random(seed)
        self._order = itertools.count()
        self._machines: dict[str, Machine] = {}
        self._up: dict[str, Device] = {}
        self._events: list[tuple[float, int, Callable[[Deliver], None]]] = []
        self._cohorts: dict[str, _Cohort] = {}
        self._done: dict[int, int] = {}  # what a trial's checkpoint holds
        self._of: dict[int, _Cohort] = {}
        self._stopping: set[int] = set()
        for machine, count in machines:
            for _ in range(count):
                name = f"{machine.kind}:{len(self._machines)}"
                self._machines[name] = machine
                self._up[name] = Device(name, machine.kind)
                self._plan_failure(name)
        self._devices = tuple(self._up.values())

    # -- the interface

    def devices(self) -> tuple[Device, ...]:
        return self._devices

    def submit(self, job: Job, device: str | None = None) -> None:
        assert device is not None
        numbers = [trial.number for trial in job.trials]
        self._stopping.difference_update(numbers)
        if device not in self._up:
            self._later(0.0, lambda deliver: [deliver(Lost(n, "it has gone")) for n in numbers])
            return
        assert device not in self._cohorts, "two cohorts on one device"
        cohort = _Cohort(device, {n: self._done.get(n, 0) for n in numbers})
        self._cohorts[device] = cohort
        self._of.update(dict.fromkeys(numbers, cohort))
        fixed, each = self._machines[device].merging
        start = fixed + each * len(numbers)
        self._later(0.0, lambda deliver: [deliver(Started(n)) for n in numbers])
        self._plan_epoch(cohort, start)

    def poll(self, timeout: float, deliver: Deliver) -> None:
        """Plays the next event, and those of the same moment."""
        limit = self.now + timeout
        if not self._events or self._events[0][0] > limit:
            self.now = limit
            return
        self.now = self._events[0][0]
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2](deliver)

    def leave(self, numbers: Collection[int]) -> None:
        for number in numbers:
            if number in self._of:
                self._of[number].leaving = True

    def stop(self, number: int) -> None:
        self._stopping.add(number)

    def abandon(self) -> None:
        self._events.clear()

    def shutdown(self) -> None:
        self._events.clear()

    # -- inside

    def _later(self, seconds: float, happen: Callable[[Deliver], Any]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), happen))

    def _plan_epoch(self, cohort: _Cohort, start: float = 0.0) -> None:
        machine = self._machines[cohort.device]
        cost = sum(self._length(n).cost for n in cohort.open) / len(cohort.open)
        noise = math.exp(self._random.gauss(0.0, machine.spread))
        seconds = start + machine.epoch(len(cohort.open)) * cost * noise
        begun = self.now
        self._later(seconds, lambda deliver: self._end_epoch(cohort, begun, deliver))

    def _end_epoch(self, cohort: _Cohort, begun: float, deliver: Deliver) -> None:
        if self._cohorts.get(cohort.device) is not cohort:
            return  # its device has failed meanwhile
        busy = self.measured.busy
        busy[cohort.device] = busy.get(cohort.device, 0.0) + self.now - begun
        self.measured.trained += len(cohort.open)
        events: list[TrialEvent] = []
        for number in list(cohort.open):
            cohort.open[number] += 1
            done = self._done[number] = cohort.open[number]
            length = self._length(number)
            score = length.score * (1 - 0.5 ** (done / length.epochs * 4))
            events.append(Reported(number, done, {"accuracy": score}))
            if done >= length.epochs or number in self._stopping:
                events.append(Finished(number, score, {"accuracy": score}, done < length.epochs))
                del cohort.open[number]
                del self._of[number]
        if cohort.leaving:
            events += [Yielded(number) for number in cohort.open]
            for number in cohort.open:
                del self._of[number]
            cohort.open.clear()
        if cohort.open:
            self._plan_epoch(cohort)
        else:
            del self._cohorts[cohort.device]
        for event in events:
            deliver(event)

    def _plan_failure(self, name: str) -> None:
        mtbf = self._machines[name].mtbf
        if not math.isinf(mtbf):
            self._later(self._random.expovariate(1 / mtbf), lambda d: self._fail(name, d))

    def _fail(self, name: str, deliver: Deliver) -> None:
        cohort = self._cohorts.pop(name, None)
        del self._up[name]
        self._devices = tuple(self._up.values())
        for number in () if cohort is None else cohort.open:
            del self._of[number]
            deliver(Lost(number, f"{name} failed"))
        self._later(self._machines[name].repair, lambda _: self._return(name))

    def _return(self, name: str) -> None:
        self._up[name] = Device(name, self._machines[name].kind)
        self._devices = tuple(self._up.values())
        self._plan_failure(name)
