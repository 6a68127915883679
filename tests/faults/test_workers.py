"""Workers that are killed, hang, or end by what they evaluate."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from retiarii.experiment import Experiment
from retiarii.result import Result
from retiarii.runtime import local
from retiarii.runtime.logs import logs_about
from retiarii.runtime.progress import Progress
from retiarii.runtime.source import load_space_file

EPOCHS = 4


def run(file: Path, **options: Any) -> Result:
    loaded = load_space_file(file)
    return Experiment(
        loaded.space, loaded.evaluator, "random", source=loaded, executor="local", **options
    ).run()


def logged(file: Path) -> list[tuple[int, int, int]]:
    lines = (file.parent / "epochs.log").read_text().splitlines()
    return [tuple(map(int, line.split())) for line in lines]  # type: ignore[misc]


class Killer:
    """Sends a signal to a worker that is at work, after some of the epochs that are new.

    Args:
        file: the space file, which has the log beside it.
        times: how often.
        every: one in so many reports, drawn at random.
        number: the signal.
    """

    def __init__(
        self, file: Path, times: int, every: float = 1.0, number: int = signal.SIGKILL
    ) -> None:
        self._file = file
        self._times = times
        self._every = every
        self._number = number
        self._draw = random.Random(0)
        self._seen: set[tuple[int, int | None]] = set()
        self.hit: list[int] = []

    def __call__(self, progress: Progress) -> None:
        if progress.kind != "step" or progress.trial is None or len(self.hit) == self._times:
            return
        step = (progress.trial.id, progress.step)
        if step in self._seen:  # reported again by a worker that goes on: no progress yet
            return
        self._seen.add(step)
        if self._draw.random() * self._every > 1:
            return
        alive = {process.pid for process in multiprocessing.active_children()}
        pids = sorted({pid for _, _, pid in logged(self._file)} & alive - set(self.hit))
        if pids:
            self.hit.append(self._draw.choice(pids))
            with suppress(ProcessLookupError):
                os.kill(self.hit[-1], self._number)


@pytest.mark.parametrize(
    ("trials", "kills", "every"),
    [(8, 3, 4.0), pytest.param(64, 50, 1.5, marks=pytest.mark.slow)],
)
def test_killed_at_random(
    tmp_path: Path,
    cohort_file: Path,
    undisturbed: Callable[..., Result],
    facts: Any,
    trials: int,
    kills: int,
    every: float,
) -> None:
    """It goes on with others: no trial is lost, none trained twice, and all scores are the same."""
    options: dict[str, Any] = {"trials": trials, "workers": 2, "cohort": 4, "retries": 8}
    expected = undisturbed(cohort_file, strategy="random", **options)
    killer = Killer(cohort_file, kills, every)
    result = run(cohort_file, directory=tmp_path / "search", progress=killer, **options)
    assert len(killer.hit) == kills
    assert facts(result) == facts(expected)
    ran = Counter((number, epoch) for number, epoch, _ in logged(cohort_file))
    trained = [t.id for t in expected.trials if t.same_as is None]
    assert set(ran) == {(number, epoch) for number in trained for epoch in range(1, EPOCHS + 1)}
    # Nothing twice but the epoch that was under way: one at a time in each worker.
    assert sum(ran.values()) - len(ran) <= kills
    assert {pid for _, _, pid in logged(cohort_file)} > set(killer.hit)
    told = [path.read_text() for n in trained for path in logs_about(tmp_path / "search", n)]
    assert sum("was killed by SIGKILL" in text for text in told) >= 1


def test_a_worker_that_hangs_is_replaced(
    tmp_path: Path,
    cohort_file: Path,
    undisturbed: Callable[..., Result],
    facts: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = undisturbed(cohort_file, strategy="random", trials=4, workers=1, cohort=4)
    hasty = partial(local.LocalExecutor, patience=3.0)
    monkeypatch.setattr(local, "LocalExecutor", hasty)
    killer = Killer(cohort_file, 1, number=signal.SIGSTOP)
    result = run(cohort_file, trials=4, cohort=4, directory=tmp_path / "search", progress=killer)
    (hung,) = killer.hit
    with pytest.raises(ProcessLookupError):
        os.kill(hung, 0)
    assert facts(result) == facts(expected)
    assert {pid for _, _, pid in logged(cohort_file)} > {hung}
    assert (
        "hung: it said nothing for 3 s"
        in (tmp_path / "search" / "logs" / "trial-00000.log").read_text()
    )


def test_a_trial_that_kills_its_workers_fails_alone(
    tmp_path: Path, cohort_file: Path, changed: Callable[..., Path]
) -> None:
    """The others of its cohort go on from their checkpoints, each by itself."""
    deadly = "            if trial.number == 1 and epoch == 3: os._exit(7)\n"
    changed(cohort_file, ("            time.sleep(PAUSE)\n", deadly))
    result = run(cohort_file, trials=4, cohort=4, directory=tmp_path / "search")
    assert [t.state for t in result.trials] == ["complete", "failed", "complete", "complete"]
    assert "exit code 7" in (result.trials[1].error or "")
    assert "it was tried 2 times" in (result.trials[1].error or "")
    ran = [(number, epoch) for number, epoch, _ in logged(cohort_file)]
    assert ran[:5] == [(0, 1), (1, 1), (2, 1), (3, 1), (0, 2)]
    assert sorted(e for n, e in ran if n == 0) == [1, 2, 3, 4]


def test_workers_that_end_while_they_start(
    tmp_path: Path, space_file: Path, changed: Callable[..., Path]
) -> None:
    """The search ends with what to do, and where they have said why."""
    change = "if __import__('multiprocessing').parent_process():\n    print('so'); os._exit(3)\n"
    changed(space_file, ("PAUSE = 0.015\n", f"PAUSE = 0.015\n{change}"))
    with pytest.raises(Exception, match="ended with exit code 3 while it was starting") as caught:
        run(space_file, trials=4, directory=tmp_path / "search")
    where = str(caught.value).partition("what it printed: ")[2].split()[0]
    assert Path(where).read_text() == "so\n"
