"""Every strategy of ours passes the suite that a third party's must pass."""

from __future__ import annotations

import pytest

from retiarii.errors import StrategyError
from retiarii.strategies.base import Strategy, Training
from retiarii.strategies.evolution import Evolution
from retiarii.strategies.grid import GridSearch
from retiarii.strategies.local import LocalSearch
from retiarii.strategies.pbt import PBT
from retiarii.strategies.predictor import Predictor
from retiarii.strategies.random import RandomSearch
from retiarii.strategies.reinforce import Reinforce
from retiarii.testing.strategies import (
    MakeStrategy,
    Session,
    StrategyConformance,
    all_fail,
    flaky,
    flat,
    good,
    no_choice,
    pitfalls,
    wide,
)


class TestRandom(StrategyConformance):
    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        return RandomSearch


class TestGrid(StrategyConformance):
    continuous = False
    seeded = False

    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        return GridSearch


class TestEvolution(StrategyConformance):
    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        return Evolution


class TestSmallEvolution(StrategyConformance):
    """Few members and few attempts: the fallbacks are taken often."""

    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        return lambda: Evolution(population=4, sample=2, crossover=1.0, attempts=1)


class TestLocal(StrategyConformance):
    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        return LocalSearch


class TestHastyLocal(StrategyConformance):
    """One random point a climb: the smallest state, and the most restarts."""

    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        return lambda: LocalSearch(starts=1)


class TestPredictor(StrategyConformance):
    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        return Predictor


class TestSmallPredictor(StrategyConformance):
    """It learns from the start, from few scores, and looks at more than it can keep."""

    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        return lambda: Predictor(initial=2, pool=16, looks=12, memory=8)


class TestReinforce(StrategyConformance):
    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        return Reinforce


class TestGradientAlone(StrategyConformance):
    """No elites, and steps so large that answers become certain."""

    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        return lambda: Reinforce(elites=0, rate=10.0, entropy=0.0)


class TestPBT(StrategyConformance):
    """Each point is proposed again, to be trained further: so no space is ever used up."""

    test_finite_space_is_proposed_once_and_to_its_end = None
    test_space_of_one_point = None

    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        return _population

    @pytest.mark.parametrize("ask", [flat, pitfalls, no_choice])
    @pytest.mark.parametrize("score", [good, flaky, all_fail])
    def test_a_small_space_does_for_any_population(self, ask, score):
        """Where fewer points are new than there are members, some are taken twice."""
        session = Session(_population(), ask, score=score)
        assert len(session.run(300)) == 300


def _population() -> PBT:
    made = PBT(population=128, interval=1)
    changes = frozenset({"lr", "batch", "momentum", *(f"op{at}" for at in range(12))})
    made.prepare(Training(64, 2, longest=10**6, changes=changes))
    return made


class _Repeating(RandomSearch):
    """Forgets, so that it proposes what it proposed before."""

    def ask(self, number: int):
        self.begin(self.space, self.seed)
        return super().ask(number % 5)


class _Hidden(RandomSearch):
    """Lets state outside of ask and tell decide."""

    made = 0

    def begin(self, space, seed: int) -> None:
        type(self).made += 1
        super().begin(space, seed + type(self).made)


def test_the_suite_catches_duplicates():
    with pytest.raises(AssertionError):
        StrategyConformance().test_no_duplicates_in_a_large_space(
            _Repeating, lambda number, raws: 0.0, 1
        )


def test_the_suite_catches_hidden_state():
    with pytest.raises(AssertionError):
        StrategyConformance().test_same_seed_gives_same_proposals(_Hidden, wide)


def test_the_suite_catches_a_strategy_that_never_ends():
    class Endless(Strategy):
        def ask(self, number: int):
            return self.space.replay(lambda label, domain: 0)

    with pytest.raises(AssertionError):
        StrategyConformance().test_space_of_one_point(Endless, no_choice)


class _Impatient(RandomSearch):
    """Needs each result before the next proposal."""

    def begin(self, space, seed: int) -> None:
        super().begin(space, seed)
        self.told = 0

    def ask(self, number: int):
        assert self.told == number, "a result is missing"
        return super().ask(number)

    def tell(self, number: int, score: float | None) -> None:
        self.told += 1


def test_the_suite_catches_a_strategy_that_needs_every_result_at_once():
    with pytest.raises(AssertionError, match="missing"):
        StrategyConformance().test_cohorts(_Impatient, 4, 2)


def test_the_suite_catches_values_out_of_range():
    class Outside(Strategy):
        def ask(self, number: int):
            return self.space.replay(lambda label, domain: 99)

    with pytest.raises(Exception, match="outside"):
        Session(Outside(), wide).step()


@pytest.mark.parametrize("kind", [Evolution, LocalSearch, Predictor, Reinforce, _population])
def test_telling_what_was_never_asked_is_an_error(kind):
    session = Session(kind(), wide)
    session.step()
    session.strategy.tell(0, 1.0)
    for number in (0, 5):
        with pytest.raises(StrategyError, match="not waiting"):
            session.strategy.tell(number, 1.0)
