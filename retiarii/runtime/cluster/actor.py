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
from dataclasses import replace
from pathlib import Path
from typing import Any

from retiarii.runtime.cluster.shipping import Mirror, unpack
from retiarii.runtime.job import Job
from retiarii.runtime.source import FileSource
from retiarii.runtime.worker import Inbox, serve
from retiarii.training.events import Finished, Reported, TrialEvent

# A message to the controller: JSON, the trial that files are of, and these.
Word = tuple[str, int, dict[str, bytes | None]]


class Worker:
    """One worker; its methods are called by threads of their own while it works.

    Args:
        file: the space file's name, in the folder that Ray has put here.
        digest: what the file must hold.
        threads: CPU threads to compute with.
        probe: a file of the controller's, and what it holds: a machine that can read it writes
            checkpoints where the controller does.
    """

    def __init__(self, file: str, digest: str, threads: int, probe: tuple[str, str]) -> None:
        self._words: queue.SimpleQueue[Word] = queue.SimpleQueue()
        self._inbox = Inbox()
        self._next = 0
        self._early: list[tuple[int, str, dict[int, dict[str, bytes | None]]]] = []
        self._lock = threading.Lock()
        self._shares = _holds(Path(probe[0]), probe[1])
        self._room = None if self._shares else Path(tempfile.mkdtemp(prefix="retiarii-"))
        self._mirrors: dict[int, Mirror] = {}
        source = FileSource(Path.cwd() / file, digest)
        arguments = (source, threads, self._inbox, self)
        threading.Thread(target=serve, args=arguments, daemon=True).start()

    def facts(self) -> dict[str, Any]:
        """Who this is: ``pid``, and ``shares``, whether it sees the search's directory."""
        return {"pid": os.getpid(), "shares": self._shares}

    def put(self, index: int, text: str, files: dict[int, dict[str, bytes | None]]) -> None:
        """Takes a message; calls may come in another order than they were made in."""
        with self._lock:
            heapq.heappush(self._early, (index, text, files))
            while self._early and self._early[0][0] == self._next:
                _, ready, with_it = heapq.heappop(self._early)
                self._next += 1
                self._take(json.loads(ready), with_it)

    def listen(self, seconds: float) -> list[Word]:
        """What there is to say; waits for it, but never longer than ``seconds``."""
        words: list[Word] = []
        try:
            words.append(self._words.get(timeout=seconds))
            while True:
                words.append(self._words.get_nowait())
        except queue.Empty:
            return words

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

    def _take(
        self, message: Mapping[str, Any], files: Mapping[int, Mapping[str, bytes | None]]
    ) -> None:
        if message["kind"] == "job" and self._room is not None:
            message = {
                **message,
                "job": self._moved(Job.from_json(message["job"]), files).to_json(),
            }
        self._inbox.put(message)

    def _moved(self, job: Job, files: Mapping[int, Mapping[str, bytes | None]]) -> Job:
        """The job, its trials kept on this machine's disk, with what they go on from."""
        assert self._room is not None
        self._mirrors.clear()
        trials = []
        for trial in job.trials:
            if trial.directory is None:
                trials.append(trial)
                continue
            place = self._room / f"{trial.number}.{trial.attempt}"
            shutil.rmtree(place, ignore_errors=True)
            unpack(place, files.get(trial.number, {}))
            mirror = Mirror(place)
            mirror.changes()  # the controller has these
            self._mirrors[trial.number] = mirror
            trials.append(replace(trial, directory=place))
        return replace(job, trials=tuple(trials))


def _holds(file: Path, token: str) -> bool:
    try:
        return file.read_text() == token
    except OSError:
        return False
