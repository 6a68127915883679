"""Every strategy of ours passes the suite that a third party's must pass."""

from __future__ import annotations

import pytest

from retiarii.errors import StrategyError
from retiarii.strategies.base import Strategy
from retiarii.strategies.evolution import Evolution
from retiarii.strategies.grid import GridSearch
from retiarii.strategies.random import RandomSearch
from retiarii.testing.strategies import (
    MakeStrategy,
    Session,
    StrategyConformance,
    no_choice,
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


def test_the_suite_catches_values_out_of_range():
    class Outside(Strategy):
        def ask(self, number: int):
            return self.space.replay(lambda label, domain: 99)

    with pytest.raises(Exception, match="outside"):
        Session(Outside(), wide).step()


def test_telling_what_was_never_asked_is_an_error():
    session = Session(Evolution(), wide)
    session.step()
    session.strategy.tell(0, 1.0)
    for number in (0, 5):
        with pytest.raises(StrategyError, match="not waiting"):
            session.strategy.tell(number, 1.0)
