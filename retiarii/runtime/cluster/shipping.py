"""Files of trials on their way between machines: names that are checked, bytes that are whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from retiarii.errors import RetiariiError
from retiarii.training.checkpoint import write_atomic

# A plain name: no folder, nothing hidden.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
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


def unpack(directory: Path, files: Files) -> None:
    """Writes files into a directory, or deletes them there.

    JSON is written last: a checkpoint's says that its tensors are there.

    Raises:
        RetiariiError: a name is none of a plain file.
        TrialError: the disk is full, or not writable.
    """
    for name, data in sorted(files.items(), key=lambda item: (item[0].endswith(".json"), item[0])):
        if not _NAME.fullmatch(name):
            raise RetiariiError(
                f"a worker sent a file named {name!r}, which is no plain file name",
                where=str(directory),
                fix="use workers of the same version, on machines that you trust",
            )
        path = directory / name
        if data is None:
            path.unlink(missing_ok=True)
        else:
            write_atomic(path, data)
