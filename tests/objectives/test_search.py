"""Searches of several objectives: what they find, keep, refuse and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import retiarii as rt
from retiarii.errors import ObjectiveError, StoreError
from retiarii.experiment import Experiment
from retiarii.mutators.choice import choice, uniform
from retiarii.objectives.pareto import dominates
from retiarii.result import Result
from retiarii.runtime.store import Store
from retiarii.strategies.optuna_strategies import NSGA2, NSGA3
from retiarii.strategies.registry import STRATEGIES
from retiarii.training.function import Function
from retiarii.training.trial import Trial

BOTH = {"gain": "max", "cost": "min"}


def two(trial: Trial) -> dict[str, float]:
    a, b = trial.decisions["a"], trial.decisions["b"]
    return {"gain": a * (4 - b), "cost": 2.0 * a + b}


def toy(fn: Any = two, trials: int = 12, strategy: Any = "grid", **options: Any) -> Result:
    choices = {"a": choice([1, 2, 3, 4], "a"), "b": choice([1, 2, 3], "b")}
    evaluator = Function(fn, metric="gain", hyperparameters=choices)
    options.setdefault("objectives", BOTH)
    return Experiment(None, evaluator, strategy, trials, **options).run()


def smooth(trial: Trial) -> dict[str, float]:
    """Schaffer's first problem in two parameters: the front is x in 0 .. 2, y = 0.5."""
    x, y = trial.hyperparameters["x"], trial.hyperparameters["y"]
    off = 10 * (y - 0.5) ** 2
    return {"one": x**2 + off, "other": (x - 2) ** 2 + off}


def schaffer(strategy: Any, trials: int, **options: Any) -> Result:
    choices = {"x": uniform(-4.0, 4.0, "x"), "y": uniform(0.0, 1.0, "y")}
    evaluator = Function(smooth, metric="one", maximize=False, hyperparameters=choices)
    wanted = {"one": "min", "other": "min"}
    return Experiment(None, evaluator, strategy, trials, objectives=wanted, **options).run()


def shape(result: Result) -> list[Any]:
    return [(t.id, t.state, dict(t.decisions), dict(t.metrics)) for t in result.trials]


# -- what is found


def test_the_front_is_what_nothing_beats() -> None:
    result = toy()
    points = {t.id: (t.metrics["gain"], -t.metrics["cost"]) for t in result.trials}
    plain = {n for n, p in points.items() if not any(dominates(q, p) for q in points.values())}
    assert {t.id for t in result.pareto} == plain
    gains = [t.metrics["gain"] for t in result.pareto]
    assert gains == sorted(gains, reverse=True)
    assert result.best is not None
    assert result.best.metrics["gain"] == max(gains)
    assert f"{len(plain)} on the Pareto front" in result.summary
    volumes = [volume for _, volume in result.hypervolume]
    assert [n for n, _ in result.hypervolume] == list(range(12))
    assert volumes == sorted(volumes)
    assert result.to_json()["objectives"] == BOTH
    assert result.to_json()["pareto"] == [t.id for t in result.pareto]


def test_with_one_score_nothing_changes(tmp_path: Path) -> None:
    result = toy(objectives=None, directory=tmp_path)
    assert result.pareto == (result.best,)
    assert result.hypervolume[-1][1] == pytest.approx(1.0)
    assert "objectives" not in result.to_json()
    store = Store.read(tmp_path)
    identity = store.meta("identity")
    assert not {"objectives", "constraints", "latency_measured_on"} & set(identity)
    assert set(identity["strategy"]) == {"name", "patience"}
    assert store.meta("objectives", "none") == "none"
    assert store.measurements() == {}
    store.close()


