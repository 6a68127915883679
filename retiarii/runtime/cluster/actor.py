"""What runs on a node of the cluster: a worker that talks in strings of JSON, and files."""

from __future__ import annotations

import heapq
import json
import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retiarii.runtime.cluster.shipping import Files, Mirror, Tail, unpack
from retiarii.runtime.executor import Around
from retiarii.runtime.job import Job
from retiarii.runtime.logs import FOLDER, Output
from retiarii.runtime.source import FileSource
from retiarii.runtime.worker import Inbox, described, serve
from retiarii.training.events import Finished, Reported, TrialEvent

# A message to the controller: JSON, the trial that files are of, and these.
Word = tuple[str, int, dict[str, bytes | None]]
# What comes with a message from there: directory on the controller's machine -> its files.
Sent = Mapping[str, Files]
_PRINTED = json.dumps({"kind": "printed"})


@dataclass(frozen=True, slots=True)
class Post:
    """What a worker is told before its first message.

    Attributes:
        file: the space file, in full or in the folder that Ray has put there.
        digest: what the file must hold.
        threads: CPU threads to compute with.
        probe: a file in the search's directory, and what it holds: a machine that can read it
            writes checkpoints and logs where the controller does.
        logged: whether what it prints is kept.
    """

    file: str
    digest: str
    threads: int
    probe: tuple[str, str]
    logged: bool


class Worker:
    """One worker; its methods are called by threads of their own while it works.

    Args:
        post: as the fields of `Post`, so that nothing of ours is pickled.
    """

    def __init__(self, *post: Any) -> None:
        told = Post(*post)
        self._words: queue.SimpleQueue[Word] = queue.SimpleQueue()
        self._inbox = Inbox()
        self._next = 0
        self._early: list[tuple[int, str, Sent]] = []
        self._lock = threading.Lock()
        probe = Path(told.probe[0])
        self._shares = _holds(probe, told.probe[1])
        self._room = None if self._shares else Path(tempfile.mkdtemp(prefix="retiarii-"))
        self._mirrors: dict[int, Mirror] = {}
        folder = (self._room or probe.parent) / FOLDER
        self._tail = Tail(folder) if self._room and told.logged else None
        around = _printing_to(folder) if told.logged else nullcontext
        source = FileSource(Path.cwd() / told.file, told.digest)
        arguments = (source, told.threads, self._inbox, self, around)
        threading.Thread(target=serve, args=arguments, daemon=True).start()

    def facts(self) -> dict[str, Any]:
        """Who this is: ``pid``, and ``shares``, whether it sees the search's directory."""
        return {"pid": os.getpid(), "shares": self._shares}

    def put(self, index: int, text: str, files: Sent) -> None:
        """Takes a message; calls may come in another order than they were made in."""
        with self._lock:
            heapq.heappush(self._early, (index, text, files))
            while self._early and self._early[0][0] == self._next:
                _, ready, with_it = heapq.heappop(self._early)
                self._next += 1
                try:
                    self._take(json.loads(ready), with_it)
                except Exception as error:  # nobody waits for this call's answer
                    self.send("broken", error=described(error))

    def listen(self, seconds: float) -> list[Word]:
        """What there is to say; waits for it, but never longer than ``seconds``."""
        words: list[Word] = []
        try:
            words.append(self._words.get(timeout=seconds))
            while True:
                words.append(self._words.get_nowait())
        except queue.Empty:
            pass
        printed = self._tail.news() if self._tail is not None else {}
        return [*words, (_PRINTED, -1, printed)] if printed else words

    def send(self, kind: str, **fields: Any) -> None:
        """The way to the controller, for `serve`."""
        number, files = -1, {}
        if kind == "event" and self._room is not None:
            event = TrialEvent.from_json(fields["event"])
            mirror = self._mirrors.get(event.number)
            if mirror is not None and isinstance(event, Reported | Finished):
                number, files = event.number, mirror.changes()
        self._words.put((json.dumps({"kind": kind, **fields}), number, files))

    def leave(self) -> None:
        """Deletes what it kept on its own disk."""
        if self._room is not None:
            shutil.rmtree(self._room, ignore_errors=True)

    def _take(self, message: Mapping[str, Any], files: Sent) -> None:
        if message["kind"] == "job" and self._room is not None:
            job = self._moved(Job.from_json(message["job"]), files)
            message = {**message, "job": job.to_json()}
        self._inbox.put(message)

    def _moved(self, job: Job, files: Sent) -> Job:
        """The job, its trials kept on this machine's disk, with what they go on from."""
        assert self._room is not None
        self._mirrors.clear()
        parents: dict[Path, Path] = {}
        for index, theirs in enumerate({t.parent for t in job.trials if t.parent is not None}):
            parents[theirs] = self._room / "parents" / str(index)
            _fill(parents[theirs], files.get(str(theirs), {}))
        trials = []
        for trial in job.trials:
            if trial.directory is None:
                trials.append(trial)
                continue
            place = self._room / "trials" / f"{trial.number}.{trial.attempt}"
            _fill(place, files.get(str(trial.directory), {}))
            mirror = Mirror(place)
            mirror.changes()  # the controller has these
            self._mirrors[trial.number] = mirror
            parent = None if trial.parent is None else parents[trial.parent]
            trials.append(replace(trial, directory=place, parent=parent))
        return replace(job, trials=tuple(trials))


def _fill(place: Path, files: Files) -> None:
    shutil.rmtree(place, ignore_errors=True)
    unpack(place, files)


def _printing_to(folder: Path) -> Around:
    try:
        return Output(folder).around
    except OSError:  # a disk that takes no log may still take what matters
        return nullcontext


def _holds(file: Path, token: str) -> bool:
    try:
        return file.read_text() == token
    except OSError:
        return False
