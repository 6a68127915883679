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


def test_all_answers_are_as_likely_at_first():
    assert Controller().likely("a", FOUR, []) == pytest.approx([0.25] * 4)


def test_what_is_learnt_is_likelier_and_what_is_unlearnt_less():
    controller = Controller()
    controller.learn((Step("a", FOUR, 2),), 0.5, 0.0)
    assert controller.likely("a", FOUR, [])[2] > 0.25
    controller.learn((Step("a", FOUR, 2),), -2.0, 0.0)
    assert controller.likely("a", FOUR, [])[2] < 0.25


def test_an_answer_depends_on_earlier_answers():
    controller = Controller()
    for _ in range(200):
        for first in range(4):
            controller.learn((Step("a", FOUR, first), Step("b", FOUR, first)), 0.2, 0.0)
    for first in range(4):
        likely = controller.likely("b", FOUR, [controller.token("a", FOUR, first)])
        assert likely.argmax() == first
        assert likely[first] > 0.8


def test_the_step_is_along_the_gradient():
    """Against differences: of the log-probability and of the entropy, in the first weights."""
    rng = np.random.default_rng(0)
    steps = (Step("a", FOUR, 1),)

    def logits(controller):
        return controller._slot("a", FOUR).alone

    for rate, entropy in ((1.0, 0.0), (0.0, 1.0)):
        start = rng.normal(size=4)
        moved, fixed = Controller(), Controller()
        logits(moved)[:] = start
        moved.learn(steps, rate, entropy)
        for at in range(4):
            values = []
            for sign in (1, -1):
                logits(fixed)[:] = start
                logits(fixed)[at] += sign * 1e-5
                p = fixed.likely("a", FOUR, [])
                values.append(rate * np.log(p[1]) - entropy * float(p @ np.log(p)))
            slope = (values[0] - values[1]) / 2e-5
            assert logits(moved)[at] - start[at] == pytest.approx(slope, abs=1e-6)


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
