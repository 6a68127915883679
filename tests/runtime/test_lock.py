from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from retiarii.errors import StoreError
from retiarii.runtime.lock import DirectoryLock


def _hold(directory: Path, body: str) -> subprocess.Popen[str]:
    text = f"""
    import os, time
    from pathlib import Path
    from retiarii.runtime.lock import DirectoryLock
    lock = DirectoryLock(Path({str(directory)!r}))
    {body}
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "held"
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_second_process_is_refused_with_the_holders_pid(tmp_path: Path) -> None:
    holder = _hold(tmp_path, "print('held', flush=True); time.sleep(60)")
    try:
        with pytest.raises(StoreError, match=f"pid {holder.pid}"):
            DirectoryLock(tmp_path)
    finally:
        _end(holder)
    DirectoryLock(tmp_path).release()  # SIGKILL left nothing behind


def test_waits_for_what_a_killed_search_left_running(tmp_path: Path) -> None:
    # A process that the holder forked keeps the lock, as its workers do.
    body = "os.fork() or (time.sleep(1.5), os._exit(0)); print('held', flush=True); time.sleep(60)"
    holder = _hold(tmp_path, body)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    began = time.monotonic()
    lock = DirectoryLock(tmp_path)
    assert time.monotonic() - began > 0.3
    lock.release()
    _end(holder)


def test_released_lock_can_be_taken_again(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    with pytest.raises(StoreError, match=f"pid {os.getpid()}"):
        DirectoryLock(tmp_path)
    lock.release()
    lock.release()
    again = DirectoryLock(tmp_path)
    assert (tmp_path / "lock").read_text().strip() == str(os.getpid())
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    again.release()


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="lock file"):
        DirectoryLock(tmp_path / "absent")
