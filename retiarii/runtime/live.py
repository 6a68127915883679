"""``DIR/status.json``: what a running search does at the moment, for whoever looks at it.

It is no part of the search: nothing reads it but `retiarii status`, which does not trust it.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from retiarii.errors import StoreError

FILE: Final = "status.json"
_MOST_BYTES: Final = 8 << 20
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class LiveCohort:
    """A cohort under way.

    Attributes:
        device: the device's name.
        count: how many of its trials have not ended.
        trials: their numbers: ``0-3, 7``.
        epochs: the fewest and the most epochs that they have done.
        seconds: since it began.
        rate: trial-epochs a second; ``None`` until it is known.
        leaving: whether it was asked to give its device back.
    """

    device: str
    count: int
    trials: str
    epochs: tuple[int, int]
    seconds: float
    rate: float | None
    leaving: bool


@dataclass(frozen=True, slots=True)
class Live:
    """What a search does at a moment.

    Attributes:
        pid: of its process.
        phase: ``search`` or ``confirm``.
        updated: when this was written, in seconds since 1970; to be shown, never to reckon with.
        seconds: since that process began to search.
        devices: (name, kind) of each.
        cohorts: those under way.
        waiting: how many trials wait for a device.
        next: the first of them.
    """

    pid: int
    phase: str
    updated: float
    seconds: float
    devices: tuple[tuple[str, str], ...]
    cohorts: tuple[LiveCohort, ...]
    waiting: int
    next: tuple[int, ...]

    def write(self, directory: Path) -> None:
        """Replaces the file, whole; a disk that takes none keeps the one before."""
        path = directory / FILE
        partial = directory / f"{FILE}.partial"
        data = json.dumps({"version": _VERSION, **asdict(self)}).encode()
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            with open(os.open(partial, flags, 0o600), "wb") as file:
                file.write(data)
            partial.replace(path)


def remove_live(directory: Path) -> None:
    """The search has ended."""
    with suppress(OSError):
        (directory / FILE).unlink(missing_ok=True)


def read_live(directory: Path) -> Live | None:
    """What the search does, as it was written last; ``None`` where nothing is.

    Raises:
        StoreError: the file is damaged, or not of this version.
    """
    path = directory / FILE
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ValueError("it is too large")
        body = json.loads(data)
        return _live(body)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise StoreError(
            f"{FILE} is damaged: {error!r:.80}",
            where=str(path),
            fix="a search that runs writes it anew each second; else delete it: nothing is lost",
        ) from error


def _live(body: Any) -> Live:
    if body["version"] != _VERSION:
        raise ValueError(f"version {body['version']!r:.20}")
    return Live(
        _int(body["pid"]),
        _text(body["phase"]),
        _float(body["updated"]),
        _float(body["seconds"]),
        tuple((_text(name), _text(kind)) for name, kind in body["devices"]),
        tuple(_cohort(each) for each in body["cohorts"]),
        _int(body["waiting"]),
        tuple(_int(each) for each in body["next"]),
    )


def _cohort(body: Any) -> LiveCohort:
    first, last = body["epochs"]
    return LiveCohort(
        _text(body["device"]),
        _int(body["count"]),
        _text(body["trials"]),
        (_int(first), _int(last)),
        _float(body["seconds"]),
        None if body["rate"] is None else _float(body["rate"]),
        body["leaving"] is True,
    )


def _int(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r:.20} is no whole number")
    return value


def _float(value: Any) -> float:
    number = float(value)
    if type(value) not in (int, float) or number - number != 0:
        raise ValueError(f"{value!r:.20} is no finite number")
    return number


def _text(value: Any) -> str:
    """A text that a terminal shows and does not obey."""
    if type(value) is not str:
        raise ValueError(f"{value!r:.20} is no text")
    return "".join(c if c.isprintable() else "?" for c in value[:4096])
