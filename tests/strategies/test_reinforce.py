from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest

from retiarii.errors import StrategyError
from retiarii.mutators.choice import Categorical, Integer, Real
from retiarii.strategies.controller import Controller, answer_of, answers, raw_of
from retiarii.strategies.random import RandomSearch
from retiarii.strategies.reinforce import Reinforce
from retiarii.strategies.tried import Step
from retiarii.testing.strategies import Session, mixed, wide

FOUR = Categorical(4)


def zeros(number, raws):
    return float(sum(raw == 0 for _, raw in raws))


def best(strategy, ask, score, trials, seeds=5):
    total = 0.0
    for seed in range(seeds):
        session = Session(strategy(), ask, score=score, seed=seed)
        total += max(score(n, raws) for n, raws in enumerate(session.run(trials)))
    return total / seeds


@pytest.mark.parametrize("elites", [0, 10])
def test_finds_what_random_search_does_not(elites):
    ours = best(lambda: Reinforce(elites=elites), wide, zeros, 300)
    assert ours >= best(RandomSearch, wide, zeros, 300) + 2


def test_numbers_are_tuned():
    def near(number, raws):
        values = dict(raws)
        return -abs(math.log10(values["lr"]) + 2.345) - abs(values["batch"] - 100) / 500

    assert best(Reinforce, mixed, near, 300) > best(RandomSearch, mixed, near, 300)


def test_scores_that_are_all_equal_teach_the_gradient_nothing():
    quiet = Reinforce(elites=0, entropy=0.0)
    random = Reinforce(elites=0, entropy=0.0)
    same = Session(quiet, wide, score=lambda number, raws: 5.0).run(50)
    assert same == Session(random, wide, score=lambda number, raws: None).run(50)


# -- the controller


def likely(controller, label, *before):
    walk = controller.walk()
    for earlier, raw in before:
        walk.took(earlier, FOUR, raw)
    return walk.likely(label, FOUR)


def learn(controller, steps, rate, entropy=0.0):
    controller.learn(controller.path(steps), rate, entropy)


def test_all_answers_are_as_likely_at_first():
    assert likely(Controller(), "a") == pytest.approx([0.25] * 4)


def test_what_is_learnt_is_likelier_and_what_is_unlearnt_less():
    controller = Controller()
    learn(controller, (Step("a", FOUR, 2),), 0.5)
    assert likely(controller, "a")[2] > 0.25
    learn(controller, (Step("a", FOUR, 2),), -2.0)
    assert likely(controller, "a")[2] < 0.25


def test_an_answer_depends_on_earlier_answers():
    controller = Controller()
    for _ in range(200):
        for first in range(4):
            learn(controller, (Step("a", FOUR, first), Step("b", FOUR, first)), 0.2)
    for first in range(4):
        found = likely(controller, "b", ("a", first))
        assert found.index(max(found)) == first
        assert found[first] > 0.8


@pytest.mark.parametrize(("rate", "entropy"), [(1.0, 0.0), (0.0, 1.0), (-0.3, 0.7)])
def test_the_step_is_along_the_gradient(rate, entropy):
    """Against differences: of log-probabilities and entropies, in the weights of each token."""
    rng = np.random.default_rng(0)
    steps = tuple(Step(label, FOUR, raw) for label, raw in zip("abc", (1, 3, 0), strict=True))
    before = [(step.label, step.raw) for step in steps]
    moved, fixed = Controller(), Controller()
    for controller in (moved, fixed):
        controller.path(steps)
    moved.alone[:12] = start = rng.normal(size=12)
    moved.beside[:12, :12] = fixed.beside[:12, :12] = rng.normal(size=(12, 12))
    learn(moved, steps, rate, entropy)

    def value(weights):
        fixed.alone[:12] = weights
        total = 0.0
        for at, step in enumerate(steps):
            p = np.array(likely(fixed, step.label, *before[:at]))
            total += rate * np.log(p[step.raw]) - entropy * float(p @ np.log(p))
        return total

    slopes = [(value(start + e) - value(start - e)) / 2e-5 for e in np.eye(12) * 1e-5]
    assert moved.alone[:12] - start == pytest.approx(slopes, abs=1e-6)
    # Weights beside earlier answers share what the answer alone gets; others stay.
    step = moved.beside[:12, :12] - fixed.beside[:12, :12]
    expected = np.zeros((12, 12))
    expected[1, 4:8] = slopes[4:8]
    expected[1, 8:] = expected[7, 8:] = np.array(slopes[8:]) / 2
    assert step == pytest.approx(expected, abs=1e-6)


def test_questions_that_come_later_are_learnt_as_well():
    """More tokens than there is room for at first, some of them made while a walk is under way."""
    controller = Controller()
    walk = controller.walk()
    labels = [f"q{i}" for i in range(50)]
    for label in labels:
        assert walk.likely(label, FOUR) == pytest.approx([0.25] * 4)
        walk.took(label, FOUR, 1)
    learn(controller, tuple(Step(label, FOUR, 1) for label in labels), 0.5)
    assert all(likely(controller, label)[1] > 0.25 for label in labels)
    assert likely(controller, "q49", ("q0", 1))[1] > likely(controller, "q49")[1]


@pytest.mark.parametrize(
    "domain", [FOUR, Integer(3, 6), Integer(1, 10**6, log=True), Real(-2.0, 5.0)], ids=str
)
def test_answers_and_values_agree(domain):
    rng = Random(0)
    for answer in range(answers(domain)):
        for _ in range(20):
            raw = raw_of(domain, answer, rng)
            found = answer_of(domain, raw)
            # A whole number may stand on the border of two parts.
            assert found == answer or (isinstance(domain, Integer) and abs(found - answer) <= 1)


@pytest.mark.parametrize(
    "options",
    [{"rate": 0.0}, {"entropy": -1}, {"baseline": 1.0}, {"elites": -1}, {"patience": 0}],
    ids=str,
)
def test_options_are_checked(options):
    with pytest.raises(StrategyError) as caught:
        Reinforce(**options)
    assert list(options)[-1] in str(caught.value)


def test_describe_holds_every_option():
    options = {"rate": 0.2, "entropy": 0.3, "baseline": 0.8, "elites": 4, "patience": 9}
    assert Reinforce(**options).describe() == {"name": "reinforce"} | options
