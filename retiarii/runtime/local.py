"""Runs trials in worker processes of this machine."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, cast

from retiarii.runtime.executor import Device
from retiarii.runtime.logs import worker_log
from retiarii.runtime.pool import End, Link, Message, Pool
from retiarii.runtime.worker import Held, MemorySource, Share, without_interrupts, work

if TYPE_CHECKING:
    from retiarii.runtime.sharing import Publication
    from retiarii.runtime.source import FileSource

PATIENCE_SECONDS = 60.0
# The pipe of a process has ended, so the process does; one that it forked may live on.
_LEAVE_SECONDS = 5.0
_START_HINT = (
    'start the search under `if __name__ == "__main__":`, and see whether it runs with '
    'executor="inline"'
)


class LocalExecutor(Pool):
    """Up to ``workers`` processes: each with a GPU of its own, or with its share of the CPU.

    A worker starts when there is work for it, and is replaced when it dies or hangs.

    Args:
        source: where workers get the space from.
        workers: how many at most. More than there are GPUs share them in turn.
        held: a descriptor that workers keep open (the directory's lock), or ``None``.
        gpus: the names of this machine's GPUs that are to be used.
        patience: seconds of silence after which a worker is replaced.
        logs: where what workers print goes; ``None``: where this process prints.
        data: what the machine has one copy of.
    """

    def __init__(
        self,
        source: FileSource | MemorySource,
        workers: int,
        held: int | None = None,
        gpus: Sequence[str] = (),
        patience: float = PATIENCE_SECONDS,
        logs: Path | None = None,
        data: Publication | None = None,
    ) -> None:
        site = _Machine(source, workers, held, gpus, patience, logs, data)
        super().__init__(site, patience, _START_HINT)


class _Machine:
    """This machine, as a place for workers."""

    def __init__(
        self,
        source: FileSource | MemorySource,
        workers: int,
        held: int | None,
        gpus: Sequence[str],
        patience: float,
        logs: Path | None,
        data: Publication | None,
    ) -> None:
        self._logs = logs
        self._data = data
        self._source = source
        self._held = held
        self._context = multiprocessing.get_context("spawn")
        self._shares: dict[str, Share] = {}
        devices: list[Device] = []
        threads = max(1, cpus() // workers)
        for index in range(workers):
            gpu = index % len(gpus) if gpus else None
            lane = index // len(gpus) if gpus else 0
            name = f"cpu:{index}" if gpu is None else f"cuda:{gpu}" + f"/{lane}" * bool(lane)
            devices.append(Device(name, "cpu" if gpu is None else gpus[gpu]))
            self._shares[name] = Share(threads, gpu, patience / 6, logs)
        self._devices = tuple(devices)

    def devices(self) -> tuple[Device, ...]:
        return self._devices

    def start(self, device: Device) -> Link:
        ours, theirs = self._context.Pipe()
        held = None if self._held is None else Held(self._held)
        data = None if self._data is None else self._data.handed()
        process = self._context.Process(
            target=work,
            args=(theirs, self._source, self._shares[device.name], held, data),
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
        return _Process(process, ours, self._logs)

    def wait(self, links: Sequence[Link], timeout: float) -> None:
        # A killed worker is noticed by the end of its pipe; processes that it forked may keep
        # that open, and so the pool looks at each worker now and then too.
        open_ = [link.connection for link in cast(Sequence[_Process], links) if link.readable]
        wait(open_, timeout)


class _Process:
    """A worker process, and the pipe to it."""

    def __init__(self, process: SpawnProcess, connection: Connection, logs: Path | None) -> None:
        self._logs = logs
        self.connection = connection
        self.readable = True
        self._process = process

    def send(self, message: Message) -> None:
        with suppress(OSError):  # it died, if so; the next look sees that
            self.connection.send_bytes(json.dumps(message).encode())

    def receive(self) -> list[Message]:
        found: list[Message] = []
        try:
            while self.readable and self.connection.poll():
                found.append(json.loads(self.connection.recv_bytes()))
        except (EOFError, OSError):
            self.readable = False
            self._process.join(_LEAVE_SECONDS)
        return found

    def ended(self) -> End | None:
        if self._process.is_alive():
            return None
        code = self._process.exitcode or 0
        where = f"pid {self._process.pid}"
        if self._logs is not None:
            where += f", what it printed: {worker_log(self._logs, self._process.pid or 0)}"
        return End(_how_it_ended(code), where, blamed=code >= 0)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def close(self, timeout: float) -> None:
        self._process.join(timeout)
        if self._process.is_alive():
            self.kill()
        self.connection.close()
        self._process.close()


def cpus() -> int:
    """How many CPUs this process may use; macOS cannot say, and gives all."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
