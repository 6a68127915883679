"""Mistakes of a user's: each error says what, where and what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from retiarii.errors import GraphError, InfeasibleError, RetiariiError, SpaceError
from retiarii.ir.graph import Graph
from retiarii.ir.node import Node
from retiarii.mutators.choice import choice
from retiarii.mutators.layers import InputChoice, Repeat
from retiarii.mutators.mutator import Mutator
from retiarii.space import ModelSpace


def space() -> ModelSpace:
    return ModelSpace(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), torch.zeros(2, 4))


class Do(Mutator):
    def __init__(self, edit: Any) -> None:
        self.edit = edit

    def mutate(self, graph: Graph, target: Node) -> None:
        self.edit(graph, target)


def text_of(error: RetiariiError) -> str:
    assert error.where, error
    assert error.fix, error
    return str(error)


def refused(edit: Any) -> str:
    with pytest.raises(InfeasibleError) as caught:
        space().apply_mutator("0", Do(edit)).freeze({})
    return text_of(caught.value)


def test_a_predicate_that_raises() -> None:
    with pytest.raises(GraphError) as caught:
        space().apply_mutator(lambda node: node.nosuch, Do(None))
    text = text_of(caught.value)
    assert "nosuch" in text
    assert "test_space_errors.py:" in text


def test_a_predicate_that_never_matches() -> None:
    with pytest.raises(SpaceError) as caught:
        space().apply_mutator(lambda node: node.op == "Conv9d", Do(None))
    assert "no node matches" in text_of(caught.value)


def test_a_width_of_zero() -> None:
    text = refused(lambda graph, target: graph.update(target, out_features=0))
    assert "empty tensor" in text


def test_a_mutator_that_exits() -> None:
    def leave(graph: Graph, target: Node) -> None:
        raise SystemExit(3)

    assert "test_space_errors.py:" in refused(leave)


def test_a_mutator_that_says_infeasible() -> None:
    def never(graph: Graph, target: Node) -> None:
        raise InfeasibleError("never fits")

    text = refused(never)
    assert "never fits" in text
    assert "mutator Do at '0'" in text
    assert "test_space_errors.py:" in text


def test_a_mutate_of_another_signature() -> None:
    class Other(Mutator):
        def mutate(self, graph: Graph) -> None:  # type: ignore[override]
            pass

    with pytest.raises(InfeasibleError) as caught:
        space().apply_mutator("0", Other()).freeze({})
    assert "test_space_errors.py:" in text_of(caught.value)


def test_a_callable_that_raises() -> None:
    def make() -> nn.Module:
        raise ValueError("no model today")

    with pytest.raises(InfeasibleError) as caught:
        ModelSpace(make, torch.zeros(2, 4)).freeze({})
    text = text_of(caught.value)
    assert "no model today" in text
    assert "test_space_errors.py:" in text


@pytest.mark.parametrize("within", [False, True])
def test_answers_that_lead_to_no_model_are_tried_once(within: bool) -> None:
    made: list[tuple[int, int]] = []

    def make() -> nn.Module:
        width, kernel = choice([2, 3, 4], label="width"), 0
        if within and width == 3:
            made.append((width, kernel))
            raise ValueError("no model of three")
        kernel = choice([1, 3], label="kernel")
        made.append((width, kernel))
        return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width + 1, kernel))

    no_model = ModelSpace(make, torch.zeros(2, 4))
    texts = []
    for seed in (0, 0, 1):
        with pytest.raises(InfeasibleError, match="none of which was feasible") as caught:
            no_model.sample(seed)
        texts.append(text_of(caught.value))
    assert texts[0] == texts[1]
    assert "decisions {'width':" in texts[0]
    assert len(made) == len(set(made)) == (5 if within else 6)
    assert no_model.count() == 0
    assert len(made) == len(set(made))


def test_a_callable_that_returns_nothing() -> None:
    with pytest.raises(SpaceError) as caught:
        ModelSpace(lambda: None, torch.zeros(2, 4)).sample(0)  # type: ignore[arg-type, return-value]
    assert "test_space_errors.py:" in text_of(caught.value)


def test_a_choice_without_label() -> None:
    def make() -> nn.Module:
        return nn.Linear(4, choice([1, 2]))

    with pytest.raises(SpaceError) as caught:
        ModelSpace(make, torch.zeros(2, 4)).sample(0)
    assert "test_space_errors.py:" in text_of(caught.value)


@pytest.mark.parametrize("decisions", [None, "x", 3, [("a", 1)]])
def test_decisions_that_are_no_dict(decisions: Any) -> None:
    with pytest.raises(SpaceError, match="decisions are given as"):
        space().freeze(decisions)


def test_decisions_that_went_through_json() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pick = InputChoice(3, 2, label="pick")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.pick([x, x + 1, x * 2])

    candidate = ModelSpace(Net(), torch.zeros(2, 4)).freeze({"pick": [0, 2]})
    assert candidate.decisions["pick"] == (0, 2)


@pytest.mark.parametrize("depth", [3, (3, 1), "deep", [1.5]])
def test_depths(depth: Any) -> None:
    with pytest.raises(SpaceError, match="Repeat has depth"):
        Repeat(nn.Tanh(), depth)
