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
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from retiarii.errors import RetiariiError
from retiarii.runtime.executor import Around, Leaving, run_job
from retiarii.runtime.job import Job
from retiarii.runtime.logs import Output
from retiarii.runtime.source import FileSource
from retiarii.search_space import SearchSpace
from retiarii.training.events import Halted, TrialEvent

if TYPE_CHECKING:
    from retiarii.runtime.sharing import Shared
    from retiarii.training.evaluator import Evaluator


@dataclass(frozen=True, slots=True)
class MemorySource:
    """A space and an evaluator from the controller's memory.

    Attributes:
        pickled: ``(space, evaluator)``, for a process that the controller starts itself.
    """

    pickled: bytes


@dataclass(frozen=True, slots=True)
class Share:
    """What a worker may use of its machine.

    Attributes:
        threads: how many CPU threads it computes with.
        gpu: the index of its GPU among those of its machine, or ``None``.
        beats: seconds between two words that it lives.
        logs: where what it prints goes; ``None``: where the controller prints.
    """

    threads: int
    gpu: int | None
    beats: float
    logs: Path | None = None


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
    # Started with the first process otherwise, and it unblocks interrupts when it has.
    resource_tracker.ensure_running()
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
    share: Share,
    held: object,
    data: Shared | None = None,
) -> None:
    """The life of a worker process: it ends when told to, or when the controller is gone.

    Args:
        connection: to the controller.
        source: where the space comes from.
        share: what it may use.
        held: kept open until the process ends (the directory's lock).
        data: what the machine has one copy of.
    """
    del held
    # Ctrl-C reaches the whole process group; what follows from it is the controller's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _mask(signal.SIG_UNBLOCK)
    if share.gpu is not None:
        only_gpu(share.gpu)
    around = _logged(share.logs)
    outbox = _Outbox(connection)
    inbox = Inbox()
    threading.Thread(target=_read, args=(connection, inbox), daemon=True).start()
    threading.Thread(target=_beat, args=(outbox, share.beats), daemon=True).start()
    serve(source, share.threads, inbox, outbox, around, data)


def _logged(folder: Path | None) -> Around:
    if folder is not None:
        with suppress(OSError):  # a disk that takes no log may still take what matters
            return Output(folder).around
    return nullcontext


def serve(
    source: FileSource | MemorySource,
    threads: int,
    inbox: Inbox,
    outbox: Outbox,
    around: Around = nullcontext,
    data: Shared | None = None,
) -> None:
    """Evaluates what comes in, until told to leave; the same on every executor.

    Args:
        source: where the space comes from.
        threads: how many CPU threads to compute with.
        inbox: what the controller sends.
        outbox: what it is told.
        around: a context for the evaluation of trials.
        data: what the machine has one copy of.
    """
    try:
        space, evaluator = _load(source, threads)
        if data is not None:
            data.adopt(evaluator.kept())
    except Exception as error:
        outbox.send("broken", error=described(error))
        return
    outbox.send("ready")
    while (job := inbox.next()) is not None:
        # Who is asked to leave delivers nothing: "done" says that the rest is open.
        with suppress(Leaving):
            inbox.check()
            run_job(job, space, evaluator, _ToController(inbox, outbox, job.asks), around)
        outbox.send("done")


def only_gpu(index: int) -> None:
    """Lets this process see one GPU of those that it may see; before CUDA is used."""
    seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    os.environ["CUDA_VISIBLE_DEVICES"] = seen[index] if index < len(seen) else str(index)


def _load(source: FileSource | MemorySource, threads: int) -> tuple[SearchSpace, Evaluator]:
    import torch

    torch.set_num_threads(threads)
    if isinstance(source, FileSource):
        loaded = source.load()
        model, evaluator = loaded.space, loaded.evaluator
    else:
        model, evaluator = pickle.loads(source.pickled)
    return SearchSpace(model, evaluator.hyperparameters()), evaluator


def described(error: Exception) -> dict[str, Any]:
    """An error, for the message that says a worker is broken."""
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


class Outbox(Protocol):
    """The way to the controller."""

    def send(self, kind: str, **fields: Any) -> None: ...


class _Outbox:
    """The controller at the other end of a pipe; two threads write to it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, kind: str, **fields: Any) -> None:
        message = json.dumps({"kind": kind, **fields}).encode()
        try:
            with self._lock:
                self._connection.send_bytes(message)
        except OSError:  # the controller is gone
            _leave()


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _read(connection: Connection, inbox: Inbox) -> None:
    """Reads what the controller sends, in a thread of its own, so that its end is noticed."""
    while True:
        try:
            inbox.put(json.loads(connection.recv_bytes()))
        except (EOFError, OSError):
            # The controller was killed. Its trials are somebody else's from now on.
            os._exit(1)


def _beat(outbox: Outbox, seconds: float) -> None:
    while True:
        time.sleep(seconds)
        outbox.send("alive")


class Inbox:
    """What the controller has sent, in order, and what it wants of the job at hand."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._stopping: set[int] = set()
        self._leave = threading.Event()

    def next(self) -> Job | None:
        """The next job; ``None``: leave."""
        return self._jobs.get()

    def stop_requested(self, number: int) -> bool:
        """Whether a trial was asked to stop.

        Raises:
            Leaving: the job was asked to give the device back.
        """
        self.check()
        return number in self._stopping

    def check(self) -> None:
        """Raises `Leaving` if the job was asked to give the device back."""
        if self._leave.is_set():
            raise Leaving

    def answer(self) -> bool:
        """The controller's word on whether to stop."""
        return self._answers.get()

    def put(self, message: Mapping[str, Any]) -> None:
        """Takes in a message."""
        match message["kind"]:
            case "job":
                job = Job.from_json(message["job"])
                self._stopping -= {trial.number for trial in job.trials}
                self._leave.clear()
                self._jobs.put(job)
            case "stop":
                self._stopping.add(message["number"])
            case "leave":
                self._leave.set()
            case "answer":
                self._answers.put(message["stop"])
            case "quit":
                self._jobs.put(None)


@dataclass(frozen=True, slots=True)
class _ToController:
    """The channel of a trial that runs in this worker."""

    inbox: Inbox
    outbox: Outbox
    asks: bool

    def send(self, event: TrialEvent) -> None:
        self.outbox.send("event", event=event.to_json())
        if isinstance(event, Halted):
            raise Leaving

    def stop_requested(self, number: int) -> bool:
        stop = self.inbox.stop_requested(number)
        if self.asks:
            self.outbox.send("ask", number=number)
            return self.inbox.answer()
        return stop
