"""``benchmarks/end_to_end.py`` runs through, and its contestants do the same."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from retiarii.runtime.source import load_space_file

FOLDER = Path(__file__).parents[2] / "benchmarks"
PARTS = FOLDER / "_end_to_end"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.syspath_prepend(str(PARTS))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``--quick`` writes."""
    out = tmp_path_factory.mktemp("end_to_end") / "found"
    command = [sys.executable, str(FOLDER / "end_to_end.py"), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "times as fast" in out.with_suffix(".md").read_text()
    found: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
    return found


def test_all_contestants_train_as_many_trials(quick: dict[str, Any]) -> None:
    (task,) = quick["tasks"]
    assert len(task["runs"]) == 6
    for name, (run,) in task["runs"].items():
        assert len(run["scores"]) == 4, name
        ends = [at for at, _ in run["scores"]]
        assert ends == sorted(ends)
        assert 0 < ends[0] <= ends[-1] <= run["seconds"]


def test_the_time_of_ours_is_accounted_for(quick: dict[str, Any]) -> None:
    (run,) = quick["tasks"][0]["runs"]["retiarii, --executor inline"]
    assert {"libraries, data, space", "training"} <= run["phases"].keys()
    assert sum(run["phases"].values()) < run["seconds"]


def test_phases_name_functions_that_there_are() -> None:
    phases = importlib.import_module("_end_to_end.phases")
    for name in phases.PHASES:
        module, _, function = name.partition(":")
        found: Any = importlib.import_module(module)
        for part in function.split("."):
            found = getattr(found, part)


def test_looks_know_the_innermost_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    phases = importlib.import_module("_end_to_end.phases")

    def outer() -> None:
        inner()

    def inner() -> None:
        looks.look(0, sys._getframe())

    known = {f"{__name__}:{f.__qualname__}": f.__name__ for f in (outer, inner)}
    monkeypatch.setattr(phases, "PHASES", known)
    looks = phases.Looks()
    outer()
    assert looks.seconds.keys() == {"inner"}


@pytest.mark.parametrize("name", ["cells", "tuning", "inception"])
def test_models_by_hand_are_ours(name: str) -> None:
    """As many parameters, but for those that nothing reaches; and outputs of equal shape."""
    by_hand = importlib.import_module("by_hand")
    optuna = importlib.import_module("optuna")
    space = load_space_file(PARTS / f"{name}.py").space
    assert space is not None
    for seed in range(8):
        candidate = space.sample(seed)
        hyper: Mapping[str, Any] = {"lr": 0.1, "momentum": 0.5, "weight_decay": 1e-4}
        recipe = by_hand.RECIPES[name](optuna.trial.FixedTrial({**candidate.decisions, **hyper}))
        ours, plain = candidate.build(0), recipe.model()
        counts = [sum(p.numel() for p in model.parameters()) for model in (ours, plain)]
        assert counts[1] <= counts[0]
        kinds = [v for k, v in candidate.decisions.items() if k.startswith("edge")]
        if "none" not in kinds:
            assert counts[0] == counts[1]
        x = torch.zeros(2, by_hand.CHANNELS[name], 8, 8)
        assert plain(x).shape == ours(x).shape == (2, 10)


def test_seconds_to_a_score() -> None:
    runs = importlib.import_module("_end_to_end.runs")
    run = runs.Run(9.0, [(1.0, 0.5), (2.0, 0.9), (3.0, 0.7)], 1.0)
    assert (run.best, run.reached(0.6), run.reached(0.95)) == (0.9, 2.0, 9.0)
