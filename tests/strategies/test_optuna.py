from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings

import pytest

from retiarii.errors import InfeasibleError, StrategyError
from retiarii.mutators.choice import choice, loguniform, randint, uniform
from retiarii.strategies.optuna_strategies import CMAES, GP, NSGA2, NSGA3, TPE
from retiarii.strategies.random import RandomSearch
from retiarii.strategies.registry import make_strategy
from retiarii.testing.strategies import (
    MakeStrategy,
    Session,
    StrategyConformance,
    ToyPoint,
    ToySpace,
    branches,
    flat,
    good,
    mixed,
    pitfalls,
    wide,
)

optuna = pytest.importorskip("optuna")

ALL = {"tpe": TPE, "gp": GP, "nsga2": NSGA2, "nsga3": NSGA3, "cmaes": CMAES}


class TestTPE(StrategyConformance):
    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        return TPE


class TestForgetfulTPE(StrategyConformance):
    """It forgets nearly all, all the time."""

    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        return lambda: TPE(startup=2, best=1, recent=1)


class TestGP(StrategyConformance):
    """Few proposals are the Gaussian process's: each takes it a tenth of a second."""

    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        pytest.importorskip("scipy")
        return lambda: GP(startup=3, trials=5, best=4, recent=4)


class TestNSGA2(StrategyConformance):
    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        return lambda: NSGA2(population=8)


class TestNSGA3(StrategyConformance):
    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        return lambda: NSGA3(population=8)


class TestCMAES(StrategyConformance):
    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        pytest.importorskip("cmaes")
        return CMAES


def numbers() -> None:
    """Two numbers, of which the optimum is inside, and a decision of another kind."""
    loguniform(1e-4, 1e-1, label="lr")
    uniform(0.0, 1.0, label="x")
    randint(1, 64, label="n")
    choice(["a", "b", "c"], label="kind")


def bowl(_number, raws):
    values = dict(raws)
    far = (values["x"] - 0.7) ** 2 + ((values["n"] - 20) / 64) ** 2
    return -far - 0.1 * (values["kind"] != 1)


def zeros(_number, raws):
    return float(sum(raw == 0 for _, raw in raws))


def best(strategy, ask, score, trials, seeds=4):
    total = 0.0
    for seed in range(seeds):
        session = Session(strategy(), ask, score=score, seed=seed)
        total += max(score(n, raws) for n, raws in enumerate(session.run(trials)))
    return total / seeds


@pytest.mark.parametrize(("name", "lead"), [("tpe", 3.0), ("nsga2", 2.0), ("nsga3", 2.0)])
def test_learns_which_options_are_good(name, lead):
    assert best(ALL[name], wide, zeros, 200) >= best(RandomSearch, wide, zeros, 200) + lead


@pytest.mark.parametrize("name", ["tpe", "cmaes"])
def test_learns_which_numbers_are_good(name):
    if name == "cmaes":
        pytest.importorskip("cmaes")
    # half as far from the optimum as random search
    assert best(ALL[name], numbers, bowl, 150) > 0.5 * best(RandomSearch, numbers, bowl, 150)


def test_gp_learns_in_few_trials():
    pytest.importorskip("scipy")
    found = best(lambda: GP(startup=6), numbers, bowl, 25, seeds=2)
    assert found > 0.5 * best(RandomSearch, numbers, bowl, 25, seeds=2)


def test_tpe_learns_from_decisions_that_only_some_points_have():
    def score(_number, raws):
        return sum(1.0 for label, raw in raws if label.startswith("op") and raw == 2)

    assert best(TPE, branches, score, 40) == 4.0
    assert best(RandomSearch, branches, score, 40) < 4.0


def test_forgetting_does_not_lose_the_best():
    """What TPE sees is bounded; what was good 300 trials ago is still used."""

    def early(number, raws):
        return zeros(number, raws) if number < 100 else -1.0

    session = Session(TPE(best=16, recent=16), wide, score=early)
    session.run(420)
    top = max(zeros(n, raws) for n, raws in enumerate(session.proposed[:100]))
    late = [zeros(n, raws) for n, raws in enumerate(session.proposed[400:])]
    assert sum(late) / len(late) > top / 2  # random points have three of twelve


def test_what_is_infeasible_is_avoided():
    def narrow():
        for at in range(6):
            choice([0, 1, 2, 3], label=f"op{at}")
        if choice([0, 1, 2, 3], label="last") != 0:
            raise InfeasibleError("only the first fits")

    random, tpe = RandomSearch(), TPE()
    for strategy in (random, tpe):
        assert len(Session(strategy, narrow).run(100)) == 100
    assert tpe.infeasible < random.infeasible / 2


