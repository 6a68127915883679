"""A filtered strategy is a strategy: it passes the suite that all of them pass."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from retiarii.errors import StrategyError
from retiarii.objectives.measures import Measures
from retiarii.objectives.names import Sifting
from retiarii.objectives.sieve import Sieve
from retiarii.search_space import Point, SearchSpace
from retiarii.seeding import derive
from retiarii.strategies.base import Strategy
from retiarii.strategies.evolution import Evolution
from retiarii.strategies.optuna_strategies import NSGA2
from retiarii.strategies.random import RandomSearch
from retiarii.testing.strategies import (
    MakeStrategy,
    Session,
    StrategyConformance,
    ToyPoint,
    ToySpace,
    wide,
)


class Drawn:
    """Measures that are functions of the candidate, which here is a text."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def values(self, name: str, candidates: Sequence[str]) -> list[float | str]:
        self.seen.append(list(candidates))
        return [worth(candidate) for candidate in candidates]


def worth(candidate: str) -> float | str:
    number = derive(0, candidate) % 7
    return "it cannot be measured" if number == 0 else float(number)


class Modelled(Strategy):
    """A strategy of the toy spaces, whose points have something that can be measured."""

    def __init__(self, inner: Strategy) -> None:
        self.inner = inner
        self.told: list[Any] = []

    def begin(self, space: SearchSpace, seed: int) -> None:
        self.inner.begin(space, seed)

    def ask(self, number: int) -> Point | None:
        found = self.inner.ask(number)
        if found is None:
            return None
        point = SimpleNamespace(decisions=found.decisions, raws=found.raws, key=found.key)
        point.candidate = repr(found.raws)
        return cast(Point, point)

    def tell(self, number: int, score: float | None) -> None:
        self.told.append((number, score))
        self.inner.tell(number, score)

    def rescore(self, scores: Any) -> None:
        self.told.append(dict(scores))

    def describe(self) -> dict[str, Any]:
        return self.inner.describe()


def sieve(
    inner: Strategy | None = None, every: Any = None, first: Any = None, cohort: int = 3
) -> Sieve:
    modelled = Modelled(inner or Evolution(population=8, sample=4))
    return Sieve(modelled, every, first, cohort, cast(Measures, Drawn()))


class TestFiltered(StrategyConformance):
    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        return lambda: sieve(every=Sifting("zen", 4))


class TestWarm(StrategyConformance):
    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        return lambda: sieve(first=Sifting("zen", 6))


def drawn_of(strategy: Sieve) -> Drawn:
    return cast(Drawn, strategy._measures)


def test_the_best_of_each_cohort_are_proposed_in_their_order() -> None:
    strategy = sieve(RandomSearch(), every=Sifting("zen", 4))
    proposed = Session(strategy, wide, seed=2, cohort=3).run(6)
    asked = [c for cohort in drawn_of(strategy).seen for c in cohort]
    assert [len(cohort) for cohort in drawn_of(strategy).seen] == [12, 12]
    plain = Session(RandomSearch(), wide, seed=2).run(24)
    assert asked == [repr(raws) for raws in plain]
    for start in (0, 3):
        pool = asked[4 * start : 4 * start + 12]

        def rank(at: int, pool: list[str] = pool) -> tuple[float, int]:
            value = worth(pool[at])
            return (float("inf") if isinstance(value, str) else -value, at)

        best = sorted(sorted(range(12), key=rank)[:3])
        assert [repr(raws) for raws in proposed[start : start + 3]] == [pool[at] for at in best]


def test_a_warm_start_sifts_once() -> None:
    strategy = sieve(RandomSearch(), first=Sifting("zen", 5), every=None)
    Session(strategy, wide).run(20)
    assert [len(cohort) for cohort in drawn_of(strategy).seen] == [15]


def test_what_is_passed_over_is_told_as_failed_and_results_go_to_whom_they_belong() -> None:
    strategy = sieve(RandomSearch(), every=Sifting("zen", 2), cohort=2)
    strategy.begin(ToySpace(wide).as_space(), 0)
    points = [strategy.ask(0), strategy.ask(1)]
    assert all(points)
    inner = cast(Modelled, strategy._inner)
    passed = [number for number, score in inner.told if score is None]
    assert len(passed) == 2
    strategy.tell(0, 0.5)
    strategy.tell(1, 0.7)
    trained = sorted(set(range(4)) - set(passed))
    assert inner.told[2:] == [(trained[0], 0.5), (trained[1], 0.7)]
    strategy.rescore({0: 0.1, 1: 0.2, 9: 0.3})
    assert inner.told[-1] == {trained[0]: 0.1, trained[1]: 0.2}


def test_several_values_go_through() -> None:
    strategy = Sieve(NSGA2(population=4), None, None, 2, cast(Measures, Drawn()))
    assert strategy.several
    strategy.objectives = 2
    strategy.begin(ToySpace(wide).as_space(), 0)
    for number in range(30):
        assert strategy.ask(number) is not None
        strategy.tell_all(number, (float(number), -float(number)) if number % 5 else None)
    with pytest.raises(StrategyError):
        strategy.tell_all(3, (1.0, 2.0))


def test_what_the_user_asked_for_is_handed_on() -> None:
    strategy = sieve(Evolution(), every=Sifting("zen", 2), cohort=2)
    strategy._inner = Evolution()
    strategy.begin(ToySpace(wide).as_space(), 0)
    point = ToySpace(wide).replay(lambda label, domain: 0)
    assert isinstance(point, ToyPoint)
    assert strategy.adopt(0, cast(Point, point))
    strategy.tell(0, 1.0)
    assert strategy.describe()["prefilter"] == "zen,times=2"
    assert strategy.name == "evolution"
