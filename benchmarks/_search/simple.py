"""The references of the tables' README, in as few lines as they take: no dedup, no batches."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import TYPE_CHECKING, ClassVar

from retiarii.seeding import derive
from retiarii.strategies.base import TryingStrategy
from retiarii.strategies.heirs import Heir, genes_of, mutate
from retiarii.strategies.local import LocalSearch
from retiarii.strategies.tried import Step, Unexplored

if TYPE_CHECKING:
    from retiarii.mutators.choice import Chooser
    from retiarii.search_space import Point, SearchSpace

_POPULATION, _SAMPLE, _STEP, _ATTEMPTS = 30, 10, 0.15, 100


class SimpleEvolution(TryingStrategy):
    """Regularised evolution: population 30, sample 10, one change a child, no point twice."""

    name: ClassVar[str] = "simple evolution"
    TWINS: ClassVar[int] = 0

    def begin(self, space: SearchSpace, seed: int) -> None:
        super().begin(space, seed)
        self._living: deque[tuple[float, tuple[Step, ...]]] = deque(maxlen=_POPULATION)
        self._asked: dict[int, tuple[Step, ...]] = {}

    def ask(self, number: int) -> Point | None:
        rng = Random(derive(self.seed, self.name, number))
        found = self.propose(lambda: self._next(rng))
        if found is None:
            return None
        self._asked[number] = found.steps
        return found.point

    def tell(self, number: int, score: float | None) -> None:
        steps = self._asked.pop(number)
        if score is not None:
            self._living.append((score, steps))

    def _next(self, rng: Random) -> Chooser:
        if len(self._living) == _POPULATION:
            for _ in range(_ATTEMPTS):
                _, steps = max(rng.sample(list(self._living), _SAMPLE), key=lambda one: one[0])
                genes = genes_of(steps)
                mutate(genes, steps, rng, _STEP)
                heir = Heir(genes, rng)
                if self.tried.is_new(heir):
                    return heir
        return Unexplored(self.tried, rng)


class SimpleLocal(LocalSearch):
    """First improvement, a random restart."""

    TWINS: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__(starts=1)
