"""The best few are trained again from other seeds before one of them is called the best."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from retiarii.experiment import Experiment
from retiarii.mutators.choice import choice
from retiarii.result import Result, open_result
from retiarii.search.confirmed import TOP, Confirmed, winner
from retiarii.training.evaluator import Evaluator
from retiarii.training.function import Function
from retiarii.training.trial import Trial

calls: list[tuple[int, int]] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


def noisy(trial: Trial) -> float:
    calls.append((trial.decisions["n"], trial.seed))
    return trial.decisions["n"] + Random(trial.seed).gauss(0.0, 5.0)


def experiment(
    directory: Path | None, trials: int = 20, fn: Any = noisy, **options: Any
) -> Experiment:
    maximize = options.pop("maximize", True)
    evaluator = Function(fn, hyperparameters={"n": choice(list(range(40)))}, maximize=maximize)
    options.setdefault("strategy", "random")
    return Experiment(None, evaluator, trials=trials, directory=directory, **options)


def confirmations(result: Result) -> dict[int, Any]:
    return {t.id: t.confirmed for t in result.trials if t.confirmed is not None}


def test_the_best_has_the_best_mean_and_not_the_best_score(tmp_path: Path) -> None:
    result = experiment(tmp_path, confirm=3).run()
    assert len(calls) == 20 + 3 * TOP
    leading = sorted(result.trials, key=lambda t: -(t.score or 0.0))
    found = confirmations(result)
    assert set(found) == {t.id for t in leading[:TOP]}
    means = {n: statistics.fmean(each.scores) for n, each in found.items()}
    assert result.best is not None
    assert result.best.id == max(means, key=lambda n: means[n])
    assert result.best.id != leading[0].id  # with this much noise
    assert result.is_confirmed
    again = found[result.best.id]
    assert again.mean == means[result.best.id]
    assert again.deviation == statistics.stdev(again.scores)
    assert f"{again} over 3 seeds" in result.summary


def test_seeds_are_new_and_differ() -> None:
    result = experiment(None, confirm=3).run()
    seeds = [seed for _, seed in calls]
    assert len(set(seeds)) == len(seeds)
    for number, each in confirmations(result).items():
        assert result.trials[number].score not in each.scores


def test_minimizing() -> None:
    result = experiment(None, confirm=2, maximize=False).run()
    found = confirmations(result)
    assert result.best is not None
    assert found[result.best.id].mean == min(each.mean for each in found.values())


def test_kept_and_not_trained_again(tmp_path: Path) -> None:
    first = experiment(tmp_path, confirm=3).run()
    calls.clear()
    again = experiment(tmp_path, confirm=3).run()
    assert calls == []
    read = open_result(tmp_path)
    assert confirmations(first) == confirmations(again) == confirmations(read)
    assert read.best == first.best
    assert read.to_json()["confirmed"] is True
    assert read.to_json()["best"]["confirmed"]["mean"] == first.best.confirmed.mean  # type: ignore[union-attr]


def test_interrupted_and_resumed_as_unbroken(tmp_path: Path) -> None:
    unbroken = experiment(tmp_path / "unbroken", confirm=3).run()
    calls.clear()

    def stops(trial: Trial) -> float:
        if len(calls) == 27:
            calls.append((0, 0))
            raise KeyboardInterrupt
        return noisy(trial)

    stops.__qualname__ = "noisy"
    broken = experiment(tmp_path / "broken", fn=stops, confirm=3).run()
    assert broken.ended == "interrupted"
    assert not broken.is_confirmed
    resumed = experiment(tmp_path / "broken", fn=stops, confirm=3).run()
    assert confirmations(resumed) == confirmations(unbroken)
    assert resumed.ended == "trials"
    assert len(calls) == 20 + 3 * TOP + 1


def test_more_trials_and_more_seeds_add_what_is_missing(tmp_path: Path) -> None:
    experiment(tmp_path, 10, confirm=2).run()
    longer = experiment(tmp_path, 30).run()
    new = sorted(longer.trials, key=lambda t: -(t.score or 0.0))[:TOP]
    assert any(t.confirmed is None for t in new)
    assert not longer.is_confirmed
    assert longer.best == new[0]
    calls.clear()
    confirmed = experiment(tmp_path, 30, confirm=2).run()
    assert len(calls) == 2 * sum(t.confirmed is None for t in new)
    assert confirmed.is_confirmed
    calls.clear()
    wider = experiment(tmp_path, 30, confirm=4).run()
    assert len(calls) == 2 * TOP
    for number in (t.id for t in new):
        assert (
            wider.trials[number].confirmed.scores[:2] == confirmed.trials[number].confirmed.scores
        )  # type: ignore[union-attr]


def test_seeds_do_not_depend_on_what_was_confirmed_before(tmp_path: Path) -> None:
    experiment(tmp_path, 10, confirm=2).run()
    grown = experiment(tmp_path, 20, confirm=3).run()
    at_once = experiment(None, 20, confirm=3).run()
    assert at_once.best is not None
    assert grown.best is not None
    assert at_once.best.id == grown.best.id
    for number, each in confirmations(at_once).items():
        assert confirmations(grown)[number] == each


def test_a_model_that_fails_from_some_seed_does_not_win(tmp_path: Path) -> None:
    searched: dict[int, int] = {}

    def fragile(trial: Trial) -> float:
        n = trial.decisions["n"]
        if n == best and trial.seed != searched.setdefault(n, trial.seed):
            raise ValueError("diverged")
        return float(n)

    best = max(t.decisions["n"] for t in experiment(None).run().trials)
    result = experiment(tmp_path, fn=fragile, confirm=2, retries=0).run()
    top = next(t for t in result.trials if t.decisions["n"] == best)
    assert top.confirmed is not None
    assert (top.confirmed.scores, top.confirmed.failed) == ((), 2)
    assert str(top.confirmed) == "2 of 2 trainings failed"
    assert result.best is not None
    assert result.best.decisions["n"] < best
    assert result.is_confirmed


class Cohorts(Evaluator):
    """Notes who is trained together, and in what order the data would be."""

    metric = "score"
    maximize = True
    merges = True

    def __init__(self) -> None:
        self.seen: list[list[tuple[int, int]]] = []

    def hyperparameters(self) -> Any:
        return {"n": choice(list(range(40)), "n")}

    def describe(self) -> dict[str, Any]:
        return {"kind": "cohorts"}

    def run(self, cohort: Sequence[Trial]) -> None:
        self.seen.append([(t.decisions["n"], t.search_seed) for t in cohort])
        for trial in cohort:
            trial.start()
            trial.finish(float(trial.decisions["n"]))


def test_all_are_trained_in_one_cohort_on_the_same_batches() -> None:
    evaluator = Cohorts()
    Experiment(None, evaluator, "random", trials=16, confirm=3).run()
    search, again = evaluator.seen
    assert len(search) == 16
    assert len(again) == 3 * TOP
    assert all(again[3 * k : 3 * k + 3] == [again[3 * k]] * 3 for k in range(TOP))
    assert len({seed for _, seed in again}) == 1
    assert search[0][1] != again[0][1]


def test_equal_models_are_confirmed_once() -> None:
    # two labels, one model: the second takes over the first one's score
    result = experiment(None, 40, fn=lambda t: float(t.decisions["n"]), confirm=2).run()
    assert len(confirmations(result)) == TOP


def test_a_winner_needs_all_of_the_leading() -> None:
    done = Confirmed((1.0, 2.0), 0, 2)
    assert winner({0: done, 1: Confirmed((3.0,), 0, 2)}, [0, 1], True) is None
    assert winner({0: done, 1: Confirmed((3.0,), 1, 2)}, [0, 1], True) == 0
    assert winner({0: done, 1: Confirmed((3.0, 3.0), 0, 2)}, [0, 1], True) == 1
    assert winner({}, [], True) is None


def test_without_any_complete_trial_there_is_nothing_to_confirm() -> None:
    result = experiment(None, 2, fn=lambda t: float("nan"), confirm=2).run()
    assert result.best is None
    assert result.confirmed == {}
