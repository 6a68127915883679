"""Searches side by side: regret, time to a score, and what must not be compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from retiarii.mutators.choice import uniform
from retiarii.report.compare_page import compare_page
from retiarii.report.comparing import compare
from retiarii.result import Result
from retiarii.training.trial import Trial

Search = Callable[..., Result]


def plain(trial: Trial) -> float:
    return trial.hyperparameters["x"]


@pytest.fixture
def two(search: Search, tmp_path: Path) -> tuple[Result, Result]:
    return (
        search(plain, directory=tmp_path / "a" / "run", trials=8),
        search(plain, directory=tmp_path / "b" / "run", trials=16, seed=1),
    )


def test_regret_is_the_distance_from_the_best_of_all(two: tuple[Result, Result]) -> None:
    comparison = compare(two)
    assert comparison.unlike == ()
    assert comparison.spaces == ()
    assert [s.name for s in comparison.searches] == ["a/run", "b/run"]
    scores = [[t.score or 0.0 for t in result.trials] for result in two]
    assert comparison.best == max(map(max, scores))
    assert comparison.counts() == [1, 2, 4, 8, 16]
    for search, own in zip(comparison.searches, scores, strict=True):
        for count in comparison.counts():
            assert search.best(trials=count) == max(own[:count])
            regret = comparison.regret(search.best(trials=count))
            assert regret == pytest.approx(comparison.best - max(own[:count]))


def test_the_target_is_what_all_have_reached(two: tuple[Result, Result]) -> None:
    comparison = compare(two)
    scores = [[t.score or 0.0 for t in result.trials] for result in two]
    assert comparison.target == min(map(max, scores))
    for search, own in zip(comparison.searches, scores, strict=True):
        found = search.reached(comparison.target, True)
        assert found is not None
        assert found.trials == 1 + next(n for n, s in enumerate(own) if s >= comparison.target)


def test_minimizing(search: Search) -> None:
    results = [search(plain, maximize=False, seed=seed) for seed in (0, 1)]
    comparison = compare(results)
    scores = [[t.score or 0.0 for t in result.trials] for result in results]
    assert comparison.best == min(map(min, scores))
    assert comparison.target == max(map(min, scores))


@pytest.mark.parametrize("case", ["function", "direction", "steps"])
def test_unequal_scores_are_not_compared(case: str, search: Search) -> None:
    def longer(trial: Trial) -> float:
        for step in range(STEPS[0]):
            trial.report(step, score=0.0)
        return trial.hyperparameters["x"]

    STEPS = [2]
    first = search(plain if case != "steps" else longer)
    STEPS[0] = 3
    second = {
        "function": lambda: search(lambda trial: 2.0),
        "direction": lambda: search(plain, maximize=False),
        "steps": lambda: search(longer),
    }[case]()
    comparison = compare([first, second])
    says = {
        "function": "evaluator.function",
        "direction": "direction is minimised, not maximised",
        "steps": "steps of training is 2, not 1",
    }[case]
    assert any(says in line for line in comparison.unlike)
    assert (comparison.best, comparison.target) == (None, None)
    shown = comparison.to_json()
    assert shown["comparable"] is False
    assert all(each["regret"][0][1] is None for each in shown["searches"])
    page = compare_page(comparison)
    assert "scores cannot be compared" in page
    assert "<svg" not in page


def test_other_ranges_are_told_and_compared(search: Search) -> None:
    first = search(plain, choices={"x": uniform(0.0, 1.0)})
    second = search(plain, choices={"x": uniform(0.0, 2.0)})
    comparison = compare([first, second])
    assert comparison.unlike == ()
    assert any("uniform(0.0, 2.0)" in line for line in comparison.spaces)
    assert comparison.best is not None


def test_a_search_without_a_complete_trial(search: Search, tmp_path: Path) -> None:
    def nothing(trial: Trial) -> float:
        raise ValueError

    nothing.__qualname__ = "plain"
    first = search(plain)
    second = search(nothing, trials=2)
    comparison = compare([first, second])
    assert comparison.target is None
    assert comparison.searches[1].found == ()
    compare_page(comparison)


def test_the_page_has_both_plots(two: tuple[Result, Result]) -> None:
    page = compare_page(compare(two))
    plots = re.findall("<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 2
    for plot in plots:
        lines = [e for e in ElementTree.fromstring(plot).iter() if e.get("class") == "many"]
        assert len(lines) == 2