def test_what_fails_is_avoided():
    def score(_number, raws):
        return None if dict(raws)["op0"] else 0.5

    proposed = Session(TPE(), wide, score=score).run(120)
    assert sum(dict(raws)["op0"] == 0 for raws in proposed[60:]) > 30  # at random: 15


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_scores_that_are_no_numbers_are_failures(name, bad):
    def odd(number, raws):
        return bad if number % 3 else good(number, raws)

    def failing(number, raws):
        return None if number % 3 else good(number, raws)

    one = Session(ALL[name](), branches, score=odd).run(60)
    assert one == Session(ALL[name](), branches, score=failing).run(60)


def test_a_known_point_leads_to_one_near_by():
    """The best point is known; what is proposed instead differs from it in one decision."""

    def score(_number, raws):
        return 10.0 * zeros(0, raws)

    proposed = Session(TPE(), flat, score=score).run(72)
    best_at = max(range(72), key=lambda n: zeros(n, proposed[n]))
    after = proposed[best_at + 1 : best_at + 4]
    top = dict(proposed[best_at])
    assert after
    for raws in after:
        assert sum(dict(raws)[label] != top[label] for label in top) <= 2


class _TwinPoint(ToyPoint):
    def key(self):
        return repr(self.raws[:-1])


class _Twins(ToySpace):
    """Points that differ in their last decision only are the same model."""

    def replay(self, chooser):
        return _TwinPoint(super().replay(chooser).decisions)


def test_twins_are_passed_over():
    strategy = TPE()
    strategy.begin(_Twins(flat), 0)
    keys = []
    for number in range(20):
        point = strategy.ask(number)
        keys.append(point.key())
        strategy.tell(number, zeros(number, point.raws))
    assert len(set(keys)) == 20
    assert strategy.twins > 0


@pytest.mark.parametrize("name", ALL)
def test_by_name_with_every_option(name):
    strategy = _make(name)
    described = strategy.describe()
    assert described.pop("name") == name
    again = make_strategy(name, **described)
    assert again.describe() == strategy.describe()
    assert type(again) is ALL[name]


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("tpe", {"startup": 0}, "startup"),
        ("tpe", {"candidates": 1.5}, "candidates"),
        ("tpe", {"best": 0}, "best"),
        ("tpe", {"recent": -1}, "recent"),
        ("tpe", {"history": 5}, "history"),
        ("gp", {"startup": 1}, "startup"),
        ("gp", {"trials": 0}, "trials"),
        ("gp", {"deterministic": "yes"}, "deterministic"),
        ("nsga2", {"population": 1}, "population"),
        ("nsga2", {"crossover": 1.5}, "crossover"),
        ("nsga3", {"mutation": -0.1}, "mutation"),
        ("cmaes", {"population": 1}, "population"),
        ("cmaes", {"population": 40}, "recent"),
    ],
)
def test_options_are_checked(name, options, word):
    with pytest.raises(StrategyError, match=word):
        make_strategy(name, **options)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("tpe", "optuna", "optuna>=5,<6"),
        ("gp", "scipy", "scipy"),
        ("cmaes", "cmaes", "cmaes>=0.12"),
    ],
)
def test_what_is_not_installed_is_said_with_the_command(name, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(StrategyError) as caught:
        make_strategy(name)
    assert "not installed" in str(caught.value)
    assert f"pip install '{package}'" in str(caught.value)


@pytest.mark.parametrize("name", ALL)
def test_nothing_of_optuna_reaches_the_user(name, capfd, caplog):
    before = optuna.logging.get_verbosity()
    optuna.logging.enable_propagation()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Session(_make(name), mixed).run(30)
            Session(_make(name), pitfalls).run(20)
    finally:
        optuna.logging.disable_propagation()
    assert not caught
    assert [r for r in caplog.records if r.levelno >= logging.INFO] == []
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before


_PROPOSALS = """
import json, sys
from retiarii.strategies.registry import make_strategy
from retiarii.testing.strategies import Session, branches
print(json.dumps(Session(make_strategy(sys.argv[1]), branches, window=4).run(60)))
"""


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_another_process_proposes_the_same(name):
    def proposals(hashing: str) -> list:
        ran = subprocess.run(
            [sys.executable, "-c", _PROPOSALS, name],
            env=os.environ | {"PYTHONHASHSEED": hashing},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(ran.stdout)

    assert proposals("1") == proposals("2")


def test_modules_of_the_strategies_do_not_import_optuna():
    code = (
        "import sys, retiarii.strategies.optuna_strategies; "
        "sys.exit(any(m == 'optuna' or m.startswith('optuna.') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_trial_is_told_once():
    session = Session(TPE(), wide)
    session.step()
    session.strategy.tell(0, 1.0)
    for number in (0, 5):
        with pytest.raises(StrategyError, match="not waiting"):
            session.strategy.tell(number, 1.0)


def _make(name):
    if name == "cmaes":
        pytest.importorskip("cmaes")
    if name == "gp":
        pytest.importorskip("scipy")
        return GP(startup=6, trials=9)
    return make_strategy(name)
