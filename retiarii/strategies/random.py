"""Random search without repetition."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

from retiarii.seeding import derive
from retiarii.strategies.base import TryingStrategy
from retiarii.strategies.tried import Unexplored

if TYPE_CHECKING:
    from retiarii.search_space import Point


class RandomSearch(TryingStrategy):
    """Draws every decision at random, among the values that still lead to something new.

    Every option of a decision is as likely, so in a conditional space a branch with many points
    is drawn as often as one with few. It is the yardstick, and knows nothing of twins: a model
    that many decisions lead to is drawn that often.

    Args:
        patience: infeasible proposals in a row before it gives up.
    """

    name: ClassVar[str] = "random"
    TWINS: ClassVar[int] = 0

    def ask(self, number: int) -> Point | None:
        rng = Random(derive(self.seed, "random", number))
        found = self.propose(lambda: Unexplored(self.tried, rng))
        return found.point if found else None

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "patience": self.patience}
