"""Ctrl-C in searches as processes of their own."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retiarii.commands.placement import EXECUTOR
from retiarii.experiment import Experiment
from retiarii.result import Result, open_result
from retiarii.runtime.lock import searching
from retiarii.runtime.source import load_space_file

SAID = "finishing the epoch; Ctrl-C again stops at once"
EPOCHS = 4


@pytest.mark.parametrize(("executor", "workers"), [("inline", 1), ("local", 2)])
def test_the_first_lets_the_epoch_end(
    tmp_path: Path,
    gentle_file: Path,
    search: Any,
    undisturbed: Callable[..., Result],
    facts: Any,
    executor: str,
    workers: int,
) -> None:
    """Nothing is trained twice when it goes on, not even the epoch at hand."""
    options: dict[str, Any] = {
        "strategy": "random", "trials": 12, "workers": workers, "cohort": 4
    }  # fmt: skip
    expected = undisturbed(gentle_file, **options)
    running = search(gentle_file, tmp_path / "search", executor=executor, **options)
    assert running.interrupt_after(6) == ("interrupted", SAID)
    between = open_result(tmp_path / "search")
    assert between.ended == "interrupted"
    assert {t.state for t in between.trials} <= {"complete", "waiting"}
    assert searching(tmp_path / "search") is None
    assert not (tmp_path / "search" / "status.json").exists()
    # It goes on in this process, which starts sooner.
    loaded = load_space_file(gentle_file)
    result = Experiment(
        loaded.space, loaded.evaluator, directory=tmp_path / "search", source=loaded, **options
    ).run()
    assert facts(result) == facts(expected)
    ran = Counter((number, epoch) for number, epoch, _ in running.epochs())
    trained = [t.id for t in expected.trials if t.same_as is None]
    assert ran == {(number, epoch): 1 for number in trained for epoch in range(1, EPOCHS + 1)}


def test_on_the_command_line(
    tmp_path: Path,
    gentle_file: Path,
    search: Any,
    changed: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a worker, as is the default there; it says how to go on."""
    monkeypatch.delenv(EXECUTOR)
    changed(gentle_file, ("PAUSE = 0.015", "PAUSE = 0.1"))
    out = tmp_path / "search"
    running = search(gentle_file, out)
    words = ["run", str(gentle_file), "--out", str(out), "--strategy", "random", "--trials", "12"]
    running.command = [sys.executable, "-c", "from retiarii.cli import main; main()", *words]
    process = running.begin(3, start_new_session=True)
    os.killpg(process.pid, signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert printed == ""
    lines = errors.strip().splitlines()
    assert lines[-3] == SAID
    assert lines[-2] == f"interrupted: 0 of 12 trials are finished, and kept in {out}"
    assert lines[-1].startswith(f"to go on: retiarii run {gentle_file} --out {out}")
    assert {pid for _, _, pid in running.epochs()}.isdisjoint({process.pid})


def test_the_second_stops_at_once(
    tmp_path: Path, gentle_file: Path, search: Any, changed: Callable[..., Path]
) -> None:
    changed(gentle_file, ("PAUSE = 0.015", "PAUSE = 600"))
    running = search(gentle_file, tmp_path / "search", executor="local", trials=4, cohort=2)
    assert running.interrupt_after(1, times=2) == ("interrupted", SAID)
    assert {t.state for t in open_result(tmp_path / "search").trials} == {"waiting"}


def test_without_pauses_the_first_stops_at_once(
    tmp_path: Path, space_file: Path, search: Any, changed: Callable[..., Path]
) -> None:
    changed(space_file, ("PAUSE = 0.015", "PAUSE = 600"))
    running = search(space_file, tmp_path / "search", executor="local", trials=4)
    assert running.interrupt_after(1) == ("interrupted", "")
    result = open_result(tmp_path / "search")
    assert result.ended == "interrupted"
    assert {t.state for t in result.trials} == {"waiting"}
