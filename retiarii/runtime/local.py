"""Runs trials in worker processes of this machine."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any

from retiarii.errors import RetiariiError
from retiarii.runtime.executor import Deliver, Lost
from retiarii.runtime.job import Job
from retiarii.runtime.worker import Held, MemorySource, without_interrupts, work
from retiarii.training.events import Failed, Finished, TrialEvent

if TYPE_CHECKING:
    from retiarii.runtime.source import FileSource

# A killed worker is noticed by the end of its pipe; processes that it forked may keep that
# open, and so the worker itself is looked at this often too.
_LOOK_SECONDS = 0.5
_LEAVE_SECONDS = 5.0
# Workers killed in a row while they start: one may be bad luck, more are a machine in trouble.
_MOST_STARTS_KILLED = 3


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    connection: Connection
    ready: bool = False
    job: Job | None = None
    open: set[int] = field(default_factory=set)  # trials of its job that have not ended


class LocalExecutor:
    """Up to ``workers`` processes, each with its share of the CPU's threads.

    A worker starts when there is work for it, and is replaced when it dies.

    Args:
        source: where workers get the space from.
        workers: how many at most.
        held: a descriptor that workers keep open (the directory's lock), or ``None``.
    """

    def __init__(
        self, source: FileSource | MemorySource, workers: int, held: int | None = None
    ) -> None:
        self._source = source
        self._most = workers
        self._held = held
        self._threads = max(1, _cpus() // workers)
        self._workers: list[_Worker] = []
        self._waiting: deque[Job] = deque()
        self._stopping: set[int] = set()
        self._context = multiprocessing.get_context("spawn")
        self._starts_killed = 0

    def submit(self, job: Job) -> None:
        self._stopping -= {trial.number for trial in job.trials}
        self._waiting.append(job)
        self._hand_out()

    def poll(self, timeout: float, deliver: Deliver) -> None:
        deadline = time.monotonic() + timeout
        delivered = False
        while not delivered:
            self._hand_out()
            left = max(0.0, deadline - time.monotonic())
            channels = {worker.connection: worker for worker in self._workers}
            ready = wait(list(channels), min(left, _LOOK_SECONDS))
            for channel in ready:
                worker = channels[channel]  # type: ignore[index]
                delivered |= self._receive(worker, deliver)
            for worker in list(self._workers):
                if not worker.process.is_alive():
                    delivered |= self._bury(worker, deliver)
            if left == 0:
                return

    def stop(self, number: int) -> None:
        self._stopping.add(number)
        for worker in self._workers:
            if number in worker.open:
                self._send(worker, {"kind": "stop", "number": number})

    def abandon(self) -> None:
        self._waiting.clear()  # and `shutdown` ends the workers at once

    def shutdown(self) -> None:
        self._waiting.clear()
        for worker in self._workers:
            if worker.open or not worker.ready:
                worker.process.kill()  # checkpoints are whole at any moment
            else:
                self._send(worker, {"kind": "quit"})
        deadline = time.monotonic() + _LEAVE_SECONDS
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
            worker.process.close()
        self._workers.clear()

    # -- inside

    def _hand_out(self) -> None:
        while self._waiting:
            idle = next((w for w in self._workers if w.job is None), None)
            if idle is None:
                if len(self._workers) >= self._most:
                    return
                idle = self._start()
            idle.job = job = self._waiting.popleft()
            idle.open = {trial.number for trial in job.trials}
            self._send(idle, {"kind": "job", "job": job.to_json()})
            for number in idle.open & self._stopping:
                self._send(idle, {"kind": "stop", "number": number})

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=work,
            args=(
                theirs,
                self._source,
                self._threads,
                None if self._held is None else Held(self._held),
            ),
            name="retiarii-worker",
        )
        try:
            with without_interrupts():
                process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _send(self, worker: _Worker, message: Mapping[str, Any]) -> None:
        with suppress(OSError):  # it died, if so; the next poll sees that
            worker.connection.send_bytes(json.dumps(message).encode())

    def _receive(self, worker: _Worker, deliver: Deliver) -> bool:
        """Takes in what a worker has sent; whether there was an event among it."""
        delivered = False
        try:
            while worker.connection.poll():
                message = json.loads(worker.connection.recv_bytes())
                delivered |= self._take(worker, message, deliver)
        except (EOFError, OSError):
            worker.process.join(_LEAVE_SECONDS)  # the pipe has ended, so the process does
        return delivered

    def _take(self, worker: _Worker, message: Mapping[str, Any], deliver: Deliver) -> bool:
        match message["kind"]:
            case "event":
                event = TrialEvent.from_json(message["event"])
                if isinstance(event, Finished | Failed):
                    worker.open.discard(event.number)
                deliver(event)
                return True
            case "ask":  # all that the trial has reported before has been delivered
                self._send(worker, {"kind": "answer", "stop": message["number"] in self._stopping})
            case "ready":
                worker.ready = True
                self._starts_killed = 0
            case "done":
                worker.job = None
                worker.open = set()
            case "broken":
                raise _broken(message["error"])
        return False

    def _bury(self, worker: _Worker, deliver: Deliver) -> bool:
        delivered = self._receive(worker, deliver)
        self._workers.remove(worker)
        code = worker.process.exitcode
        how = _how_it_ended(code)
        pid = worker.process.pid
        worker.connection.close()
        worker.process.close()
        if not worker.ready:
            self._starts_killed += 1
            if (code or 0) >= 0 or self._starts_killed >= _MOST_STARTS_KILLED:
                raise RetiariiError(
                    f"a worker process {how} while it was starting",
                    where=f"pid {pid}; its own messages are above",
                    fix='start the search under `if __name__ == "__main__":`, and see whether '
                    'it runs with executor="inline"',
                )
            if worker.job is not None:
                self._waiting.appendleft(worker.job)
            return delivered
        for number in sorted(worker.open):
            deliver(Lost(number, f"its worker process {how} (pid {pid})"))
            delivered = True
        return delivered


def _cpus() -> int:
    """How many CPUs this process may use; macOS cannot say, and gives all."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def _broken(error: Mapping[str, Any]) -> RetiariiError:
    return RetiariiError(error["cause"], where=error["where"], fix=error["fix"])


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
