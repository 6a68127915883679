"""Runs trials on a Ray cluster, or on this machine through Ray."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, cast

from retiarii.errors import RetiariiError
from retiarii.runtime.cluster.actor import Post, Word
from retiarii.runtime.cluster.connection import Connection
from retiarii.runtime.cluster.need import Need
from retiarii.runtime.cluster.shipping import Mirror, append_logs, unpack
from retiarii.runtime.cluster.spots import Spot
from retiarii.runtime.executor import Device
from retiarii.runtime.job import Job
from retiarii.runtime.pool import End, Link, Message, Pool
from retiarii.runtime.source import FileSource
from retiarii.training.checkpoint import owned
from retiarii.training.events import Noted

PATIENCE_SECONDS = 120.0
# How long a worker may take to start before that is worth a word.
WAIT_SECONDS = 30.0
_ALIVE: Message = {"kind": "alive"}
# How often the cluster is asked which nodes it has.
_NODES_SECONDS = 2.0
_START_HINT = (
    "see what the node says (ray logs), that it has the packages that the space file imports, and "
    "whether the search runs with --executor local"
)


class RayExecutor(Pool):
    """Actors on the nodes of a cluster; nodes may come and go while it runs.

    What travels to them is the space file's folder, by Ray, and then decisions, seeds and
    checkpoints; what comes back are events and checkpoints. No model and no code is pickled.

    Args:
        source: the space file.
        directory: the search's; workers that see it write checkpoints there, others send them.
        address: the cluster's; ``None`` starts one here.
        workers: how many at most; ``None``: as many as there are devices.
        need: what each takes of a node.
        patience: seconds of silence after which a worker is replaced.
        sends: whether all workers send their checkpoints, also those that see the directory: a
            network file system may show a file late.
        logs: where what workers print goes; ``None``: nowhere but Ray's own logs.

    Raises:
        RetiariiError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(
        self,
        source: FileSource,
        directory: Path,
        address: str | None = None,
        workers: int | None = None,
        need: Need | None = None,
        patience: float = PATIENCE_SECONDS,
        sends: bool = False,
        logs: Path | None = None,
    ) -> None:
        connection = Connection(address, source.path.parent)
        probe = _Probe(directory, sends)
        self._cluster = _Cluster(
            connection, source, probe, workers, need or Need(), patience / 6, logs
        )
        super().__init__(self._cluster, patience, _START_HINT)

    def shutdown(self) -> None:
        super().shutdown()
        self._cluster.close()


class _Probe:
    """A file in the search's directory, by which a worker finds out whether it sees it.

    Attributes:
        shown: the file, and what it must hold to be this one.
    """

    def __init__(self, directory: Path, sends: bool) -> None:
        self._file = directory / f".seen-{secrets.token_hex(8)}"
        token = secrets.token_hex(16)
        with open(self._file, "x", opener=owned) as file:
            file.write("" if sends else token)
        self.shown = (str(self._file), token)

    def close(self) -> None:
        self._file.unlink(missing_ok=True)


class _Cluster:
    """A cluster, as a place for workers."""

    def __init__(
        self,
        connection: Connection,
        source: FileSource,
        probe: _Probe,
        workers: int | None,
        need: Need,
        beats: float,
        logs: Path | None,
    ) -> None:
        self._connection = connection
        self._logs = logs
        self._source = source
        self._workers = workers
        self._need = need
        self._beats = beats
        self._spots: dict[str, Spot] = {}
        self._devices: tuple[Device, ...] = ()
        self._looked = -_NODES_SECONDS
        self._probe = probe

    def devices(self) -> tuple[Device, ...]:
        now = time.monotonic()
        if now - self._looked >= _NODES_SECONDS:
            self._looked = now
            spots = self._connection.spots(self._need, self._workers)
            self._spots = {spot.device.name: spot for spot in spots}
            self._devices = tuple(spot.device for spot in spots)
        return self._devices

    def start(self, device: Device) -> Link:
        spot = self._spots[device.name]
        path = self._source.path
        post = Post(
            str(path) if self._connection.here else path.name,
            self._source.digest,
            max(1, int(spot.cpus)),
            self._probe.shown,
            self._logs is not None,
        )
        actor = self._connection.start(spot, astuple(post))
        return _Actor(self._connection, actor, device.name, self._beats, self._logs, self._look)

    def _look(self) -> None:
        """Has the cluster asked anew which nodes it has: one may have gone with its workers."""
        self._looked = -_NODES_SECONDS

    def wait(self, links: Sequence[Link], timeout: float) -> None:
        actors = cast(Sequence[_Actor], links)
        calls = [actor.call for actor in actors if actor.call is not None]
        if not calls:
            time.sleep(timeout)
            return
        ready = self._connection.ready(calls, timeout)
        for actor in actors:
            actor.has_answer = actor.call in ready

    def close(self) -> None:
        self._probe.close()
        self._connection.close()


