"""The directory of a search: making it, and whether it can be written at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from retiarii.errors import StoreError

DATABASE = "search.db"
_PROBE = ".probe"
# Enough that a disk with a few free blocks, too few for the store, is found out at once.
_PROBE_BYTES = 256 * 1024

_FIXES = {
    errno.ENOSPC: "free some space on this disk, or choose a directory on another",
    errno.EDQUOT: "free some of your quota, or choose a directory on another disk",
    errno.ENOTDIR: "choose a directory; there is a file of this name",
    errno.EEXIST: "choose a directory; there is a file of this name",
}


def make_directory(directory: Path) -> Path:
    """Makes the directory, with its parents, and answers its full path.

    Raises:
        StoreError: it cannot be made, or is a file.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return directory.resolve(strict=True)
    except OSError as error:
        raise _refused("cannot make the search's directory", directory, error) from error


def check_writable(directory: Path) -> None:
    """Writes a small file through to the disk, and removes it.

    Raises:
        StoreError: read-only, no permission, or no space left.
    """
    probe = directory / _PROBE
    try:
        try:
            fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                left = memoryview(b"\0" * _PROBE_BYTES)
                while left:
                    left = left[os.write(fd, left) :]
                os.fsync(fd)
            finally:
                os.close(fd)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise _refused("cannot write to the search's directory", directory, error) from error


def make_database(path: Path) -> None:
    """An empty file that only its owner may read, where there is none.

    SQLite gives its side files the same rights.

    Raises:
        StoreError: it cannot be made, or is no plain file.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        raise _refused("cannot open the store", path, error) from error


def _refused(what: str, path: Path, error: OSError) -> StoreError:
    fix = _FIXES.get(error.errno or 0, "choose a directory that you may write to")
    return StoreError(f"{what}: {error.strerror or error}", where=str(path), fix=fix)
