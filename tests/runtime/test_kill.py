"""Searches as processes of their own, killed with SIGKILL again and again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from retiarii.errors import StoreError
from retiarii.experiment import Experiment
from retiarii.result import Result, open_result
from retiarii.runtime.source import load_space_file

TRIALS = 12
EPOCHS = 4


def facts(result: Result) -> list[Any]:
    return [
        (t.id, t.state, dict(t.decisions), t.score, t.same_as, t.history) for t in result.trials
    ]


class Search:
    """The command of one search, run as often as needed."""

    def __init__(self, driver: Path, file: Path, directory: Path, **options: Any) -> None:
        self._command = [sys.executable, str(driver), str(file), str(directory)]
        self._command.append(json.dumps(options))
        self._directory = directory
        self.log = file.parent / "epochs.log"

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def epochs(self) -> list[tuple[int, int, int]]:
        """(trial, epoch, pid) as run so far."""
        if not self.log.exists():
            return []
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [(int(n), int(e), int(pid)) for n, e, pid in (x for x in lines if len(x) == 3)]

    def kill_after(self, epochs: int) -> None:
        """Starts it, and kills the controller once ``epochs`` have been begun in all."""
        process = self.start()
        deadline = time.monotonic() + 60
        while len(self.epochs()) < epochs:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.communicate()

    def finish(self) -> str:
        process = self.start()
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        return out.strip()

    def complete(self) -> set[int]:
        try:
            return {t.id for t in open_result(self._directory).trials if t.state == "complete"}
        except StoreError:
            return set()


@pytest.mark.parametrize(
    ("executor", "workers", "strategy", "kills"),
    [
        ("inline", 1, "evolution", [1, 19]),
        ("local", 2, "random", [15]),
        pytest.param("inline", 3, "evolution", [2, 5, 8, 15, 22, 31], marks=pytest.mark.slow),
        pytest.param("local", 2, "random", [9, 24], marks=pytest.mark.slow),
        pytest.param("local", 3, "evolution", [1, 4, 9, 14, 23, 33], marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_moment(
    tmp_path: Path,
    space_file: Path,
    driver: Path,
    executor: str,
    workers: int,
    strategy: str,
    kills: list[int],
) -> None:
    loaded = load_space_file(space_file)
    options: dict[str, Any] = {"strategy": strategy, "trials": TRIALS, "workers": workers}
    unbroken = Experiment(loaded.space, loaded.evaluator, **options).run()
    (space_file.parent / "epochs.log").unlink()

    directory = tmp_path / "search"
    search = Search(driver, space_file, directory, executor=executor, **options)
    for epochs in kills:
        done = search.complete()
        before = len(search.epochs())
        search.kill_after(epochs)
        again = {number for number, _, _ in search.epochs()[before:]}
        assert not done & again, "a finished trial was run again"
        assert done <= search.complete(), "a finished trial was lost"
    done = search.complete()
    before = len(search.epochs())
    assert search.finish() == "trials"
    assert not done & {number for number, _, _ in search.epochs()[before:]}

    assert facts(open_result(directory)) == facts(unbroken)
    # Nothing was run twice, but for the epochs that were under way at a kill.
    ran = Counter((number, epoch) for number, epoch, _ in search.epochs())
    trained = [t.id for t in unbroken.trials if t.same_as is None]
    assert set(ran) == {(number, epoch) for number in trained for epoch in range(1, EPOCHS + 1)}
    assert sum(ran.values()) - len(ran) <= len(kills) * workers


@pytest.mark.parametrize(
    ("executor", "workers", "kills"),
    [
        ("inline", 1, [3, 18]),
        pytest.param("inline", 1, [1, 7, 16, 25, 33, 44], marks=pytest.mark.slow),
        pytest.param("local", 2, [2, 9, 20, 31], marks=pytest.mark.slow),
    ],
)
def test_cohorts_killed_at_any_moment(
    tmp_path: Path, cohort_file: Path, driver: Path, executor: str, workers: int, kills: list[int]
) -> None:
    """Trials of a cohort go on together from where each was."""
    loaded = load_space_file(cohort_file)
    options: dict[str, Any] = {
        "strategy": "evolution", "trials": TRIALS, "workers": workers, "cohort": 4
    }  # fmt: skip
    unbroken = Experiment(loaded.space, loaded.evaluator, fuse="off", **options).run()
    log = cohort_file.parent / "epochs.log"
    first = [int(line.split()[0]) for line in log.read_text().splitlines()[:EPOCHS]]
    assert set(first) == {0}
    log.unlink()

    directory = tmp_path / "search"
    search = Search(driver, cohort_file, directory, executor=executor, **options)
    for epochs in kills:
        search.kill_after(epochs)
    assert search.finish() == "trials"
    assert len({number for number, _, _ in search.epochs()[:EPOCHS]}) > 1, "one by one"
    assert facts(open_result(directory)) == facts(unbroken)
    ran = Counter((number, epoch) for number, epoch, _ in search.epochs())
    trained = [t.id for t in unbroken.trials if t.same_as is None]
    assert set(ran) == {(number, epoch) for number in trained for epoch in range(1, EPOCHS + 1)}
    assert sum(ran.values()) - len(ran) <= len(kills) * workers


def test_workers_end_with_their_controller(tmp_path: Path, space_file: Path, driver: Path) -> None:
    text = space_file.read_text().replace("PAUSE = 0.015", "PAUSE = 600")
    space_file.write_text(text)
    search = Search(driver, space_file, tmp_path / "search", executor="local", trials=2)
    search.kill_after(1)
    pid = search.epochs()[0][2]
    deadline = time.monotonic() + 10
    while _runs(pid):
        assert time.monotonic() < deadline, "a worker outlived its controller"
        time.sleep(0.02)


def test_interrupted_by_ctrl_c(tmp_path: Path, space_file: Path, driver: Path) -> None:
    """The whole process group gets SIGINT, as from a terminal; workers do not mind it."""
    search = Search(driver, space_file, tmp_path / "search", executor="local", workers=2, trials=12)
    process = subprocess.Popen(
        search._command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while len(search.epochs()) < 6:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert (out.strip(), errors) == ("interrupted", "")
    result = open_result(tmp_path / "search")
    assert result.ended == "interrupted"
    assert {t.state for t in result.trials} <= {"complete", "waiting"}


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