class _Actor:
    """One worker of the cluster. There is always one call that waits for what it says."""

    def __init__(
        self,
        connection: Connection,
        actor: Any,
        device: str,
        beats: float,
        logs: Path | None,
        on_end: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._logs = logs
        self._on_end = on_end
        self._began = time.monotonic()
        self._waits = False  # was that told
        self._gives_back = False
        self._actor = actor
        self._device = device
        self._beats = beats
        self._sent = 0
        self._shares: bool | None = None  # once it has said so
        self._unsent: list[str] = []  # until then
        self._places: dict[int, Path] = {}  # of the trials of its job
        self._end: End | None = None
        self._where = device
        self.call: Any = actor.facts.remote()
        self.has_answer = False

    def send(self, message: Message) -> None:
        text = json.dumps(message)
        if message["kind"] == "job":
            trials = Job.from_json(message["job"]).trials
            self._places = {t.number: t.directory for t in trials if t.directory is not None}
        if self._shares is None:
            if message["kind"] == "leave":  # what has no place yet gives it back at once
                self._gives_back = bool(self._unsent)
                self._unsent.clear()
            else:
                self._unsent.append(text)
            return
        files: dict[str, dict[str, bytes | None]] = {}
        if message["kind"] == "job" and not self._shares:
            trials = Job.from_json(message["job"]).trials
            places = {place for t in trials for place in (t.directory, t.parent) if place}
            files = {str(place): Mirror(place).changes() for place in places}
        self._actor.put.remote(self._sent, text, files)
        self._sent += 1

    def receive(self) -> list[Message]:
        if not self.has_answer or self.call is None:
            return self._before_its_start()
        self.has_answer = False
        answer = self._connection.answer(self.call)
        if isinstance(answer, str):
            self._end, self.call = End(f"ended: {answer}", self._where), None
            self._on_end()
            return []
        if isinstance(answer, dict):
            self._meet(answer)
        self.call = self._actor.listen.remote(self._beats)
        return [_ALIVE] if isinstance(answer, dict) else [_ALIVE, *map(self._read, answer)]

    def _before_its_start(self) -> list[Message]:
        """What there is to tell of one that has no place on its node, as it seems."""
        if self._gives_back:
            self._gives_back = False
            return [{"kind": "done"}]
        if self._shares is not None or self.call is None or not self._unsent:
            return []
        if time.monotonic() - self._began < WAIT_SECONDS:
            return []
        if self._waits:
            return [_ALIVE]
        self._waits = True
        note = Noted(
            Job.from_json(json.loads(self._unsent[0])["job"]).trials[0].number,
            f"no worker has started on {self._device} for {WAIT_SECONDS:.0f} s: others may use "
            "what it needs (see `ray status`); it starts when there is room",
        )
        return [{"kind": "event", "event": note.to_json()}]

    def ended(self) -> End | None:
        return self._end

    def kill(self) -> None:
        self._connection.kill(self._actor)
        self._end, self.call = self._end or End("was killed", self._where), None

    def close(self, timeout: float) -> None:
        if self._end is None and timeout > 0:
            self._connection.ready([self._actor.leave.remote()], timeout)
        self.kill()

    def _meet(self, facts: dict[str, Any]) -> None:
        """It has started, and says whether it sees the search's directory."""
        self._shares = bool(facts["shares"])
        self._where = f"{self._device}, pid {facts['pid']}"
        unsent, self._unsent = self._unsent, []
        for text in unsent:
            self.send(json.loads(text))

    def _read(self, word: Word) -> Message:
        text, number, files = word
        if files and number < 0:
            if self._logs is not None:
                append_logs(self._logs, files)
        elif files:
            place = self._places.get(number)
            if place is None:
                raise RetiariiError(
                    f"a worker sent files of trial {number}, which it was not given",
                    where=self._where,
                    fix="use workers of the same version, on machines that you trust",
                )
            # Before the event: what was reported is never trained again.
            unpack(place, files)
        message: Message = json.loads(text)
        return message
