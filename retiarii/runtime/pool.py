"""Keeps workers busy, wherever they are: hands out jobs, takes in words, buries the dead."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from retiarii.errors import RetiariiError
from retiarii.runtime.executor import Deliver, Device, Lost, Yielded
from retiarii.runtime.job import Job
from retiarii.training.events import Failed, Finished, TrialEvent

# How often workers are looked at that have said nothing.
_LOOK_SECONDS = 0.5
_LEAVE_SECONDS = 5.0
# Workers lost in a row while they start: one may be bad luck, more are a machine in trouble.
_MOST_STARTS_LOST = 3

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class End:
    """How a worker ended.

    Attributes:
        how: for the sentence "its worker ...".
        where: which worker that was.
        blamed: whether it ended by its own doing (an exit code, not a signal or a lost machine).
    """

    how: str
    where: str
    blamed: bool = False


class Link(Protocol):
    """One worker, as the controller sees it."""

    def send(self, message: Message) -> None:
        """Hands it a message; one that has ended never gets it, and nothing is raised."""

    def receive(self) -> list[Message]:
        """What it has said since; does not wait."""

    def ended(self) -> End | None:
        """How it ended, if it did."""

    def kill(self) -> None:
        """Ends it at once."""

    def close(self, timeout: float) -> None:
        """Waits for its end, and ends it at once after ``timeout`` seconds."""


class Site(Protocol):
    """Where workers are started."""

    def devices(self) -> tuple[Device, ...]:
        """Where a worker can run now."""

    def start(self, device: Device) -> Link:
        """Starts a worker.

        Raises:
            RetiariiError: it cannot be started.
        """

    def wait(self, links: Sequence[Link], timeout: float) -> None:
        """Returns when one of them may have said something, or after ``timeout`` seconds."""


@dataclass(eq=False)
class _Worker:
    link: Link
    device: str
    heard: float | None = None  # when it last said something
    ready: bool = False
    job: Job | None = None
    open: set[int] = field(default_factory=set)  # trials of its job that have not ended


class Pool:
    """An executor: at most one worker a device, started when there is work for it.

    Args:
        site: where workers are started.
        patience: seconds of silence after which a worker hangs, and is replaced. Workers say that
            they live from a thread of their own, so that a long epoch is no silence.
        start_hint: what to do when workers end while they start.
    """

    def __init__(self, site: Site, patience: float, start_hint: str) -> None:
        self._site = site
        self._patience = patience
        self._hint = start_hint
        self._workers: list[_Worker] = []
        self._waiting: deque[tuple[Job, str | None]] = deque()
        self._stopping: set[int] = set()
        self._yielded: list[int] = []  # before their job had begun
        self._starts_lost = 0

    def devices(self) -> tuple[Device, ...]:
        return self._site.devices()

    def submit(self, job: Job, device: str | None = None) -> None:
        self._stopping -= {trial.number for trial in job.trials}
        self._waiting.append((job, device))
        self._hand_out()

    def poll(self, timeout: float, deliver: Deliver) -> None:
        deadline = time.monotonic() + timeout
        delivered = bool(self._yielded)
        while self._yielded:
            deliver(Yielded(self._yielded.pop(0)))
        while not delivered:
            self._hand_out()
            left = max(0.0, deadline - time.monotonic())
            self._site.wait([w.link for w in self._workers], min(left, _LOOK_SECONDS))
            for worker in list(self._workers):
                delivered |= self._receive(worker, deliver)
                end = worker.link.ended() or self._hangs(worker)
                if end is not None:
                    delivered |= self._bury(worker, end, deliver)
            if left == 0:
                return

    def leave(self, numbers: Collection[int]) -> None:
        for waiting in list(self._waiting):
            trials = [trial.number for trial in waiting[0].trials]
            if not set(trials).isdisjoint(numbers):
                self._waiting.remove(waiting)
                self._yielded += trials
        for worker in self._workers:
            if worker.open.intersection(numbers):
                worker.link.send({"kind": "leave"})

    def stop(self, number: int) -> None:
        self._stopping.add(number)
        for worker in self._workers:
            if number in worker.open:
                worker.link.send({"kind": "stop", "number": number})

    def abandon(self) -> None:
        self._waiting.clear()  # and `shutdown` ends the workers at once

    def shutdown(self) -> None:
        self._waiting.clear()
        for worker in self._workers:
            if worker.open or not worker.ready:
                worker.link.kill()  # checkpoints are whole at any moment
            else:
                worker.link.send({"kind": "quit"})
        deadline = time.monotonic() + _LEAVE_SECONDS
        for worker in self._workers:
            worker.link.close(max(0.0, deadline - time.monotonic()))
        self._workers.clear()

    # -- inside

    def _hand_out(self) -> None:
        """Gives waiting jobs to idle workers, and starts workers for others."""
        later: deque[tuple[Job, str | None]] = deque()
        while self._waiting:
            job, wanted = self._waiting.popleft()
            worker = self._idle(wanted)
            if worker is None:
                later.append((job, wanted))
            else:
                self._give(worker, job)
        self._waiting = later

    def _idle(self, wanted: str | None) -> _Worker | None:
        devices = self._site.devices()
        if wanted is not None and all(device.name != wanted for device in devices):
            wanted = None
        ours = {worker.device: worker for worker in self._workers}
        fitting = [d for d in devices if wanted in (None, d.name)]
        for device in fitting:
            if device.name in ours and ours[device.name].job is None:
                return ours[device.name]
        for device in fitting:
            if device.name not in ours:
                worker = _Worker(self._site.start(device), device.name)
                self._workers.append(worker)
                return worker
        return None

    def _give(self, worker: _Worker, job: Job) -> None:
        worker.job = job
        worker.open = {trial.number for trial in job.trials}
        worker.link.send({"kind": "job", "job": job.to_json()})
        for number in worker.open & self._stopping:
            worker.link.send({"kind": "stop", "number": number})

    def _receive(self, worker: _Worker, deliver: Deliver) -> bool:
        """Takes in what a worker has said; whether there was an event among it."""
        delivered = False
        for message in worker.link.receive():
            worker.heard = time.monotonic()
            delivered |= self._take(worker, message, deliver)
        return delivered

    def _take(self, worker: _Worker, message: Message, deliver: Deliver) -> bool:
        match message["kind"]:
            case "event":
                event = TrialEvent.from_json(message["event"])
                if isinstance(event, Finished | Failed):
                    worker.open.discard(event.number)
                deliver(event)
                return True
            case "ask":  # all that the trial has reported before has been delivered
                stop = message["number"] in self._stopping
                worker.link.send({"kind": "answer", "stop": stop})
            case "ready":
                worker.ready = True
                self._starts_lost = 0
            case "done":
                left, worker.job, worker.open = worker.open, None, set()
                for number in sorted(left):
                    deliver(Yielded(number))
                return bool(left)
            case "broken":
                error = message["error"]
                raise RetiariiError(error["cause"], where=error["where"], fix=error["fix"])
        return False

    def _hangs(self, worker: _Worker) -> End | None:
        # One that has never said anything may wait for its place on a cluster.
        silent = 0.0 if worker.heard is None else time.monotonic() - worker.heard
        if silent < self._patience:
            return None
        worker.link.kill()
        end = worker.link.ended()
        return End(f"hung: it said nothing for {silent:.0f} s", end.where if end else worker.device)

    def _bury(self, worker: _Worker, end: End, deliver: Deliver) -> bool:
        delivered = self._receive(worker, deliver)
        self._workers.remove(worker)
        worker.link.close(_LEAVE_SECONDS)
        if not worker.ready:
            self._starts_lost += 1
            if end.blamed or self._starts_lost >= _MOST_STARTS_LOST:
                raise RetiariiError(
                    f"a worker process {end.how} while it was starting",
                    where=end.where,
                    fix=self._hint,
                )
            if worker.job is not None:
                self._waiting.appendleft((worker.job, worker.device))
            return delivered
        for number in sorted(worker.open):
            deliver(Lost(number, f"its worker process {end.how} ({end.where})"))
            delivered = True
        return delivered
