from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from retiarii.runtime import logs
from retiarii.runtime.logs import (
    LIMIT_BYTES,
    append,
    logs_about,
    open_log,
    ranges,
    shorten,
    trial_log,
)


def test_names_and_rights(tmp_path: Path) -> None:
    path = trial_log(tmp_path / "trials" / "12.1", 12)
    assert path == tmp_path / "logs" / "trial-00012.log"
    assert trial_log(tmp_path / "12", 12) is None
    assert trial_log(None, 12) is None
    append(path, "something")
    append(path, "and\nmore\n")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
    first, second, third = path.read_text().splitlines()
    assert first.endswith(" something")
    assert second.endswith(" and")
    assert third == "more"
    assert logs_about(tmp_path, 12) == [path]
    assert logs_about(tmp_path, 13) == []


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([0, 1, 2], "0-2"), ([7, 0, 1, 5, 6], "0-1, 5-7"), ([1, 3], "1, 3")],
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


def test_a_log_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "trial-00000.log"
    fd = open_log(path)
    os.write(fd, b"first\n" + b"x" * LIMIT_BYTES + b"\nlast\n")
    append(path, "too late")
    assert path.stat().st_size == LIMIT_BYTES + 12
    shorten(fd)
    assert path.stat().st_size < LIMIT_BYTES
    text = path.read_bytes()
    assert text.startswith(b"... what was here before was too long")
    assert text.endswith(b"\nlast\n")
    size = path.stat().st_size
    shorten(fd)
    assert path.stat().st_size == size
    os.close(fd)
    append(path, "again")
    assert path.read_text().endswith("again\n")


def test_no_link_is_followed_and_no_disk_ends_a_search(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / "trial-00000.log"
    path.symlink_to(tmp_path / "elsewhere")
    append(path, "something")
    assert not (tmp_path / "elsewhere").exists()
    append(tmp_path / "absent" / "logs" / "trial-00000.log", "something")


def test_a_log_that_is_deleted_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker deletes a log in which it has printed nothing; what is said then is not lost."""
    path = tmp_path / "logs" / "trial-00000.log"
    whole = logs.open_log
    opened = []

    def once(wanted: Path) -> int:
        fd = whole(wanted)
        if not opened:
            wanted.unlink()
        opened.append(fd)
        return fd

    monkeypatch.setattr(logs, "open_log", once)
    append(path, "something")
    assert len(opened) == 2
    assert path.read_text().endswith("something\n")


def test_what_a_process_prints(tmp_path: Path) -> None:
    """A trial's own log; the worker's, where several trials are evaluated together."""
    script = f"""
    import faulthandler, os, sys
    from pathlib import Path
    from retiarii.runtime.logs import Output
    from retiarii.training.trial import Trial

    home = Path({str(tmp_path)!r})
    trials = [Trial(n, n, directory=home / "trials" / str(n)) for n in range(4)]
    print("before anything")
    out = Output(home / "logs")
    print("loading")
    with out.around(trials[:1]):
        print("of zero")
        os.write(2, b"from below\\n")
    with out.around(trials[1:2]):
        pass
    with out.around(trials[1:]):
        print("of all")
    print("after", file=sys.stderr)
    print(os.getpid())
    with out.around(trials[3:]):
        print("not lost", flush=False)
        os.kill(os.getpid(), 11)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.stdout == "before anything\n"
    assert done.stderr == ""
    folder = tmp_path / "logs"
    (worker,) = folder.glob("worker-*.log")
    assert {path.name for path in folder.iterdir()} == {
        worker.name, "trial-00000.log", "trial-00003.log"
    }  # fmt: skip
    assert (folder / "trial-00000.log").read_text() == "of zero\nfrom below\n"
    loading, head, of_all, after, pid = worker.read_text().splitlines()
    assert (loading, of_all, after) == ("loading", "of all", "after")
    assert head.endswith("cohort of trials 1-3")
    assert worker.name == f"worker-{pid}.log"
    crashed = (folder / "trial-00003.log").read_text()
    assert crashed.startswith("not lost\n")
    assert "Segmentation fault" in crashed
    assert logs_about(tmp_path, 2) == [worker]
    assert logs_about(tmp_path, 3) == [folder / "trial-00003.log", worker]
    assert logs_about(tmp_path, 4) == []


def test_many_at_once(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "trial-00000.log"
    threads = [threading.Thread(target=append, args=(path, f"word {i}")) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(path.read_text().splitlines()) == 16
