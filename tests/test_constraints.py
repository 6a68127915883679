"""Constraints on spaces: which candidates are left out, counted how, and said how."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import retiarii as rt
from retiarii.constraints import Constraint, UnmetError
from retiarii.errors import InfeasibleError, SpaceError
from retiarii.search_space import SearchSpace
from retiarii.space import Candidate, ModelSpace

WIDTHS = [8, 16, 32, 64]
LIMIT = 500


class Widen(rt.Mutator):
    def mutate(self, graph: rt.Graph, target: rt.Node) -> None:
        graph.update(target, out_features=self.choice(WIDTHS, label="width"))


class Callable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers, features = [], 8
        for i in range(rt.choice([1, 2, 3], label="depth")):
            width = rt.choice(WIDTHS, label=f"width{i}")
            layers.append(nn.Linear(features, width))
            features = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def mutated() -> ModelSpace:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    return ModelSpace(model, torch.zeros(2, 8)).apply_mutator(["0", "2"], Widen())


def made() -> ModelSpace:
    return ModelSpace(Callable, torch.zeros(2, 8))


def parameters(a: int, b: int) -> int:
    return 8 * a + a + a * b + b + b * 2 + 2


def test_cost_of_a_candidate_is_that_of_its_model() -> None:
    for candidate in mutated().enumerate():
        model = candidate.build(0)
        assert candidate.cost().params == sum(p.numel() for p in model.parameters())
    assert candidate.cost(batch=4).flops == 2 * candidate.cost().flops


def test_count_and_enumerate_leave_out_what_is_not_met() -> None:
    space = mutated().require(lambda c: c.cost().params < LIMIT)
    met = [(a, b) for a in WIDTHS for b in WIDTHS if parameters(a, b) < LIMIT]
    assert 0 < len(met) < 16
    assert space.count() == len(met)
    chosen = [tuple(c.decisions.values()) for c in space.enumerate()]
    assert chosen == met


@pytest.mark.parametrize("space", [mutated, made])
def test_sample_gives_only_what_meets_it(space: Any) -> None:
    limited = space().require(lambda c: c.cost().params < LIMIT)
    for seed in range(20):
        assert limited.sample(seed).cost().params < LIMIT


def test_a_conditional_space_is_counted_exactly() -> None:
    space = made().require(lambda c: c.decisions.get("width1", 0) <= 16)
    assert space.count() == 4 + 4 * 2 + 4 * 2 * 4
    assert space.count() == len(list(space.enumerate()))


def test_several_constraints_all_hold() -> None:
    space = mutated()
    assert space.require(lambda c: c.decisions["Widen/0/width"] > 8) is space
    space.require(lambda c: c.decisions["Widen/2/width"] > 8)
    assert space.count() == 9
    assert [c.name for c in space.constraints] == [
        "c.decisions['Widen/0/width'] > 8",
        "c.decisions['Widen/2/width'] > 8",
    ]


def test_no_weight_exists_when_they_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Candidate] = []

    def test(candidate: Candidate) -> bool:
        asked.append(candidate)
        return candidate.cost().params < LIMIT

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was built")

    space = made().require(test)
    monkeypatch.setattr("retiarii.space.to_module", never)
    assert space.count() == len(list(space.enumerate())) < len(asked)


def test_freeze_raises_and_names_it() -> None:
    space = mutated().require(lambda c: c.cost().params < LIMIT)
    with pytest.raises(UnmetError) as caught:
        space.freeze({"Widen/0/width": 64, "Widen/2/width": 64})
    text = str(caught.value)
    assert "c.cost().params < LIMIT" in text
    assert "test_constraints.py:" in text
    assert "Widen/0/width: 64" in text
    assert space.freeze({"Widen/0/width": 8, "Widen/2/width": 8}).cost().params < LIMIT


def test_when_nothing_meets_it_the_error_says_which_and_after_how_many() -> None:
    space = mutated()
    space.require(lambda c: c.decisions["Widen/0/width"] > 8)
    space.require(lambda c: c.cost().params < 0, name="fewer than no parameters")
    with pytest.raises(InfeasibleError) as caught:
        space.sample(3)
    error = caught.value
    assert "none of 1000 samples was feasible" in error.cause
    unmet = [int(word) for word in error.cause.replace(":", " ").split() if word.isdigit()]
    assert sum(unmet[1:]) == unmet[0] == 1000
    most = "did not meet `fewer than no parameters`"
    assert most in error.cause
    assert error.cause.index(most) < error.cause.index("c.decisions['Widen/0/width'] > 8")
    assert "test_constraints.py:" in str(error.where)
    assert space.count() == 0
    assert list(space.enumerate()) == []


def test_samples_that_lead_nowhere_are_counted_apart() -> None:
    class Never(rt.Mutator):
        def mutate(self, graph: rt.Graph, target: rt.Node) -> None:
            if self.choice([True, False], label="go"):
                raise InfeasibleError("a dead end", fix="turn back")

    space = mutated().apply_mutator("4", Never())
    space.require(lambda c: False, name="nothing will do")
    with pytest.raises(InfeasibleError, match=r"\d+ did not meet `nothing will do`") as caught:
        space.sample()
    assert "led to no model" in caught.value.cause
    with pytest.raises(InfeasibleError, match=r"a dead end .the last of 1000 samples"):
        mutated().apply_mutator("4", Dead()).sample()


class Dead(rt.Mutator):
    def mutate(self, graph: rt.Graph, target: rt.Node) -> None:
        raise InfeasibleError("a dead end", fix="turn back")


def test_strategies_see_infeasible_points_with_their_decisions() -> None:
    space = SearchSpace(mutated().require(lambda c: c.cost().params < LIMIT))
    with pytest.raises(UnmetError) as caught:
        space.replay(lambda label, domain: 3)
    assert [d.value for d in caught.value.decisions] == [64, 64]
    assert space.count() == mutated().require(lambda c: c.cost().params < LIMIT).count()


@pytest.mark.parametrize("strategy", ["random", "grid", "evolution"])
def test_a_search_trains_only_what_meets_it(strategy: str, tmp_path: Any) -> None:
    trained: list[int] = []

    def score(trial: Any) -> float:
        trained.append(trial.candidate.cost().params)
        return float(trained[-1])

    space = mutated().require(lambda c: c.cost().params < LIMIT)
    evaluator = rt.Function(score)
    found = rt.Experiment(
        space, evaluator, strategy=strategy, trials=40, directory=tmp_path / "search"
    ).run()
    assert len(trained) == space.count()
    assert max(trained) < LIMIT
    complete = [trial for trial in found.trials if trial.state == "complete"]
    assert len(complete) == len(trained)


def test_a_constraint_that_raises_is_a_mistake_and_not_infeasible() -> None:
    space = made().require(lambda c: c.decisions["width2"] > 8)
    with pytest.raises(SpaceError, match="raised KeyError") as caught:
        space.count()
    assert not isinstance(caught.value, InfeasibleError)
    assert "c.decisions.get(label)" in str(caught.value)


def test_a_constraint_that_returns_nothing_is_a_mistake() -> None:
    def forgot(candidate: Candidate) -> None:
        candidate.cost()

    with pytest.raises(SpaceError, match="`forgot` returned nothing"):
        mutated().require(forgot).sample()


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(SpaceError, match="cannot be called"):
        mutated().require(1e6)  # type: ignore[arg-type]


# --- the identity of a search ----------------------------------------------------------------


def described(test: Any) -> Any:
    return mutated().require(test).describe()["constraints"]


def test_a_space_without_constraints_is_described_as_before() -> None:
    assert "constraints" not in mutated().describe()


def test_what_it_says_is_its_identity_and_not_where_it_stands() -> None:
    first = described(lambda c: c.cost().params < 100)
    same = described(
        lambda c: (
            c.cost().params < 100  # far away
        )
    )
    assert first == same
    assert first != described(lambda c: c.cost().params < 101)
    assert first != described(lambda c: c.cost().flops < 100)


def test_two_on_one_line_are_told_apart() -> None:
    one, two = Constraint.of(lambda c: True, None), Constraint.of(lambda c: c.graph, None)
    assert (one.name, two.name) == ("True", "c.graph")


def test_values_from_outside_are_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def below(limit: int) -> Any:
        return described(lambda c: c.cost().params < limit)

    assert below(5) == below(5) != below(6)

    def least(c: Candidate, limit: int = 3) -> bool:
        return c.cost().params > limit

    before = described(least)
    least.__defaults__ = (4,)
    assert described(least) != before
    with_global = described(lambda c: c.cost().params < LIMIT)
    monkeypatch.setitem(globals(), "LIMIT", 501)
    assert described(lambda c: c.cost().params < LIMIT) != with_global


def test_functions_without_source_and_objects_have_one_too() -> None:
    def written(text: str) -> Any:
        return eval(text, {})  # as in a shell: no file has it

    assert described(written("lambda c: c.cost().params < 9")) == described(
        written("lambda c: c.cost().params < 9")
    )
    assert described(written("lambda c: c.cost().params < 9")) != described(
        written("lambda c: c.cost().params < 8")
    )

    class Below:
        def __init__(self, limit: int) -> None:
            self.limit = limit

        def __call__(self, candidate: Candidate) -> bool:
            return candidate.cost().params < self.limit

    assert described(Below(9)) == described(Below(9)) != described(Below(8))
    assert mutated().require(Below(LIMIT)).count() > 0
    assert "0x" not in str(described(Below(9)))
