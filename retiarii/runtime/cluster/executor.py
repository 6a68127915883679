"""Runs trials on a Ray cluster, or on this machine through Ray."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from retiarii.errors import RetiariiError
from retiarii.runtime.cluster.actor import Word
from retiarii.runtime.cluster.connection import Connection, Spot
from retiarii.runtime.cluster.need import Need
from retiarii.runtime.cluster.shipping import Mirror, unpack
from retiarii.runtime.executor import Device
from retiarii.runtime.job import Job
from retiarii.runtime.pool import End, Link, Message, Pool
from retiarii.runtime.source import FileSource

PATIENCE_SECONDS = 120.0
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
    ) -> None:
        connection = Connection(address, source.path.parent)
        self._cluster = _Cluster(
            connection, source, _Probe(directory, sends), workers, need or Need(), patience / 6
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
        with open(self._file, "x", opener=_private) as file:
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
    ) -> None:
        self._connection = connection
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
        threads = max(1, int(spot.cpus))
        arguments = (self._source.path.name, self._source.digest, threads, self._probe.shown)
        actor = self._connection.start(spot, arguments)
        return _Actor(self._connection, actor, device.name, self._beats)

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

    def __init__(self, connection: Connection, actor: Any, device: str, beats: float) -> None:
        self._connection = connection
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
            self._unsent.append(text)
            return
        files: dict[int, dict[str, bytes | None]] = {}
        if message["kind"] == "job" and not self._shares:
            files = {number: Mirror(place).changes() for number, place in self._places.items()}
        self._actor.put.remote(self._sent, text, files)
        self._sent += 1

    def receive(self) -> list[Message]:
        if not self.has_answer or self.call is None:
            return []
        self.has_answer = False
        answer = self._connection.answer(self.call)
        if isinstance(answer, str):
            self._end, self.call = End(f"ended: {answer}", self._where), None
            return []
        if isinstance(answer, dict):
            self._meet(answer)
        self.call = self._actor.listen.remote(self._beats)
        return [_ALIVE] if isinstance(answer, dict) else [_ALIVE, *map(self._read, answer)]

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
        if files:
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


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
