from __future__ import annotations

import math
from itertools import pairwise

import pytest

from retiarii.errors import StrategyError
from retiarii.mutators.choice import choice, randint, uniform
from retiarii.strategies.local import LocalSearch
from retiarii.strategies.random import RandomSearch
from retiarii.testing.strategies import Session, branches, mixed, wide


def zeros(number, raws):
    """How many options of `wide` are the first: one optimum in 4 ** 12, and no other hill."""
    return float(sum(raw == 0 for _, raw in raws))


def best(strategy, ask, score, trials, seeds=5):
    total = 0.0
    for seed in range(seeds):
        session = Session(strategy(), ask, score=score, seed=seed)
        total += max(score(n, raws) for n, raws in enumerate(session.run(trials)))
    return total / seeds


def differences(one, other):
    one, other = dict(one), dict(other)
    return [label for label in one.keys() & other.keys() if one[label] != other[label]]


def test_climbs_a_hill_to_its_top():
    assert best(LocalSearch, wide, zeros, 200) == 12
    assert best(RandomSearch, wide, zeros, 200) < 9


@pytest.mark.parametrize("ask", [wide, branches, mixed])
def test_a_proposal_differs_in_one_decision_from_the_best(ask):
    def score(number, raws):
        return float(number)  # every neighbour is better

    proposed = Session(LocalSearch(starts=3), ask, score=score).run(30)
    for before, after in pairwise(proposed[2:]):
        assert len(differences(before, after)) <= 1
        assert before != after


def test_decisions_appear_and_disappear():
    def score(number, raws):
        return float(len(raws))

    counts = {len(raws) for raws in Session(LocalSearch(), branches, score=score).run(60)}
    assert counts == {4, 5, 6}


def test_begins_with_random_points():
    proposed = Session(LocalSearch(starts=6), wide, score=zeros).run(7)
    assert all(len(differences(a, b)) > 3 for a, b in pairwise(proposed[:6]))
    top = max(proposed[:6], key=lambda raws: zeros(0, raws))
    assert len(differences(proposed[6], top)) == 1


def test_starts_again_at_a_top_that_is_not_the_best():
    def ask():
        choice(list("abcdefgh"), label="x")
        choice(list("abcdefgh"), label="y")

    def score(number, raws):
        values = dict(raws)
        return 2.0 if values["x"] == values["y"] == 7 else float(values["x"] == values["y"])

    for seed in range(10):  # from (0, 0) no single change leads to (7, 7)
        session = Session(LocalSearch(starts=1), ask, score=score, seed=seed)
        assert (("x", 7), ("y", 7)) in session.run(64)


def test_numbers_are_tuned_by_strides():
    def ask():
        uniform(0.0, 10.0, label="real")
        randint(0, 1000, label="whole")

    def near(number, raws):
        values = dict(raws)
        return -abs(values["real"] - 3.3) - abs(values["whole"] - 777) / 100

    assert best(LocalSearch, ask, near, 200) > -0.1
    assert best(LocalSearch, ask, near, 200) > best(RandomSearch, ask, near, 200) + 0.1


def test_a_batch_takes_neighbours_of_the_next_best():
    """Nothing is told while the best point's 36 neighbours run out, and nobody waits."""
    session = Session(LocalSearch(starts=2), wide, score=zeros, cohort=60)
    proposed = session.run(120)
    near = [min(len(differences(p, r)) for r in proposed[:60]) for p in proposed[60:]]
    assert near == [1] * 60


def test_failed_trials_are_no_places_to_go_on_from():
    def score(number, raws):
        return (None, math.nan, math.inf)[number % 3] if number != 1 else 0.0

    proposed = Session(LocalSearch(starts=3), wide, score=score).run(30)
    assert all(len(differences(raws, proposed[1])) == 1 for raws in proposed[3:])


@pytest.mark.parametrize("options", [{"starts": 0}, {"starts": 1.5}, {"patience": 0}], ids=str)
def test_options_are_checked(options):
    with pytest.raises(StrategyError) as caught:
        LocalSearch(**options)
    assert list(options)[-1] in str(caught.value)


def test_describe_holds_every_option():
    assert LocalSearch(starts=3).describe() == {"name": "local", "starts": 3, "patience": 1000}
