from __future__ import annotations

import math

import pytest

from retiarii.errors import StrategyError
from retiarii.mutators.choice import choice
from retiarii.strategies.evolution import Evolution
from retiarii.strategies.random import RandomSearch
from retiarii.testing.strategies import Session, branches, mixed, pitfalls, wide


def zeros(number, raws):
    """How many options of `wide` are the first: one optimum in 4 ** 12."""
    return float(sum(raw == 0 for _, raw in raws))


def best(strategy, ask, score, trials, seeds=5):
    total = 0.0
    for seed in range(seeds):
        session = Session(strategy(), ask, score=score, seed=seed)
        total += max(score(n, raws) for n, raws in enumerate(session.run(trials)))
    return total / seeds


def test_finds_what_random_search_does_not():
    assert best(Evolution, wide, zeros, 400) >= best(RandomSearch, wide, zeros, 400) + 2


def test_numbers_are_tuned():
    def near(number, raws):
        values = dict(raws)
        if values["optimizer"] == 1:
            return -3.0
        lr, momentum = math.log10(values["lr"]), values["momentum"]
        return -abs(lr + 2.345) - abs(momentum - 0.77) - abs(values["batch"] - 100) / 500

    assert best(Evolution, mixed, near, 400) > best(RandomSearch, mixed, near, 400) + 0.02
    assert best(Evolution, mixed, near, 400) > -0.05


def differences(child, parent):
    child, parent = dict(child), dict(parent)
    return [label for label in child.keys() & parent.keys() if child[label] != parent[label]]


@pytest.mark.parametrize("ask", [wide, branches, mixed])
def test_a_child_changes_one_decision_of_its_parent(ask):
    population = 10
    session = Session(
        Evolution(
            population=population, initial=population, sample=10, crossover=0.0, attempts=10**5
        ),
        ask,
        score=lambda number, raws: float(number == 3),
    )
    session.run(population + 1)
    parent = session.proposed[3]
    assert len(differences(session.proposed[population], parent)) == 1


def test_crossover_mixes_two_parents():
    session = Session(
        Evolution(population=2, initial=2, sample=1, crossover=1.0), wide, score=zeros, seed=1
    )
    session.run(3)
    first, second, child = map(dict, session.proposed)
    foreign = [label for label in child if child[label] not in (first[label], second[label])]
    assert len(foreign) <= 1
    assert len(differences(child, first)) > 1
    assert len(differences(child, second)) > 1


def test_failed_trials_are_never_parents():
    """Only trial 3 succeeds, so every child is one change away from it."""
    session = Session(
        Evolution(population=5, initial=5, sample=5, crossover=0.5),
        wide,
        score=lambda number, raws: (None, math.nan, math.inf)[number % 3] if number != 3 else 0.0,
    )
    session.run(30)
    assert all(len(differences(raws, session.proposed[3])) == 1 for raws in session.proposed[5:])


def test_the_oldest_leaves_even_if_it_is_the_best():
    """Scores fall, so the best of the three that live is the oldest of them."""
    session = Session(
        Evolution(population=3, initial=3, sample=3, crossover=0.0),
        wide,
        score=lambda number, raws: float(-number),
    )
    proposed = session.run(30)
    assert all(len(differences(proposed[n], proposed[n - 3])) == 1 for n in range(3, 30))


def test_decisions_without_an_alternative_are_not_mutated():
    def ask():
        for at in range(40):
            choice(["only"], label=f"fixed{at}")
        wide()

    for seed in range(10):
        session = Session(
            Evolution(population=5, initial=5, sample=5, crossover=0.0, attempts=1),
            ask,
            score=lambda number, raws: float(number == 3),
            seed=seed,
        )
        session.run(6)
        assert len(differences(session.proposed[5], session.proposed[3])) == 1


def test_infeasible_children_are_not_replayed_again():
    session = Session(Evolution(population=5, initial=5, sample=3), pitfalls)
    session.run(1000)
    assert session.space.replays == 1 + (3 + 9 + 27) + 3


def test_known_children_cost_no_replay():
    session = Session(
        Evolution(population=5, initial=5, sample=5, crossover=0.0), wide, score=zeros
    )
    session.run(500)
    assert session.space.replays == 500


def test_random_while_nothing_succeeded():
    def failing(number, raws):
        return None

    ours = Session(Evolution(population=4, initial=4, sample=2), wide, score=failing).run(40)
    assert sum(len(differences(ours[n], ours[n - 1])) for n in range(1, 40)) / 39 > 7


@pytest.mark.parametrize(
    "options",
    [
        {"population": 0},
        {"population": 2.5},
        {"sample": 0},
        {"population": 5, "sample": 6},
        {"crossover": 1.1},
        {"crossover": "half"},
        {"step": 0.0},
        {"step": math.nan},
        {"attempts": 0},
        {"patience": 0},
    ],
    ids=str,
)
def test_options_are_checked(options):
    with pytest.raises(StrategyError) as caught:
        Evolution(**options)
    assert list(options)[-1] in str(caught.value)
    assert caught.value.fix


def test_describe_holds_every_option():
    assert Evolution(population=7, sample=3).describe() == {
        "name": "evolution",
        "population": 7,
        "initial": 15,
        "sample": 3,
        "crossover": 0.25,
        "step": 0.15,
        "attempts": 64,
        "patience": 1000,
    }
