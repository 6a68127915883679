"""A worker process: loads the space for itself, then evaluates what it is sent.

Both ways, messages are JSON; the one pickle is what the controller hands to a worker that it
starts itself, when the space comes from memory and not from a file.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import DupFd
from typing import TYPE_CHECKING, Any

from retiarii.errors import RetiariiError
from retiarii.runtime.executor import run_job
from retiarii.runtime.job import Job
from retiarii.runtime.source import FileSource
from retiarii.search_space import SearchSpace
from retiarii.training.events import TrialEvent

if TYPE_CHECKING:
    from retiarii.training.evaluator import Evaluator


@dataclass(frozen=True, slots=True)
class MemorySource:
    """A space and an evaluator from the controller's memory.

    Attributes:
        pickled: ``(space, evaluator)``, for a process that the controller starts itself.
    """

    pickled: bytes


class Held:
    """A descriptor that a started process keeps open for as long as it lives."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        # Only while the process is being started does this hand the descriptor on.
        return (_keep, (DupFd(self._fd),))


def _keep(duplicate: Any) -> int:
    return int(duplicate.detach())


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Within it a process is started that no Ctrl-C reaches before `work` has begun.

    The process inherits what is blocked; until it ignores the signal by itself, an interrupt would
    end it with a traceback.
    """
    before = _mask(signal.SIG_BLOCK)
    try:
        yield
    finally:
        if before is not None and signal.SIGINT not in before:
            _mask(signal.SIG_UNBLOCK)


def _mask(how: int) -> set[int] | None:
    """Blocks or unblocks interrupts, where the system can."""
    if not hasattr(signal, "pthread_sigmask"):
        return None
    return set(signal.pthread_sigmask(how, {signal.SIGINT}))


def work(
    connection: Connection,
    source: FileSource | MemorySource,
    threads: int,
    held: object,
) -> None:
    """The life of a worker: it ends when told to, or when the controller is gone.

    Args:
        connection: to the controller.
        source: where the space comes from.
        threads: how many CPU threads it may compute with.
        held: kept open until the process ends (the directory's lock).
    """
    del held
    # Ctrl-C reaches the whole process group; what follows from it is the controller's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _mask(signal.SIG_UNBLOCK)
    inbox = _Inbox(connection)
    try:
        space, evaluator = _load(source, threads)
    except Exception as error:
        _send(connection, "broken", error=_described(error))
        return
    _send(connection, "ready")
    while (job := inbox.next()) is not None:
        run_job(job, space, evaluator, _ToController(connection, inbox, job.asks))
        _send(connection, "done")


def _load(source: FileSource | MemorySource, threads: int) -> tuple[SearchSpace, Evaluator]:
    import torch

    torch.set_num_threads(threads)
    if isinstance(source, FileSource):
        loaded = source.load()
        model, evaluator = loaded.space, loaded.evaluator
    else:
        model, evaluator = pickle.loads(source.pickled)
    return SearchSpace(model, evaluator.hyperparameters()), evaluator


def _described(error: Exception) -> dict[str, Any]:
    if isinstance(error, RetiariiError):
        fields = {"cause": error.cause, "where": error.where, "fix": error.fix}
    else:
        fields = {
            "cause": f"a worker could not load the space: {type(error).__name__}: {error}",
            "where": None,
            "fix": "classes and functions must be importable by another process: define them in "
            "a file, at its top level, and guard the start of the search by "
            '`if __name__ == "__main__":`',
        }
    return {**fields, "trace": traceback.format_exc()}


def _send(connection: Connection, kind: str, **fields: Any) -> None:
    try:
        connection.send_bytes(json.dumps({"kind": kind, **fields}).encode())
    except OSError:  # the controller is gone
        _leave()


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class _Inbox:
    """What the controller sends, read by a thread of its own, so that its end is noticed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._stopping: set[int] = set()
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> Job | None:
        """The next job; ``None``: leave."""
        return self._jobs.get()

    def stop_requested(self, number: int) -> bool:
        return number in self._stopping

    def answer(self) -> bool:
        """The controller's word on whether to stop."""
        return self._answers.get()

    def _read(self) -> None:
        while True:
            try:
                message: Mapping[str, Any] = json.loads(self._connection.recv_bytes())
            except (EOFError, OSError):
                # The controller was killed. Its trials are somebody else's from now on.
                os._exit(1)
            if message["kind"] == "job":
                job = Job.from_json(message["job"])
                self._stopping -= {trial.number for trial in job.trials}
                self._jobs.put(job)
            elif message["kind"] == "stop":
                self._stopping.add(message["number"])
            elif message["kind"] == "answer":
                self._answers.put(message["stop"])
            else:
                self._jobs.put(None)
                return


@dataclass(frozen=True, slots=True)
class _ToController:
    """The channel of a trial that runs in this worker."""

    connection: Connection
    inbox: _Inbox
    asks: bool

    def send(self, event: TrialEvent) -> None:
        _send(self.connection, "event", event=event.to_json())

    def stop_requested(self, number: int) -> bool:
        if self.asks:
            _send(self.connection, "ask", number=number)
            return self.inbox.answer()
        return self.inbox.stop_requested(number)
