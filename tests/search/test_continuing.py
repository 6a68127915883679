"""Warm starts: scores that still hold are not trained again; the others are hints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from retiarii.errors import RetiariiError
from retiarii.experiment import Experiment
from retiarii.mutators.choice import choice, uniform
from retiarii.result import Result
from retiarii.runtime.progress import Progress
from retiarii.training.function import Function
from retiarii.training.trial import Trial

calls: list[int] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


def parabola(trial: Trial) -> float:
    calls.append(trial.number)
    score = -((trial.decisions["x"] - 2.0) ** 2)
    trial.report(1, score=2 * score)
    return score


def other(trial: Trial) -> float:
    calls.append(trial.number)
    return trial.decisions["x"]


def experiment(
    directory: Path | None,
    trials: int = 8,
    *,
    high: float = 5.0,
    options: Any = "abc",
    **given: Any,
) -> Experiment:
    choices = {"x": uniform(-5.0, high), "kind": choice(list(options)), **given.pop("more", {})}
    evaluator = Function(given.pop("fn", parabola), hyperparameters=choices)
    given.setdefault("strategy", "random")
    return Experiment(None, evaluator, trials=trials, directory=directory, **given)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    experiment(tmp_path / "old").run()
    calls.clear()
    return tmp_path / "old"


def shape(result: Result) -> list[Any]:
    return [(t.id, t.state, dict(t.decisions), t.score, t.carried_from) for t in result.trials]


def test_the_same_space_keeps_all_scores(old: Path, tmp_path: Path) -> None:
    before = experiment(old).run()
    result = experiment(tmp_path / "new", 4, continue_from=old).run()
    assert calls == [8, 9, 10, 11]  # nothing is trained twice
    assert [(dict(t.decisions), t.score) for t in result.trials[:8]] == [
        (dict(t.decisions), t.score) for t in before.trials
    ]
    assert [t.carried_from for t in result.trials] == [*range(8), None, None, None, None]
    assert result.earlier == old
    assert result.total == 12
    assert [t.history for t in result.trials[:8]] == [t.history for t in before.trials]
    assert all(t.seconds == 0 for t in result.trials[:8])


def test_a_changed_space_keeps_the_scores_of_what_is_still_in_it(old: Path, tmp_path: Path) -> None:
    before = experiment(old).run()
    # another order of the options: indices mean something else, values do not
    result = experiment(None, 2, high=2.5, options="cbd", continue_from=old).run()
    fits = [t for t in before.trials if t.decisions["x"] <= 2.5 and t.decisions["kind"] != "a"]
    assert 0 < len(fits) < 8
    carried = [t for t in result.trials if t.carried_from is not None]
    assert [(dict(t.decisions), t.score) for t in carried] == [
        (dict(t.decisions), t.score) for t in fits
    ]


@pytest.mark.parametrize(
    "strategy", ["random", "evolution", "local", "reinforce", "predictor", "tpe"]
)
def test_resumed_as_unbroken_also_without_the_old_directory(
    strategy: str, old: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"strategy": strategy, "continue_from": old}
    unbroken = experiment(tmp_path / "unbroken", 8, **given).run()
    experiment(tmp_path / "broken", 3, **given).run()
    shutil.move(old, tmp_path / "gone")
    resumed = experiment(tmp_path / "broken", 8, **given).run()
    assert shape(resumed) == shape(unbroken)


def test_strategies_learn_from_what_is_taken_over(old: Path) -> None:
    # the first child of evolution has a parent only if earlier results were told
    result = experiment(None, 30, strategy="evolution", continue_from=old).run()
    cold = experiment(None, 30, strategy="evolution").run()
    assert [dict(t.decisions) for t in result.trials[8:]] != [
        dict(t.decisions) for t in cold.trials
    ]


def test_another_evaluator_makes_them_hints(old: Path) -> None:
    notes: list[str] = []

    def watch(progress: Progress) -> None:
        notes.extend([progress.note] if progress.note else [])

    best = sorted(experiment(old).run().trials, key=lambda t: -(t.score or 0))[:2]
    calls.clear()
    result = experiment(None, 8, fn=other, continue_from=old, progress=watch).run()
    assert calls == list(range(8))
    assert [dict(t.decisions) for t in result.trials[:2]] == [dict(t.decisions) for t in best]
    assert all(t.carried_from is None for t in result.trials)
    assert notes == ["2 of its best are evaluated again first (the evaluator is another one)"]


def test_a_new_decision_makes_them_hints_that_are_completed(old: Path) -> None:
    result = experiment(None, 8, more={"y": uniform(0.0, 1.0)}, continue_from=old).run()
    best = max(experiment(old).run().trials, key=lambda t: t.score or 0)
    assert result.trials[0].decisions["x"] == best.decisions["x"]
    assert 0 <= result.trials[0].decisions["y"] <= 1
    assert result.trials[0].carried_from is None


def test_candidates_of_the_user_come_before_hints(old: Path) -> None:
    search = experiment(None, 8, fn=other, continue_from=old)
    search.enqueue({"x": 0.5})
    result = search.run()
    assert result.trials[0].decisions["x"] == 0.5


def test_with_a_scheduler_groups_begin_after_what_is_taken_over(old: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"continue_from": old, "scheduler": "median", "cohort": 4, "workers": 2}
    first = experiment(tmp_path / "a", 4, **given).run()
    longer = experiment(tmp_path / "a", 8, **given).run()
    assert shape(longer)[:12] == shape(first)
    assert shape(experiment(tmp_path / "b", 8, **given).run()) == shape(longer)


def test_a_scheduler_knows_the_curves_that_were_taken_over(tmp_path: Path) -> None:
    def flat(trial: Trial) -> float:
        for step in range(1, 9):
            trial.report(step, score=trial.decisions["x"])
            if trial.should_stop():
                break
        return trial.decisions["x"]

    experiment(tmp_path, fn=flat).run()
    for workers in (1, 3):
        given: dict[str, Any] = {"scheduler": "median", "workers": workers}
        search = experiment(None, 3, fn=flat, continue_from=tmp_path, **given)
        search.enqueue({"x": -5.0})
        first = search.run().trials[8]
        assert (first.state, first.decisions["x"]) == ("pruned", -5.0)


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("old", "no trial of the earlier search fits this space: trial 0: "),
        ("failing", "it has no complete trial"),
        ("new", "cannot continue from its own directory"),
        ("nowhere", "no search is stored here"),
    ],
)
def test_refused_with_a_reason_and_nothing_is_written(
    case: str, says: str, old: Path, tmp_path: Path
) -> None:
    experiment(tmp_path / "failing", 1, fn=lambda trial: float("nan")).run()
    search = experiment(tmp_path / "new", options="xyz", continue_from=tmp_path / case)
    with pytest.raises(RetiariiError, match=says):
        search.run()
    assert not (tmp_path / "new").exists()


def test_a_search_of_something_else_is_refused(old: Path, tmp_path: Path) -> None:
    evaluator = Function(lambda trial: 1.0, hyperparameters={"size": uniform(0.0, 1.0)})
    search = Experiment(
        None, evaluator, "random", trials=2, directory=tmp_path / "new", continue_from=old
    )
    with pytest.raises(RetiariiError, match="asks for none of its decisions"):
        search.run()
    assert not (tmp_path / "new" / "search.db").exists()


def test_a_search_cannot_take_it_up_later(old: Path, tmp_path: Path) -> None:
    before = experiment(tmp_path / "new", 2).run()
    with pytest.raises(RetiariiError, match="this search began without an earlier one"):
        experiment(tmp_path / "new", 4, continue_from=old).run()
    assert shape(experiment(tmp_path / "new", 2).run()) == shape(before)
