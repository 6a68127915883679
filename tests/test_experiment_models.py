"""Searches of models: their graphs, their weights, and their worker processes."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from retiarii.errors import RetiariiError
from retiarii.experiment import Experiment
from retiarii.result import Result, open_result
from retiarii.runtime.packing import memory_source
from retiarii.runtime.source import load_space_file
from retiarii.search_space import SearchSpace

# Widths 4 and 4 are the same model twice, under two decisions.
TEXT = """
import torch
from torch import nn
from retiarii.mutators.mutator import Mutator
from retiarii.space import ModelSpace
from retiarii.training.checkpoint import save_weights
from retiarii.training.function import Function

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(3, 8)
        self.act = nn.ReLU()
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.act(self.hidden(x)))

class Width(Mutator):
    def mutate(self, graph, target):
        graph.update(target, out_features=self.choice([4, 6, 4], label="width"))

class Kind(Mutator):
    def mutate(self, graph, target):
        (x,) = target.inputs
        kind = self.choice([nn.ReLU, nn.Tanh], label="kind")
        graph.replace(target, graph.insert(kind(), x, name="activation"))

def score(trial):
    model = trial.candidate.build(trial.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    save_weights(trial.directory, model.state_dict())
    return sum(p.numel() for p in model.parameters())

space = ModelSpace(Net(), example_inputs=torch.zeros(2, 3))
space.apply_mutator("hidden", Width())
space.apply_mutator("act", Kind())
evaluator = Function(score)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "models_of_a_test.py").write_text(TEXT)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("models_of_a_test")


def facts(result: Result) -> list[Any]:
    return [(t.id, t.state, dict(t.decisions), t.score, t.same_as) for t in result.trials]


def test_models_with_their_weights(tmp_path: Path, module: ModuleType) -> None:
    directory = tmp_path / "search"
    result = Experiment(module.space, module.evaluator, "grid", directory=directory).run()
    assert result.ended == "exhausted"
    assert [t.same_as for t in result.trials] == [None, None, None, None, 0, 1]
    kinds = [t.decisions[next(k for k in t.decisions if "kind" in k)] for t in result.trials]
    assert kinds == ["ReLU", "Tanh"] * 3
    best = result.best
    assert best is not None
    assert best.score == 3 * 6 + 6 + 6 * 2 + 2
    model = best.load()
    initial = best.candidate.build(best.seed) if best.candidate else None
    assert initial is not None
    x = torch.randn(5, 3)
    assert model(x).shape == (5, 2)
    for name, tensor in initial.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor + 1)
    duplicate = result.trials[4]
    assert torch.equal(duplicate.load()(x), result.trials[0].load()(x))

    space = SearchSpace(module.space, {})
    assert torch.equal(open_result(directory, space).trials[best.id].load()(x), model(x))
    for path in (directory / "trials").rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(RetiariiError, match="no weights are stored"):
        best.load()


def test_models_in_worker_processes(tmp_path: Path, module: ModuleType) -> None:
    file = Path(str(module.__file__))
    loaded = load_space_file(file)
    inline = Experiment(module.space, module.evaluator, "random", 4).run()
    for source in (loaded, None):
        result = Experiment(
            loaded.space if source else module.space,
            loaded.evaluator if source else module.evaluator,
            "random",
            4,
            executor="local",
            source=source,
        ).run()
        assert facts(result) == facts(inline)
        assert result.best is not None
        assert result.best.load()(torch.zeros(1, 3)).shape == (1, 2)


def test_a_space_survives_pickling(module: ModuleType) -> None:
    space, _ = pickle.loads(memory_source(module.space, module.evaluator).pickled)
    assert space.describe() == module.space.describe()
    assert space.sample(3).canonical_hash() == module.space.sample(3).canonical_hash()
