from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from retiarii.cli import app
from retiarii.runtime.live import Live, LiveCohort, read_live, remove_live
from retiarii.runtime.lock import DirectoryLock, searching

DRIVER = Path(__file__).parents[1] / "driver.py"


def status(directory: Path, *words: str) -> Any:
    result = CliRunner().invoke(app, ["status", str(directory), *words])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def directory(epochs_file: Path, tmp_path: Path) -> Path:
    """A search that has ended."""
    from retiarii.experiment import Experiment
    from retiarii.runtime.source import load_space_file

    loaded = load_space_file(epochs_file)
    Experiment(loaded.space, loaded.evaluator, "random", 3, tmp_path / "search").run()
    return tmp_path / "search"


def live(pid: int, **changes: Any) -> Live:
    cohorts = (
        LiveCohort("cuda:0", 16, "0-15", (2, 3), 65.0, 1234.5, False),
        LiveCohort("cuda:1", 1, "16", (0, 0), 0.5, None, True),
    )
    devices = (("cuda:0", "NVIDIA H100"), ("cuda:1", "NVIDIA H100"), ("cuda:2", "NVIDIA H100"))
    fields: dict[str, Any] = {
        "pid": pid, "phase": "search", "updated": time.time(), "seconds": 70.0,
        "devices": devices, "cohorts": cohorts, "waiting": 12, "next": (17, 18),
    }  # fmt: skip
    return Live(**{**fields, **changes})


@pytest.fixture
def running(directory: Path) -> Iterator[Path]:
    """The same, as if it were still running in this process."""
    lock = DirectoryLock(directory)
    yield directory
    lock.release()


def test_what_is_going_on(running: Path) -> None:
    live(os.getpid()).write(running)
    assert (running / "status.json").stat().st_mode & 0o777 == 0o600
    lines = status(running).output.splitlines()
    assert lines[0] == f"searching, pid {os.getpid()}"
    assert lines[1] == "trials: 3 of 3 are finished"
    assert lines[2].startswith("best:   trial ")
    text = "\n".join(" ".join(line.split()) for line in lines)
    assert "cuda:0 (NVIDIA H100) 16 trials: 0-15 2 to 3 1.23e+03 65 s" in text
    assert "1 trial: 16, leaving" in text
    assert "idle: cuda:2" in text
    assert "next: 12 wait: trials 17, 18 ..." in text


def test_as_json(running: Path) -> None:
    live(os.getpid()).write(running)
    found = json.loads(status(running, "--json").output)
    assert found["running"] is True
    assert found["pid"] == os.getpid()
    assert found["total"] == 3
    assert found["states"] == {"complete": 3}
    assert found["live"]["cohorts"][0]["rate"] == 1234.5
    assert found["trouble"] is None


def test_not_running(directory: Path) -> None:
    assert searching(directory) is None
    live(os.getpid()).write(directory)  # left behind by a search that was killed
    result = status(directory)
    assert "not running; it ended: trials" in result.output
    assert "cuda" not in result.output


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "[" * 100_000, '{"version": 2}', '{"version": 1, "pid": 1}', "null",
        b"\xff\xfe",
    ],
)  # fmt: skip
def test_a_damaged_file(running: Path, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (running / "status.json").write_bytes(data)
    result = status(running)
    assert "trials: 3 of 3 are finished" in result.output
    assert "what it is doing is not known: status.json is damaged" in result.output
    assert "fix: a search that runs writes it anew each second" in result.output
    assert "damaged" in json.loads(status(running, "--json").output)["trouble"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pid", "1"), ("pid", True), ("updated", "now"), ("seconds", None), ("devices", [["a"]]),
        ("devices", 3), ("cohorts", [{}]), ("waiting", 1.5), ("next", ["1"]), ("phase", 7),
        ("seconds", float("nan")),
    ],
)  # fmt: skip
def test_a_file_with_something_else_in_it(running: Path, name: str, value: Any) -> None:
    live(os.getpid()).write(running)
    path = running / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    assert "status.json is damaged" in status(running).output


def test_a_terminal_is_not_told_what_to_do(running: Path) -> None:
    live(os.getpid(), devices=(("cuda:2\x1b[2J", "GPU"),), cohorts=()).write(running)
    assert "\x1b" not in status(running).output
    assert "idle:   cuda:2?[2J" in status(running).output


def test_a_link_is_not_followed(running: Path, tmp_path: Path) -> None:
    live(os.getpid()).write(tmp_path)
    (running / "status.json").symlink_to(tmp_path / "status.json")
    assert "status.json is damaged" in status(running).output


def test_nothing_to_write_to(tmp_path: Path) -> None:
    live(1).write(tmp_path / "absent")
    remove_live(tmp_path / "absent")
    assert read_live(tmp_path) is None


def test_no_search(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert result.exit_code == 2
    assert "no search is stored here" in result.output


def test_while_it_runs_and_after(epochs_file: Path, tmp_path: Path) -> None:
    """As from another terminal."""
    text = epochs_file.read_text().replace("PAUSE = 0.015", "PAUSE = 0.2")
    epochs_file.write_text(text)
    directory = tmp_path / "search"
    options = {"strategy": "random", "trials": 400, "workers": 2, "executor": "local"}
    words = [sys.executable, str(DRIVER), str(epochs_file), str(directory), json.dumps(options)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        found: dict[str, Any] = {}
        deadline = time.monotonic() + 60
        while not any(each["rate"] for each in (found.get("live") or {}).get("cohorts", ())):
            assert time.monotonic() < deadline, found
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
            if (directory / "search.db").exists():
                result = CliRunner().invoke(app, ["status", str(directory), "--json"])
                found = json.loads(result.stdout) if result.exit_code == 0 else {}
        assert found["pid"] == process.pid
        assert [name for name, _ in found["live"]["devices"]] == ["cpu:0", "cpu:1"]
        (first, *_) = found["live"]["cohorts"]
        assert first["device"] in ("cpu:0", "cpu:1")
        assert first["count"] == 1
        assert first["trials"].isdecimal()
    finally:
        process.kill()
        process.communicate()
    # Killed: its file is there, and no more believed.
    assert (directory / "status.json").exists()
    after = status(directory).output
    assert "not running, and not at its end" in after
    assert "cpu:" not in after
