from __future__ import annotations

import importlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retiarii.errors import RetiariiError
from retiarii.experiment import Experiment
from retiarii.mutators.choice import choice
from retiarii.result import Result
from retiarii.runtime.executor import Lost, Yielded
from retiarii.runtime.job import Job, JobTrial
from retiarii.runtime.local import LocalExecutor
from retiarii.runtime.packing import memory_source
from retiarii.runtime.source import FileSource, load_space_file
from retiarii.training.events import Failed, Finished, Reported, TrialEvent
from retiarii.training.function import Function


def scores(result: Result) -> list[Any]:
    return [
        (t.id, t.state, dict(t.decisions), t.score, t.same_as, t.history) for t in result.trials
    ]


def run(file: Path, **options: Any) -> Result:
    loaded = load_space_file(file)
    return Experiment(loaded.space, loaded.evaluator, "random", source=loaded, **options).run()


@pytest.fixture
def executor(space_file: Path) -> Iterator[LocalExecutor]:
    made = LocalExecutor(FileSource(space_file, load_space_file(space_file).digest), workers=1)
    yield made
    made.shutdown()


def job(number: int, directory: Path, op: int = 0, width: int = 0) -> Job:
    raws = (("op", op), ("width", width))
    return Job((JobTrial(number, number, 0, raws, directory / str(number)),), 0)


# What an evaluator does that can give its device back: it looks after each epoch.
WATCHES = "            yield\n            trial.should_stop()\n"


def together(directory: Path, *numbers: int) -> Job:
    return Job(tuple(job(n, directory, width=n).trials[0] for n in numbers), 0)


def collect(executor: LocalExecutor, count: int = 1) -> list[TrialEvent]:
    """Everything up to the ``count``-th end of a trial."""
    events: list[TrialEvent] = []
    deadline = time.monotonic() + 60
    while sum(isinstance(e, Finished | Failed | Lost) for e in events) < count:
        assert time.monotonic() < deadline, events
        executor.poll(1.0, events.append)
    return events


def test_executor_by_itself(tmp_path: Path, executor: LocalExecutor) -> None:
    executor.submit(job(0, tmp_path))
    executor.submit(job(1, tmp_path, width=1))
    events = collect(executor, 2)
    assert [type(e).__name__ for e in events if e.number == 0] == [
        "Started", *["Reported"] * 4, "Finished"
    ]  # fmt: skip
    assert {e.number for e in events} == {0, 1}
    # A job whose answers are not those of the space fails, and the worker goes on.
    executor.submit(Job((JobTrial(2, 0, 0, (("nonsense", 0),), tmp_path / "2"),), 0))
    (failed,) = collect(executor)
    assert isinstance(failed, Failed)
    assert "nonsense" in failed.message
    # An idle worker dies: nothing is lost, and there is another for the next job.
    (worker,) = multiprocessing.active_children()
    worker.kill()
    worker.join()
    executor.submit(job(3, tmp_path, width=2))
    events = collect(executor)
    if isinstance(events[-1], Lost):  # handed out before the death was seen
        executor.submit(job(3, tmp_path, width=2))
        events = collect(executor)
    assert isinstance(events[-1], Finished)
    pids = [process.pid for process in multiprocessing.active_children()]
    assert len(pids) == 1
    executor.shutdown()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid or 0, 0)


def test_a_job_gives_its_device_back(tmp_path: Path, cohort_file: Path) -> None:
    """All of its trials go on from their checkpoints in other jobs, as if nothing had been."""
    text = cohort_file.read_text().replace("            yield\n", WATCHES)
    cohort_file.write_text(text)
    source = FileSource(cohort_file, load_space_file(cohort_file).digest)
    executor = LocalExecutor(source, workers=1)
    try:
        executor.submit(together(tmp_path, 0, 1, 2))
        events: list[TrialEvent] = []
        while sum(isinstance(e, Reported) for e in events) < 4:
            executor.poll(1.0, events.append)
        executor.leave({1})
        while not any(isinstance(e, Yielded) for e in events):
            executor.poll(5.0, events.append)
        assert {e.number for e in events if isinstance(e, Yielded)} == {0, 1, 2}
        assert not any(isinstance(e, Finished) for e in events)
        executor.submit(together(tmp_path, 0, 2))
        executor.submit(together(tmp_path, 1))
        events += collect(executor, 3)
    finally:
        executor.shutdown()
    assert {e.number for e in events if isinstance(e, Finished)} == {0, 1, 2}
    log = (cohort_file.parent / "epochs.log").read_text().splitlines()
    epochs = [line.split()[:2] for line in log]
    assert sorted(epochs) == [[str(n), str(e)] for n in range(3) for e in range(1, 5)]


def test_errors_of_the_file_come_back(
    tmp_path: Path, space_file: Path, executor: LocalExecutor
) -> None:
    space_file.write_text(space_file.read_text().replace("EPOCHS = 4", "EPOCHS = 5"))
    executor.submit(job(0, tmp_path))
    with pytest.raises(RetiariiError, match="changed while the search") as caught:
        collect(executor)
    assert caught.value.where == str(space_file)


def test_space_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scoring.py").write_text("def score(trial):\n    return trial.decisions['a'] / 8\n")
    monkeypatch.syspath_prepend(tmp_path)
    score = importlib.import_module("scoring").score
    evaluator = Function(score, hyperparameters={"a": choice([1, 2, 3], "a")})
    results = [
        Experiment(None, evaluator, "grid", 3, executor=name, workers=1).run()  # type: ignore[arg-type]
        for name in ("inline", "local")
    ]
    assert scores(results[0]) == scores(results[1])
    assert [t.score for t in results[1].trials] == [1 / 8, 2 / 8, 3 / 8]


def test_what_cannot_be_sent() -> None:
    evaluator = Function(lambda trial: 1.0, hyperparameters={"a": choice([1, 2], "a")})
    with pytest.raises(RetiariiError, match="cannot be sent to worker processes") as caught:
        memory_source(None, evaluator)
    assert "lambdas" in str(caught.value)
    with pytest.raises(RetiariiError, match="cannot be sent"):
        Experiment(None, evaluator, executor="local").run()


def test_what_a_worker_cannot_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        (tmp_path / "gone.py").write_text("def score(trial):\n    return 1.0\n")
        patched.syspath_prepend(tmp_path)
        score = importlib.import_module("gone").score
    evaluator = Function(score, hyperparameters={"a": choice([1, 2], "a")})
    with pytest.raises(RetiariiError, match="could not load the space: ModuleNotFoundError"):
        Experiment(None, evaluator, executor="local").run()
