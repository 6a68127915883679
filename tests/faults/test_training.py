"""What can go wrong in training: memory, numbers, user code. In worker processes, merged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from retiarii.dispatch import start
from retiarii.dispatch.dispatcher import Dispatcher
from retiarii.experiment import Experiment
from retiarii.result import Result
from retiarii.runtime.logs import logs_about
from retiarii.runtime.progress import Progress
from retiarii.runtime.source import load_space_file

SPACE = """
import torch
from torch import nn
import retiarii as rt

torch.manual_seed(0)
x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))


class Widen(rt.Mutator):
    def mutate(self, graph, target):
        graph.update(target, out_features=self.choice([4, 8, 12, 16], label="width"))


space = rt.ModelSpace(
    nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)), example_inputs=torch.zeros(2, 6)
)
space.apply_mutator("0", Widen())
LOSS = nn.CrossEntropyLoss()
evaluator = rt.Supervised(
    (x, y), (x, y), loss=LOSS, optimizer=rt.SGD(lr=rt.choice([0.1, 0.2], "lr")), epochs=4,
    metric="loss",
)
"""
# In a worker memory suffices for two models; this process, which reads the file too, stays whole.
SMALL_MEMORY = """
import multiprocessing
from pathlib import Path
from retiarii.training.cohort.trainer import CohortTrainer

whole = CohortTrainer.advance


def advance(self):
    with (Path(__file__).parent / "epochs.log").open("a") as log:
        log.write(f"{len(self.parts)} {self.epoch}\\n")
    if len(self.parts) > 2 and self.epoch >= 2:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
    return whole(self)


if multiprocessing.parent_process() is not None:
    CohortTrainer.advance = advance
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "project" / "space.py"
    made.parent.mkdir()
    made.write_text(SPACE)
    return made


def run(file: Path, directory: Path, executor: str = "local", **options: Any) -> Result:
    loaded = load_space_file(file)
    given = {"strategy": "grid", "trials": 8, "cohort": 8, **options}
    return Experiment(
        loaded.space,
        loaded.evaluator,
        directory=directory,
        source=loaded,
        executor=executor,
        **given,
    ).run()


def close(one: Result, other: Result) -> None:
    """The same trials, and their scores up to rounding: cohorts were of other sizes."""
    assert [(t.id, t.state, dict(t.decisions)) for t in one.trials] == [
        (t.id, t.state, dict(t.decisions)) for t in other.trials
    ]
    for here, there in zip(one.trials, other.trials, strict=True):
        assert here.score == pytest.approx(there.score, rel=1e-4)
        assert [h["step"] for h in here.history] == [h["step"] for h in there.history]


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """What dispatchers have learnt of the memory by the end of a search."""
    found: list[dict[str, int]] = []

    class Kept(Dispatcher):
        def shutdown(self) -> None:
            found.append(dict(self.state().fits))
            super().shutdown()

    monkeypatch.setattr(start, "Dispatcher", Kept)
    return found


def test_out_of_memory(tmp_path: Path, file: Path, fits: list[dict[str, int]]) -> None:
    """The cohort is split, what fits is learnt, and no trial is lost or begins again."""
    expected = run(file, tmp_path / "whole", "inline", fuse="off", trials=12)
    file.write_text(SPACE + SMALL_MEMORY)
    notes: list[str] = []

    def watch(progress: Progress) -> None:
        if progress.note is not None:
            notes.append(progress.note)

    fits.clear()
    result = run(file, tmp_path / "full", trials=12, cohort="auto", progress=watch)
    close(result, expected)
    # (The last epochs of one model by itself are not a cohort's.)
    told = [int(found) for n in notes for found in re.findall(r"going on with (\d+) at", n)]
    assert told[-1] == 2
    assert told == sorted(told, reverse=True)
    assert fits[-1] == {"cpu": 2}
    lines = (file.parent / "epochs.log").read_text().splitlines()
    tried = [tuple(map(int, line.split())) for line in lines]
    refused = [size for size, epoch in tried if size > 2 and epoch >= 2]
    assert refused
    assert len(refused) == len(told)
    # An epoch is of each trial once, what was refused left out.
    assert sum(size for size, epoch in tried if not (size > 2 and epoch >= 2)) <= 12 * 4


def test_a_score_that_is_no_number(tmp_path: Path, file: Path) -> None:
    """That trial fails, and those of its cohort get the scores that they get."""
    expected = run(file, tmp_path / "whole", "inline")
    file.write_text(SPACE.replace("[0.1, 0.2]", "[0.1, 3e38]"))
    result = run(file, tmp_path / "search", retries=0)
    bad = [t for t in result.trials if t.decisions["lr"] == 3e38]
    assert len(bad) == 4
    assert {t.state for t in bad} == {"failed"}
    assert all(re.search("nan|inf|finite", t.error or "") for t in bad)
    good = [(t.id, t.score) for t in result.trials if t.state == "complete"]
    assert [number for number, _ in good] == [
        t.id for t in expected.trials if t.decisions["lr"] == 0.1
    ]
    for number, score in good:
        assert score == pytest.approx(expected.trials[number].score, rel=1e-4)


BROKEN = """
def metric(outputs, targets):
    score = LOSS(outputs, targets).item()
    if score < MOST:
        raise ZeroDivisionError("the user's own mistake")
    return score


evaluator = rt.Supervised(
    (x, y), (x, y), loss=LOSS, optimizer=rt.SGD(lr=rt.choice([0.1, 0.2], "lr")), epochs=4,
    metric=metric, maximize=False,
)
"""


def test_an_exception_in_user_code(tmp_path: Path, file: Path) -> None:
    """The trial fails with the place in the user's file; the cohort goes on without it."""
    expected = run(file, tmp_path / "whole", "inline")
    best = min(t.score for t in expected.trials if t.score is not None)
    first = next(t for t in expected.trials if t.score == best)
    between = sorted(t.score for t in expected.trials if t.score is not None)[:2]
    most = sum(between) / 2
    file.write_text(SPACE + BROKEN.replace("MOST", repr(most)))
    result = run(file, tmp_path / "search", retries=0)
    failed = [t for t in result.trials if t.state == "failed"]
    assert [t.id for t in failed] == [first.id]
    assert "ZeroDivisionError: the user's own mistake" in (failed[0].error or "")
    assert 'raise ZeroDivisionError("the user\'s own mistake")' in (failed[0].traceback or "")
    (log, *_) = logs_about(tmp_path / "search", first.id)
    assert "the user's own mistake" in log.read_text()
    for trial in result.trials:
        if trial.id != first.id:
            assert trial.score == pytest.approx(expected.trials[trial.id].score, rel=1e-4)
