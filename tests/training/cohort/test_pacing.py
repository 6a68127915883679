"""The first steps of a cohort are timed, and say whether compiling pays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from retiarii.ir.analysis.remembering import Remembered
from retiarii.optimizer import compiling
from retiarii.space import ModelSpace
from retiarii.testing.cohorts import Heard, candidates_trials, check_cohort
from retiarii.training.optimizers import SGD
from retiarii.training.supervised import Supervised


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RETIARII_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")


def evaluator(epochs: int = 3) -> Supervised:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (60,), generator=generator)
    return Supervised(
        (x, y), (x, y), loss=nn.CrossEntropyLoss(), optimizer=SGD(lr=0.1), epochs=epochs,
        batch_size=9, device="cpu", checkpoint=False,
    )  # fmt: skip


def nets(dropout: float = 0.0) -> list[object]:
    torch.manual_seed(0)
    example = torch.zeros(2, 4, dtype=torch.float64)
    return [
        ModelSpace(
            nn.Sequential(
                nn.Linear(4, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 3)
            ).double(),
            example,
        ).sample(0)
        for width in (4, 4, 5)
    ]


def learned(calls: int, seconds: float, ratio: float) -> None:
    compiling.remember(torch.device("cpu"), calls, seconds, ratio)


def known() -> list[list[float]]:
    with Remembered("compiling") as cache:
        return compiling._known(cache, torch.device("cpu"))


def test_a_short_training_is_not_compiled() -> None:
    cohort = check_cohort(evaluator(), candidates_trials(nets()))
    (how,) = cohort.execution
    # 21 steps in all, of which five were timed, the first to warm up.
    assert how.startswith("eager: compiling takes about")
    assert " in 16 steps of " in how
    assert cohort.stats.execution == how
    assert known() == []


def test_a_training_that_repays_it_is_compiled_and_remembered() -> None:
    learned(1, 1e-9, 2.0)
    cohort = check_cohort(evaluator(), candidates_trials(nets()))
    (how,) = cohort.execution
    assert how.startswith("compiled: compiling takes about")
    first, seen = known()
    assert first == [1, 1e-9, 2.0]
    assert seen[0] == cohort.stats.nodes_after
    assert seen[1] > 0
    assert seen[2] > 0


def test_dropout_says_why_nothing_is_compiled() -> None:
    learned(1, 1e-9, 2.0)
    cohort = check_cohort(evaluator(), candidates_trials(nets(0.3)))
    assert "random stream of its own" in " ".join(cohort.execution)


def test_progress_says_what_is_unusual() -> None:
    heard = Heard()
    evaluator().run(candidates_trials(nets(), heard))
    assert not [note for note in heard.notes if "compil" in note]
    learned(1, 1e-9, 2.0)
    heard = Heard()
    evaluator().run(candidates_trials(nets(), heard))
    assert len([note for note in heard.notes if note.startswith("compiled: ")]) == 1
    assert json.dumps(heard.notes)
