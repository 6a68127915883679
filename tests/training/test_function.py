from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from retiarii.errors import EvaluatorError
from retiarii.mutators.choice import choice, loguniform
from retiarii.training.events import Finished, Reported, Started
from retiarii.training.function import Function


def run(toys, fn, log=None, chosen=None, **options):
    trial, log = toys.trial(log=log, **(chosen or {}))
    Function(fn, **options).run([trial])
    return log


@pytest.mark.parametrize("answer", [2, 2.0, np.float64(2), np.int64(2), torch.tensor(2.0)])
def test_a_number_is_the_score(toys, answer):
    log = run(toys, lambda trial: answer)
    assert log.events == [Started(0), Finished(0, 2.0, {"score": 2.0})]


def test_a_dict_names_the_score(toys):
    log = run(toys, lambda trial: {"acc": 0.5, "size": 3}, metric="acc", maximize=False)
    assert log.finished == Finished(0, 0.5, {"acc": 0.5, "size": 3.0})


def test_a_dict_without_the_score_says_what_to_do(toys):
    message = run(toys, lambda trial: {"accuracy": 0.5}, metric="acuracy").failed.message
    assert "without 'acuracy'" in message
    assert "nearest: 'accuracy'" in message
    assert "metric='accuracy'" in message


@pytest.mark.parametrize("answer", [None, "0.5", [1], torch.ones(3), {"score": None}, {}])
def test_other_answers_fail_the_trial(toys, answer):
    assert run(toys, lambda trial: answer).failed.message


def test_the_candidate_is_built_only_when_asked(toys):
    trial, log = toys.trial()
    Function(lambda t: 1).run([trial])
    assert trial.candidate.built == 0
    trial, log = toys.trial()
    Function(lambda t: sum(p.numel() for p in t.candidate.build(t.seed).parameters())).run([trial])
    assert log.finished.score == 99


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"metric": 3}, "metric is 3"),
        ({"hyperparameters": ["x"]}, "hyperparameters is a list"),
    ],
)
def test_arguments_of_the_wrong_type(options, cause):
    with pytest.raises(EvaluatorError, match=cause) as caught:
        Function(lambda trial: 1, **options)
    assert caught.value.where == f"Function({next(iter(options))}=...)"
    assert caught.value.fix


def test_one_failure_leaves_the_others(toys):
    def score(trial):
        if trial.number == 1:
            raise RuntimeError("no luck")
        return trial.number

    pairs = [toys.trial(number=n) for n in range(3)]
    Function(score).run([trial for trial, _ in pairs])
    assert [pairs[0][1].finished.score, pairs[2][1].finished.score] == [0.0, 2.0]
    cause, place = pairs[1][1].failed.message.splitlines()
    assert cause == "RuntimeError: no luck"
    assert place.startswith(f"  at: {__file__}:")
    assert "in score" in pairs[1][1].failed.traceback


def test_reports_and_stops(toys):
    def score(trial):
        for step in range(10):
            trial.report(step, loss=1 / (step + 1))
            if trial.should_stop():
                return step
        return 10

    log = run(toys, score, log=toys.Log(stop_at=3))
    assert log.reports[-1] == Reported(0, 3, {"loss": 0.25})
    assert log.finished == Finished(0, 3.0, {"score": 3.0}, stopped=True)


def test_hyperparameters_are_found_by_name_and_constants_too(toys):
    evaluator = Function(
        lambda t: t.hyperparameters["lr"] * t.hyperparameters["size"] * t.hyperparameters["two"],
        hyperparameters={
            "lr": loguniform(1e-3, 1),
            "size": choice([2, 4], label="width"),
            "two": 2,
        },
    )
    assert list(evaluator.hyperparameters()) == ["lr", "width"]
    trial, log = toys.trial(lr=0.5, width=4)
    evaluator.run([trial])
    assert log.finished.score == 4.0


def test_two_choices_with_one_label_are_refused():
    with pytest.raises(EvaluatorError, match="label 'a' names two different choices"):
        Function(lambda t: 0, hyperparameters={"a": choice([1, 2]), "b": choice([1, 3], label="a")})


def test_something_that_cannot_be_called_is_refused():
    with pytest.raises(EvaluatorError, match="cannot be called"):
        Function(0.5)


def test_describe_tells_functions_apart_but_not_their_layout():
    def make(value):
        def score(trial):
            return value

        return score

    def other(trial):
        return 1

    described = Function(make(1)).describe()
    assert described == Function(make(1)).describe()
    assert described != Function(other).describe()
    bound = functools.partial(other, extra=3)
    assert Function(bound).describe()["function"]["keywords"] == {"extra": 3}
