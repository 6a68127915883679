"""Regularised evolution (Real et al., 2019), over conditional and numeric decisions."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from retiarii.errors import StrategyError
from retiarii.mutators.choice import Chooser
from retiarii.seeding import derive
from retiarii.strategies.base import Asked, TryingStrategy, steps_of, whole, within
from retiarii.strategies.heirs import Heir, genes_of, mixed, mutate
from retiarii.strategies.tried import Step, Unexplored

if TYPE_CHECKING:
    from retiarii.search_space import Point, SearchSpace

# Attempts at a new child that changes one decision; then two are changed, and so on.
_NEAR = 12


class _Member(NamedTuple):
    """A scored point of the population."""

    steps: tuple[Step, ...]
    score: float
    number: int


class Evolution(TryingStrategy):
    """Ageing evolution: the best of a few drawn from the newest has a child; the oldest leaves.

    It begins with ``initial`` random points. A child takes its parent's decisions and changes
    one of them; decisions that the change makes disappear are dropped, and those that appear are
    drawn. With a probability, a second parent's decisions are mixed in first. Numbers move by a
    Gaussian step. Nothing is proposed twice: when ``attempts`` children in a row are known, a
    random new point takes their place. Failed trials are never parents.

    Args:
        population: how many scored points live at once.
        initial: random points to begin with; the paper has as many as the population.
        sample: how many of them compete to be the parent.
        crossover: probability of a second parent.
        step: standard deviation of a numeric change, as a part of the (log) range.
        attempts: children drawn before a random point takes their place.
        patience: infeasible proposals in a row before it gives up.

    Raises:
        StrategyError: an option is out of its range.
    """

    name: ClassVar[str] = "evolution"

    def __init__(
        self,
        *,
        population: int = 30,
        initial: int = 15,
        sample: int = 25,
        crossover: float = 0.25,
        step: float = 0.15,
        attempts: int = 64,
        patience: int = 1000,
    ) -> None:
        super().__init__(patience=patience)
        self.population = whole("population", population, 1)
        self.initial = whole("initial", initial, 1)
        self.sample = whole("sample", sample, 1)
        self.crossover = within("crossover", crossover, 0.0, 1.0)
        self.step = within("step", step, 1e-6, 1.0)
        self.attempts = whole("attempts", attempts, 1)
        if self.sample > self.population:
            raise StrategyError(
                f"sample ({sample}) must not be larger than population ({population})",
                where="strategy option 'sample'",
                fix=f"give sample={population} or less",
            )

    def begin(self, space: SearchSpace, seed: int) -> None:
        super().begin(space, seed)
        self._living: deque[_Member] = deque()
        self._waiting: Asked[tuple[Step, ...]] = Asked()
        self._batch = 0  # how many results were outstanding at most

    def ask(self, number: int) -> Point | None:
        rng = Random(derive(self.seed, "evolution", number))
        young = number < self.initial or not self._living
        found = self.propose(
            lambda: Unexplored(self.tried, rng) if young else self._child(rng),
        )
        if found is None:
            return None
        self._waiting[number] = found.steps
        self._batch = max(self._batch, len(self._waiting))
        return found.point

    def adopt(self, number: int, point: Point) -> bool:
        super().adopt(number, point)
        self._waiting[number] = steps_of(point)
        self._batch = max(self._batch, len(self._waiting))
        return True

    def tell(self, number: int, score: float | None) -> None:
        steps = self._waiting.take(number)
        if score is not None and math.isfinite(score):
            self._living.append(_Member(steps, score, number))
        # A batch larger than the population would push out its own first half unseen.
        while len(self._living) > max(self.population, self._batch):
            self._living.popleft()

    def rescore(self, scores: Mapping[int, float]) -> None:
        known = (m._replace(score=scores.get(m.number, m.score)) for m in self._living)
        self._living = deque(known)

    def describe(self) -> dict[str, Any]:
        options = ("population", "initial", "sample", "crossover", "step", "attempts", "patience")
        return {"name": self.name} | {option: getattr(self, option) for option in options}

    def _child(self, rng: Random) -> Chooser:
        """A chooser for a child that was not proposed before."""
        for attempt in range(self.attempts):
            parent = self._parent(rng)
            if self.crossover and rng.random() < self.crossover:
                genes = mixed(parent.steps, self._parent(rng).steps, rng)
            else:
                genes = genes_of(parent.steps)
            # Where all children near by are known, they are sought further away.
            mutate(genes, parent.steps, rng, self.step, 1 + attempt // _NEAR)
            heir = Heir(genes, rng)
            if self.tried.is_new(heir):
                return heir
        return Unexplored(self.tried, rng)

    def _parent(self, rng: Random) -> _Member:
        rivals = rng.sample(range(len(self._living)), min(self.sample, len(self._living)))
        # Among equals the newest wins, which lets neutral changes spread.
        return max((self._living[i] for i in sorted(rivals, reverse=True)), key=lambda m: m.score)
