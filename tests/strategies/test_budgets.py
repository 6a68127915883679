"""Trials that were stopped early are compared with others at the same budget."""

from __future__ import annotations

import pytest

from retiarii.mutators.choice import Categorical
from retiarii.strategies.base import Training
from retiarii.strategies.budgets import Budgets
from retiarii.strategies.tried import Step
from retiarii.testing.strategies import Session, wide


def steps(*raws: int) -> tuple[Step, ...]:
    return tuple(Step(f"op{at}", Categorical(4), raw) for at, raw in enumerate(raws))


def told(budgets: Budgets, number: int, last: int, score: float | None = 0.5) -> bool:
    for step in range(1, last + 1):
        budgets.note(number, step, 10.0 * number + step)
    return budgets.tell(number, steps(number % 4, 0), score)


def test_the_largest_budget_with_enough_observations_counts():
    """Two decisions: five observations are enough."""
    budgets = Budgets()
    assert told(budgets, 0, 9)
    assert budgets.level == 9  # the only one so far
    assert told(budgets, 1, 1)
    assert budgets.level == 1
    for number in range(2, 5):
        assert not told(budgets, number, 3)
    assert told(budgets, 5, 3)  # the fifth that got to 3; one of them got to 9
    assert budgets.level == 3
    assert budgets.value(0) == 3.0
    assert budgets.value(1) is None
    assert [value for _, value in budgets.results()][:3] == [3.0, 23.0, 33.0]


def test_failures_and_infeasible_points_count_at_every_budget():
    budgets = Budgets()
    told(budgets, 0, 3)
    told(budgets, 1, 0, None)
    budgets.infeasible(steps(3, 3))
    assert budgets.failed(1)
    assert list(budgets.results()) == [(steps(3, 3), None), (steps(0, 0), 3.0), (steps(1, 0), None)]


def test_without_reports_scores_are_taken_as_they_are():
    budgets = Budgets()
    assert not budgets.tell(0, steps(1), 0.25)
    assert budgets.value(0) == 0.25
    told(budgets, 1, 3)
    assert budgets.value(0) is None  # of what training, nobody knows


def test_the_same_step_again_changes_nothing():
    budgets = Budgets()
    told(budgets, 0, 3)
    again = Budgets()
    for step in (1, 2, 1, 2, 3):
        again.note(0, step, float(step))
    again.tell(0, steps(0, 0), 0.5)
    assert list(again.results()) == list(budgets.results())


def _long_ones_score_more(scheduled: bool, seed: int, window: int = 1) -> list[int]:
    """Every third trial trains nine times as long, which is worth more than any decision."""
    tpe = pytest.importorskip("retiarii.strategies.optuna_strategies").TPE()
    tpe.prepare(Training(1, 1, 9, None, "bohb" if scheduled else None))

    def good(number, raws):
        last = 9 if number % 3 == 0 else 1
        quality = sum(raw == 0 for _, raw in raws)
        for step in range(1, last + 1):
            tpe.report(number, step, quality + 20.0 * step)
        return quality + 20.0 * last

    session = Session(tpe, wide, score=good, seed=seed, window=window)
    return [sum(raw == 0 for _, raw in raws) for raws in session.run(200)]


def test_tpe_learns_from_equal_budgets():
    pytest.importorskip("optuna")
    late = {
        scheduled: sum(sum(_long_ones_score_more(scheduled, seed)[150:]) for seed in range(3)) / 150
        for scheduled in (False, True)
    }
    # Of twelve decisions three are right at random.
    assert late[True] > late[False] + 0.7
    assert late[True] > 6.0


def test_a_scheduled_search_is_the_same_again():
    pytest.importorskip("optuna")
    assert _long_ones_score_more(True, 5, 4) == _long_ones_score_more(True, 5, 4)
