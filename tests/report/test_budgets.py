"""Unequal training is never passed over."""

from __future__ import annotations

from collections.abc import Callable

from retiarii.mutators.choice import randint
from retiarii.report.budgets import is_short, longest, remarks
from retiarii.result import Result
from retiarii.training.trial import Trial

Search = Callable[..., Result]


def trains(trial: Trial) -> float:
    for step in range(1, trial.hyperparameters["epochs"] + 1):
        trial.report(step, score=float(step))
    return float(-trial.hyperparameters["epochs"])


def test_trials_of_fewer_epochs_are_marked_and_the_best_is_named_as_such(search: Search) -> None:
    result = search(trains, choices={"epochs": randint(2, 9)}, strategy="grid")
    assert longest(result) == 9
    assert [is_short(t, longest(result)) for t in result.trials] == [True] * 7 + [False]
    assert remarks(result) == [
        "unequal training: complete trials had 2 to 9 steps; scores of fewer than 9 are marked *"
    ]
    assert result.summary.endswith("(trial 0, of 2 steps where others had up to 9)")


def test_trials_that_were_stopped(search: Search) -> None:
    result = search(scheduler="median", trials=20)
    pruned = sum(t.state == "pruned" for t in result.trials)
    (line,) = remarks(result)
    assert line.startswith(f"{pruned} w")
    assert all(is_short(t, longest(result)) == (t.state == "pruned") for t in result.trials)
    assert all(is_short(t, None) == (t.state == "pruned") for t in result.trials)


def test_equal_training_is_nothing_to_say(search: Search) -> None:
    assert remarks(search()) == []
    assert remarks(search(lambda trial: 1.0)) == []
    assert "steps" not in search().summary
