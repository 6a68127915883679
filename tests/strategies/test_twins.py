"""Decisions that lead to one model are proposed once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import retiarii as rt
from retiarii.search_space import SearchSpace
from retiarii.strategies.evolution import Evolution
from retiarii.strategies.local import LocalSearch
from retiarii.strategies.predictor import Predictor
from retiarii.strategies.random import RandomSearch
from retiarii.strategies.reinforce import Reinforce


class Net(nn.Module):
    """27 ways of placing three layers, of which identities and their order make 15."""

    def __init__(self):
        super().__init__()
        kinds = {"tanh": nn.Tanh, "none": nn.Identity, "sigmoid": nn.Sigmoid}
        self.body = nn.Sequential(
            nn.Linear(3, 3), *(kinds[rt.choice(list(kinds), label=f"op{i}")]() for i in range(3))
        )

    def forward(self, x):
        return self.body(x)


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace(rt.ModelSpace(Net, torch.zeros(2, 3)))


def run(strategy, space, trials=50):
    strategy.begin(space, 0)
    points = []
    while len(points) < trials and (point := strategy.ask(len(points))) is not None:
        strategy.tell(len(points), float(len(point.candidate.graph.nodes)))
        points.append(point)
    return points


@pytest.mark.parametrize("kind", [Evolution, LocalSearch, Reinforce, lambda: Predictor(initial=4)])
def test_each_model_is_proposed_once(kind, space):
    strategy = kind()
    keys = [point.key() for point in run(strategy, space)]
    assert len(keys) == len(set(keys)) == 1 + 2 + 4 + 8
    assert strategy.twins == 27 - 15
    assert strategy.infeasible == 0


def test_random_search_draws_them_all(space):
    points = run(RandomSearch(), space)
    assert len(points) == 27
    assert len({point.key() for point in points}) == 15


def test_where_only_twins_are_left_one_is_proposed(space, monkeypatch):
    monkeypatch.setattr(Evolution, "TWINS", 2)
    points = run(Evolution(), space)
    assert len({point.key() for point in points}) == 15
    assert 15 < len(points) < 27


def test_hyperparameters_tell_models_apart():
    space = SearchSpace(
        rt.ModelSpace(Net, torch.zeros(2, 3)), {"width": rt.choice([1, 2], label="width")}
    )
    assert len(run(Evolution(), space, trials=99)) == 30
