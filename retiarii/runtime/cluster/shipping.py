"""Files of trials on their way between machines: names that are checked, bytes that are whole."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from retiarii.errors import RetiariiError
from retiarii.runtime.logs import LIMIT_BYTES, open_log
from retiarii.training.checkpoint import write_atomic

# A plain name: no folder, nothing hidden.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")
_LOG = re.compile(r"(trial|worker)-[0-9]{1,20}\.log")
_PARTIAL = ".partial"

# Name -> bytes; ``None``: the file was deleted.
Files = Mapping[str, bytes | None]


class Mirror:
    """A directory whose changes are told: new and changed files, and those that have gone."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: dict[str, tuple[int, int, int]] = {}

    def changes(self) -> dict[str, bytes | None]:
        """What is another than at the last call.

        Files are read after they are looked at, and every writer here replaces files whole.
        """
        found: dict[str, tuple[int, int, int]] = {}
        changed: dict[str, bytes | None] = {}
        for path in sorted(self._directory.iterdir()) if self._directory.is_dir() else ():
            if path.name.endswith(_PARTIAL) or not path.is_file():
                continue
            stat = path.stat()
            found[path.name] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if self._seen.get(path.name) != found[path.name]:
                changed[path.name] = path.read_bytes()
        changed.update(dict.fromkeys(sorted(self._seen.keys() - found.keys())))
        self._seen = found
        return changed


class Tail:
    """A folder of logs, whose new lines are told."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._told: dict[str, int] = {}

    def news(self) -> dict[str, bytes | None]:
        """What was added to each log since the last call."""
        found: dict[str, bytes | None] = {}
        for path in sorted(self._folder.glob("*.log")):
            with suppress(OSError), path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                told = self._told.get(path.name, 0)
                if size != told:
                    # A log that has become too long was cut short: its rest is told again.
                    file.seek(told if told < size else 0)
                    found[path.name] = file.read(LIMIT_BYTES)
                    self._told[path.name] = size
        return found


def append_logs(folder: Path, news: Files) -> None:
    """Adds what `Tail` has told; a disk that takes no log may still take what matters.

    Raises:
        RetiariiError: a name is none of a log.
    """
    for name, data in news.items():
        if not _LOG.fullmatch(name):
            raise _no_name(name, folder)
        with suppress(OSError):
            fd = open_log(folder / name)
            try:
                if os.fstat(fd).st_size < LIMIT_BYTES:
                    os.write(fd, data or b"")
            finally:
                os.close(fd)


def unpack(directory: Path, files: Files) -> None:
    """Writes files into a directory, or deletes them there.

    JSON is written last: a checkpoint's says that its tensors are there.

    Raises:
        RetiariiError: a name is none of a plain file.
        TrialError: the disk is full, or not writable.
    """
    for name, data in sorted(files.items(), key=lambda item: (item[0].endswith(".json"), item[0])):
        if not _NAME.fullmatch(name):
            raise _no_name(name, directory)
        path = directory / name
        if data is None:
            path.unlink(missing_ok=True)
        else:
            write_atomic(path, data)


def _no_name(name: str, directory: Path) -> RetiariiError:
    return RetiariiError(
        f"a worker sent a file named {name!r:.80}, which is no plain file name",
        where=str(directory),
        fix="use workers of the same version, on machines that you trust",
    )
