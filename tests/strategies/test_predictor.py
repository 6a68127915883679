from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from retiarii.errors import StrategyError
from retiarii.mutators.choice import Categorical, Integer, Real
from retiarii.search_space import SearchSpace
from retiarii.spaces import nas_bench_201
from retiarii.strategies.features import Columns, decision_features, graph_features, stacked
from retiarii.strategies.local import LocalSearch
from retiarii.strategies.predictor import Predictor
from retiarii.strategies.surrogate import Surrogate, emphasised
from retiarii.strategies.tried import Step
from retiarii.testing.strategies import Session, flat, wide


def agree(number, raws):
    """Decisions should agree with their neighbours and with their place: many hills."""
    values = [raw for _, raw in raws]
    pairs = sum(a == b for a, b in pairwise(values))
    return sum(raw == at % 3 for at, raw in enumerate(values)) - 0.8 * pairs


def best(strategy, ask, score, trials, seeds=3):
    found = []
    for seed in range(seeds):
        session = Session(strategy(), ask, score=score, seed=seed)
        found.append(max(score(n, raws) for n, raws in enumerate(session.run(trials))))
    return sum(found) / seeds


def test_needs_fewer_trials_than_local_search():
    assert best(Predictor, wide, agree, 80) > best(LocalSearch, wide, agree, 80) + 0.5


def test_learns_from_graphs_what_decisions_do_not_say():
    """The score is the number of parameters: as soon as graphs were seen, the largest is found."""
    space = SearchSpace(nas_bench_201(4, 1, 3, 8))
    strategy = Predictor(initial=8)
    strategy.begin(space, 0)
    largest = space.freeze({f"edge{i}{j}": "nor_conv_3x3" for j in range(4) for i in range(j)})
    for number in range(60):
        point = strategy.ask(number)
        if point.key() == largest.key():
            break
        strategy.tell(number, float(point.candidate.cost().params))
    assert number < 40


def test_everything_looked_at_is_proposed_in_the_end(monkeypatch):
    monkeypatch.setattr("retiarii.strategies.predictor._KEPT", 3)
    session = Session(Predictor(initial=2, looks=10), flat)
    assert len(set(session.run(100))) == 72


# -- features


def step(label, domain, raw):
    return Step(label, domain, raw)


def test_two_options_are_one_apart_and_numbers_by_their_distance():
    kind, rate = Categorical(4), Real(1e-4, 1e-1, log=True)
    columns = Columns()
    rows = [
        columns.row(decision_features([step("kind", kind, at), step("rate", rate, value)]))
        for at, value in ((0, 1e-4), (1, 1e-4), (1, 1e-1), (1, 1e-2))
    ]
    matrix = stacked(rows)
    apart = np.square(matrix[:, None] - matrix[None]).sum(2)
    assert apart[0, 1] == pytest.approx(1.0)
    assert apart[1, 3] == pytest.approx(apart[1, 2] * (2 / 3) ** 2)


def test_a_decision_without_alternative_is_no_feature():
    assert decision_features([step("one", Categorical(1), 0), step("n", Integer(3, 3), 3)]) == {}


def test_equal_models_differ_in_their_costs_alone():
    space = nas_bench_201(4, 1, 3, 8)
    labels = [f"edge{i}{j}" for j in range(4) for i in range(j)]

    def features(digits):
        answers = dict(zip(labels, digits, strict=True))
        return graph_features(space.replay(lambda label, _: answers[label]).graph)

    # The first edge leads nowhere where both that follow it are none.
    one, twin, other = map(features, ((3, 3, 0, 3, 0, 3), (2, 3, 0, 3, 0, 3), (3, 3, 0, 3, 0, 2)))
    costs = {"params", "flops"}
    assert {k: v for k, v in one.items() if k not in costs} == {
        k: v for k, v in twin.items() if k not in costs
    }
    assert one.keys() != other.keys()
    small, large = features((1, 1, 1, 1, 1, 1)), features((3, 1, 1, 1, 1, 1))
    assert small["params"] < large["params"]
    assert small["flops"] < large["flops"]
    assert small["depth"] < large["depth"]


# -- the ensemble


def test_scores_are_compared_whatever_their_unit():
    scores = np.array([3.0, 1.0, 2.5, 2.9, -50.0])
    assert emphasised(scores) == pytest.approx(emphasised(1000 * scores - 7))
    assert (np.argsort(emphasised(scores)) == np.argsort(scores)).all()
    assert (emphasised(np.ones(4)) == 0).all()
    assert np.isfinite(emphasised(np.array([1.0, 1.0, 1.0, 0.0]))).all()


def test_draws_are_sure_where_scores_are_known_and_not_elsewhere():
    rng = np.random.default_rng(0)
    known = rng.uniform(-1, 1, (60, 2))
    surrogate = Surrogate()
    surrogate.fit([known], -np.abs(known).sum(1))
    here, far = known[:1], np.array([[40.0, 40.0]])
    draws = {
        name: np.array([surrogate.draw([at], rng)[0] for _ in range(200)])
        for name, at in (("here", here), ("far", far))
    }
    assert draws["far"].std() > 3 * draws["here"].std()
    centre, edge = surrogate.draw([np.array([[0.0, 0.0], [1.0, 1.0]])], rng)
    assert centre > edge


def test_it_believes_the_block_that_explains_the_scores():
    rng = np.random.default_rng(1)
    telling, noise = rng.uniform(-1, 1, (50, 2)), rng.uniform(-1, 1, (50, 2))
    surrogate = Surrogate()
    surrogate.fit([noise, telling], np.sin(3 * telling).sum(1))
    new = rng.uniform(-1, 1, (200, 2))
    drawn = surrogate.draw([rng.uniform(-1, 1, (200, 2)), new], rng)
    assert np.corrcoef(drawn, np.sin(3 * new).sum(1))[0, 1] > 0.8


@pytest.mark.parametrize(
    "options",
    [{"initial": 1}, {"pool": 0}, {"looks": 0}, {"memory": 1}, {"patience": math.inf}],
    ids=str,
)
def test_options_are_checked(options):
    with pytest.raises(StrategyError) as caught:
        Predictor(**options)
    assert list(options)[-1] in str(caught.value)


def test_describe_holds_every_option():
    options = {"initial": 5, "pool": 20, "looks": 3, "memory": 50, "patience": 9}
    assert Predictor(**options).describe() == {"name": "predictor"} | options
