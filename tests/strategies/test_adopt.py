"""Points that a strategy did not propose: it learns from them, and does not propose them again."""

from __future__ import annotations

from typing import Any

import pytest

from retiarii.mutators.choice import choice
from retiarii.search_space import SearchSpace
from retiarii.strategies.base import Strategy
from retiarii.strategies.registry import STRATEGIES, make_strategy

# Population-based training proposes members of a population, not points on their own.
NAMES = sorted(set(STRATEGIES) - {"pbt", "cmaes", "gp"})
ADOPTED = 12


def begun(name: str) -> Strategy:
    space = SearchSpace(None, {"a": choice(list(range(8)), "a"), "b": choice(list(range(8)), "b")})
    strategy = make_strategy(name)
    strategy.begin(space, 3)
    return strategy


def score(values: dict[str, Any]) -> float:
    return float(values["a"] * 8 + values["b"])


def proposals(strategy: Strategy, first: int, count: int) -> list[dict[str, Any]]:
    made = []
    for number in range(first, first + count):
        point = strategy.ask(number)
        assert point is not None
        strategy.tell(number, score(point.values))
        made.append(point.values)
    return made


def adopt(strategy: Strategy) -> list[dict[str, Any]]:
    given = [{"a": n % 8, "b": (3 * n) % 8} for n in range(ADOPTED)]
    for number, values in enumerate(given):
        if strategy.adopt(number, strategy.space.freeze(values)):
            strategy.tell(number, score(values))
    return given


@pytest.mark.parametrize("name", NAMES)
def test_adopted_points_are_not_proposed_again(name: str) -> None:
    strategy = begun(name)
    given = adopt(strategy)
    made = proposals(strategy, ADOPTED, 40)
    assert not [values for values in made if values in given]
    assert len({tuple(values.items()) for values in made}) == 40


@pytest.mark.parametrize("name", NAMES)
def test_the_same_calls_give_the_same_proposals(name: str) -> None:
    made = []
    for _ in range(2):
        strategy = begun(name)
        adopt(strategy)
        made.append(proposals(strategy, ADOPTED, 20))
    assert made[0] == made[1]


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"random", "grid"}))
def test_it_learns_from_them(name: str) -> None:
    made = []
    for sign in (1, -1):
        strategy = begun(name)
        for number in range(40):
            values = {"a": number % 8, "b": number // 8}
            told = strategy.adopt(number, strategy.space.freeze(values))
            assert told
            strategy.tell(number, sign * score(values))
        found = [strategy.ask(40 + n) for n in range(8)]
        made.append([None if point is None else point.values for point in found])
    assert made[0] != made[1]
