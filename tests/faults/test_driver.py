"""Searches as processes of their own, killed with SIGKILL again and again."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from retiarii.experiment import Experiment
from retiarii.result import open_result
from retiarii.runtime.source import load_space_file

TRIALS = 12
EPOCHS = 4
MakeSearch = Any  # see conftest.py


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
    search: MakeSearch,
    facts: Any,
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
    running = search(space_file, directory, executor=executor, **options)
    for epochs in kills:
        done = running.complete()
        before = len(running.epochs())
        running.kill_after(epochs)
        again = {number for number, _, _ in running.epochs()[before:]}
        assert not done & again, "a finished trial was run again"
        assert done <= running.complete(), "a finished trial was lost"
    done = running.complete()
    before = len(running.epochs())
    assert running.finish() == "trials"
    assert not done & {number for number, _, _ in running.epochs()[before:]}

    assert facts(open_result(directory)) == facts(unbroken)
    # Nothing was run twice, but for the epochs that were under way at a kill.
    ran = Counter((number, epoch) for number, epoch, _ in running.epochs())
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
    tmp_path: Path,
    cohort_file: Path,
    search: MakeSearch,
    facts: Any,
    executor: str,
    workers: int,
    kills: list[int],
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
    running = search(cohort_file, directory, executor=executor, **options)
    for epochs in kills:
        running.kill_after(epochs)
    assert running.finish() == "trials"
    assert len({number for number, _, _ in running.epochs()[:EPOCHS]}) > 1, "one by one"
    assert facts(open_result(directory)) == facts(unbroken)
    ran = Counter((number, epoch) for number, epoch, _ in running.epochs())
    trained = [t.id for t in unbroken.trials if t.same_as is None]
    assert set(ran) == {(number, epoch) for number in trained for epoch in range(1, EPOCHS + 1)}
    assert sum(ran.values()) - len(ran) <= len(kills) * workers


def test_workers_end_with_their_controller(
    tmp_path: Path, space_file: Path, search: MakeSearch
) -> None:
    text = space_file.read_text().replace("PAUSE = 0.015", "PAUSE = 600")
    space_file.write_text(text)
    running = search(space_file, tmp_path / "search", executor="local", trials=2)
    running.kill_after(1)
    pid = running.epochs()[0][2]
    deadline = time.monotonic() + 10
    while _runs(pid):
        assert time.monotonic() < deadline, "a worker outlived its controller"
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
