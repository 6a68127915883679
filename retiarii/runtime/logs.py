"""``DIR/logs``: what was said about each trial, and what its evaluation printed."""

from __future__ import annotations

import faulthandler
import fcntl
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

FOLDER: Final = "logs"
# A log that grows beyond this loses its older half.
LIMIT_BYTES: Final = 4 << 20
_LOOK_SECONDS = 0.5
_CUT: Final = b"... what was here before was too long, and is gone ...\n"
_HEAD: Final = re.compile(rb"^== \S+ \S+ cohort of trials ([0-9, -]+)$", re.MULTILINE)


class Numbered(Protocol):
    """What is asked of a trial here."""

    @property
    def number(self) -> int: ...

    @property
    def directory(self) -> Path | None: ...


def trial_log(place: Path | None, number: int) -> Path | None:
    """The log of a trial whose checkpoints are in ``place``; ``None`` for one of no search."""
    if place is None or place.parent.name != "trials":
        return None
    return _log_in(place.parent.parent, number)


def logs_about(directory: Path, number: int) -> list[Path]:
    """The logs of a search that tell about a trial: its own, and those of its cohorts' workers."""
    own = _log_in(directory, number)
    found = [own] if own.is_file() else []
    for path in sorted((directory / FOLDER).glob("worker-*.log")):
        with suppress(OSError):
            heads = _HEAD.findall(path.read_bytes())
            if any(number in _numbers(head.decode()) for head in heads):
                found.append(path)
    return found


def worker_log(folder: Path, pid: int) -> Path:
    """Where a worker prints to."""
    return folder / f"worker-{pid}.log"


def append(path: Path, text: str) -> None:
    """Adds lines to a log, with the time; a log that is full, or a disk, takes none."""
    lines = f"{_now()} {text}".rstrip("\n") + "\n"
    with suppress(OSError):
        while True:
            fd = open_log(path)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if not os.fstat(fd).st_nlink:  # deleted meanwhile, since nothing was in it
                    continue
                if os.fstat(fd).st_size < LIMIT_BYTES:
                    os.write(fd, lines.encode(errors="replace"))
                return
            finally:
                os.close(fd)


def open_log(path: Path) -> int:
    """A descriptor that writes at a log's end; only its owner may read it."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, 0o600)


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as people write them: ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


class Output:
    """Takes what a worker process prints into logs, from its start on.

    Args:
        folder: of the logs; its folder must exist.
    """

    def __init__(self, folder: Path) -> None:
        self._own = open_log(worker_log(folder, os.getpid()))
        self._now = self._own
        self._lock = threading.Lock()
        self._point(self._own)
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError):
                stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        faulthandler.enable(file=2)
        threading.Thread(target=self._keep_short, daemon=True).start()

    @contextmanager
    def around(self, trials: Sequence[Numbered]) -> Iterator[None]:
        """Within it what is printed is these trials': one has its own log."""
        path = trial_log(trials[0].directory, trials[0].number) if len(trials) == 1 else None
        if path is None:
            numbers = ranges([trial.number for trial in trials])
            with suppress(OSError):
                os.write(self._own, f"== {_now()} cohort of trials {numbers}\n".encode())
            yield
            return
        try:
            fd = open_log(path)
        except OSError:  # a full disk, say: nothing that is worth ending a trial for
            yield
            return
        self._point(fd)
        try:
            yield
        finally:
            self._point(self._own)
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_EX)
                if not os.fstat(fd).st_size:
                    path.unlink(missing_ok=True)
            os.close(fd)

    def _point(self, fd: int) -> None:
        with self._lock:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            os.dup2(fd, 1)
            os.dup2(fd, 2)
            self._now = fd

    def _keep_short(self) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            with self._lock, suppress(OSError):
                shorten(self._now)


def shorten(fd: int) -> None:
    """Drops the older half of a log that is too long."""
    size = os.fstat(fd).st_size
    if size <= LIMIT_BYTES:
        return
    last = os.pread(fd, LIMIT_BYTES // 2, size - LIMIT_BYTES // 2)
    os.ftruncate(fd, 0)
    os.write(fd, _CUT + last)


def _log_in(directory: Path, number: int) -> Path:
    return directory / FOLDER / f"trial-{number:05d}.log"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _numbers(text: str) -> set[int]:
    found: set[int] = set()
    for part in text.split(", "):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
