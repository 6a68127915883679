"""One process at a time for a search's directory."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from retiarii.errors import StoreError

# How long to wait for workers of a killed search: they hold the lock until they have noticed.
_ORPHANS_SECONDS = 15.0
# And for who only looks whether it is held: see `searching`.
_GLANCE_SECONDS = 0.2


class DirectoryLock:
    """An ``flock`` on ``DIR/lock``, released by the kernel however the process ends.

    Worker processes hold the same lock (see `fileno`), so that a search killed with SIGKILL
    is not resumed while one of its workers may still write a checkpoint.

    Args:
        directory: the search's directory; it must exist.

    Raises:
        StoreError: another process holds the lock, or the file cannot be made.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"cannot make the lock file: {error.strerror}",
                where=str(self._path),
                fix="choose a directory that you may write to",
            ) from error
        try:
            self._acquire()
        except BaseException:
            os.close(self._fd)
            raise
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def fileno(self) -> int:
        """The descriptor to hand to workers."""
        return self._fd

    def release(self) -> None:
        """Gives the lock back; done by itself when the process ends."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _acquire(self) -> None:
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                holder = self._holder()
            except OSError as error:
                raise StoreError(
                    f"this file system cannot lock files: {error.strerror}",
                    where=str(self._path),
                    fix="put the directory on a local disk",
                ) from error
            waited = time.monotonic() - began
            held = holder is None or _alive(holder)
            if waited > (_GLANCE_SECONDS if held else _ORPHANS_SECONDS):
                raise StoreError(
                    "another process is searching in this directory"
                    + (f": pid {holder}" if holder is not None else ""),
                    where=str(self._path.parent),
                    fix="wait until it ends, or stop it, or choose another directory",
                )
            time.sleep(0.02)

    def _holder(self) -> int | None:
        """The pid that the holder wrote; it may be about to write it."""
        for _ in range(50):
            text = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            if text.isdigit():
                return int(text)
            time.sleep(0.01)
        return None


def searching(directory: Path) -> int | None:
    """The pid of the process that searches in a directory, or ``None``.

    What a killed search has left running, for the moment in which it notices, does not count.
    """
    try:
        fd = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        # Held for less than it takes to see that it is: who wants it looks again.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(fd, 32, 0).decode(errors="replace").strip()
        pid = int(text) if text.isdecimal() else None
        return pid if pid is not None and _alive(pid) else None
    except OSError:
        return None
    finally:
        os.close(fd)
    return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # killed, and not yet reaped by its parent
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state != "Z"