def test_a_trial_that_is_the_same_as_another_is_not_on_the_front_twice() -> None:
    def space_of(_: Any = None) -> rt.ModelSpace:
        return rt.ModelSpace(
            lambda: nn.Linear(4, rt.choice([2, 2, 2], label="w")), torch.zeros(2, 4)
        )

    result = Experiment(
        space_of(), Function(lambda t: 1.0), "grid", 3, objectives={"score": "max", "params": "min"}
    ).run()
    assert len(result.trials) == 3
    assert [t.id for t in result.pareto] == [0]


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"grid", "pbt"}))
def test_every_strategy_searches_several_objectives_and_resumes(
    strategy: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"seed": 3, "cohort": 4}
    trials = 16 if strategy == "gp" else 40  # which takes tens of milliseconds a proposal
    whole = schaffer(strategy, trials, **options)
    assert len(whole.trials) == trials
    assert len(whole.pareto) > 1
    schaffer(strategy, trials // 2, directory=tmp_path, **options)
    assert shape(schaffer(strategy, trials, directory=tmp_path, **options)) == shape(whole)


@pytest.mark.parametrize("strategy", ["evolution", "local", "predictor", "tpe", "nsga2", "nsga3"])
def test_they_get_nearer_to_the_front_than_random_search(strategy: str) -> None:
    """Points off the front by chance are rare: what is known of it is used."""
    small = {"nsga2": NSGA2(population=10), "nsga3": NSGA3(population=10)}

    def off(name: Any) -> float:
        found = [schaffer(name, 80, seed=seed).trials[40:] for seed in range(3)]
        gaps = [
            max(-t.decisions["x"], t.decisions["x"] - 2, 0) + abs(t.decisions["y"] - 0.5)
            for trials in found
            for t in trials
        ]
        return sum(gaps) / len(gaps)

    assert off(small.get(strategy, strategy)) < 0.75 * off("random")


def test_the_values_are_told_as_they_are_to_those_that_take_several() -> None:
    from retiarii.strategies.random import RandomSearch

    told: list[Any] = []

    class Several(RandomSearch):
        several = True

        def tell_all(self, number: int, values: Any) -> None:
            told.append((number, values))

    def fails(trial: Trial) -> Any:
        if trial.number == 1:
            raise ValueError
        return two(trial)

    strategy = Several()
    result = toy(fails, 3, strategy, retries=0)
    assert strategy.objectives == 2
    values = [(t.metrics["gain"], -t.metrics["cost"]) if t.metrics else None for t in result.trials]
    assert told == list(enumerate(values))
    assert values[1] is None


def test_one_score_is_told_anew_before_each_proposal() -> None:
    from retiarii.objectives.standing import Standing
    from retiarii.strategies.random import RandomSearch

    heard: list[Any] = []

    class Hears(RandomSearch):
        def ask(self, number: int) -> Any:
            heard.append(number)
            return super().ask(number)

        def tell(self, number: int, score: float | None) -> None:
            heard.append((number, score))

        def rescore(self, scores: Any) -> None:
            heard.append(dict(scores))

    result = toy(two, 4, Hears(), cohort=2)
    values = [(t.metrics["gain"], -t.metrics["cost"]) for t in result.trials]
    standing, after = Standing(), []
    for number, value in enumerate(values):
        standing.add(number, value)
        after.append(standing.scores())
    told = [(number, after[number][number]) for number in range(4)]
    assert heard == [0, 1, *told[:2], after[1], 2, 3, *told[2:]]


# -- identity


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"objectives": {"cost": "min", "gain": "max"}}, "objectives: was"),
        ({"objectives": {"gain": "max"}}, "objectives: was"),
        ({"objectives": None}, "objectives: gone"),
    ],
)
def test_other_objectives_are_another_search(
    changed: dict[str, Any], shown: str, tmp_path: Path
) -> None:
    toy(trials=3, directory=tmp_path)
    before = (tmp_path / "search.db").read_bytes()
    with pytest.raises(StoreError, match=shown):
        toy(trials=3, directory=tmp_path, **changed)
    assert (tmp_path / "search.db").read_bytes() == before


# -- mistakes


def test_an_objective_that_no_function_reports_is_found_with_the_first_trial(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        ObjectiveError, match="'cots' is not reported: the first trial has gain, cost"
    ):
        toy(objectives={"gain": "max", "cots": "min"}, directory=tmp_path)
    assert not (tmp_path / "search.db").exists()
    assert len(toy(directory=tmp_path).trials) == 12


def test_what_is_measured_on_models_needs_some(tmp_path: Path) -> None:
    with pytest.raises(ObjectiveError, match="'params' is measured on models") as caught:
        toy(objectives={"gain": "max", "params": "min"}, directory=tmp_path)
    assert "leave it out" in str(caught.value)
    assert not (tmp_path / "search.db").exists()


def test_a_trial_without_an_objective_that_others_report_has_failed() -> None:
    def sometimes(trial: Trial) -> dict[str, float]:
        found = two(trial)
        if trial.number == 2:
            del found["cost"]
        if trial.number == 3:
            found["cost"] = float("nan")
        return found

    result = toy(sometimes, 5, retries=0)
    assert [t.state for t in result.trials] == [
        "complete",
        "complete",
        "failed",
        "failed",
        "complete",
    ]
    assert "did not report the objective 'cost'" in str(result.trials[2].error)
    assert "cost is nan" in str(result.trials[3].error)


def test_without_models_nothing_can_be_measured() -> None:
    with pytest.raises(ObjectiveError, match="no models"):
        toy(constraints=["params < 3"])
    result = toy(lambda t: {"gain": 1.0, "latency": 2.0}, 2, objectives="gain=max,latency=min")
    assert result.trials[0].metrics["latency"] == 2.0
