"""Who plays: every registered strategy, and the simple references."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

from retiarii.strategies.base import Strategy
from retiarii.strategies.evolution import Evolution
from retiarii.strategies.local import LocalSearch
from retiarii.strategies.registry import STRATEGIES, make_strategy


class SimpleEvolution(Evolution):
    """As in the tables' README: population 30, sample 10, one change a child, no dedup."""

    TWINS: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__(population=30, sample=10, crossover=0.0)


class SimpleLocal(LocalSearch):
    """As in the tables' README: first improvement, a random restart, no dedup."""

    TWINS: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__(starts=1)


def players() -> Mapping[str, Callable[[], Strategy]]:
    """Name -> what makes the strategy."""
    ours = {name: partial(make_strategy, name) for name in sorted(STRATEGIES)}
    return ours | {"(simple evolution)": SimpleEvolution, "(simple local search)": SimpleLocal}
