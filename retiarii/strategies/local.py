"""Local search: hill climbing over neighbours, with restarts."""

from __future__ import annotations

import math
from bisect import insort_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

from retiarii.mutators.choice import Categorical, Chooser, Domain, Integer, Raw
from retiarii.seeding import derive
from retiarii.strategies.base import Asked, TryingStrategy, steps_of, whole
from retiarii.strategies.heirs import Heir, genes_of
from retiarii.strategies.sampling import from_unit, size, to_unit
from retiarii.strategies.tried import Step, Unexplored

if TYPE_CHECKING:
    from retiarii.search_space import Point, SearchSpace

# How far a number moves, in unit space: far first, so that a climb crosses the range quickly.
_STRIDES = (0.25, 0.08, 0.02, 0.005)


@dataclass(slots=True)
class _Place:
    """A scored point of the climb, and the changes of one decision that were not tried yet."""

    steps: tuple[Step, ...]
    score: float
    number: int
    moves: list[Step] | None = None


@dataclass(slots=True)
class _Climb:
    """One hill: its scored points, the best first."""

    starts: int = 0  # random points that it began with, so far
    places: list[_Place] = field(default_factory=list)


class LocalSearch(TryingStrategy):
    """Moves to the first neighbour that is better; from the top of a hill, it starts on another.

    A neighbour differs in one decision: any other option, or a number some steps up or down.
    Decisions that the change makes disappear are dropped, and those that appear are drawn. A climb
    begins at the best of ``starts`` random points; it ends when every neighbour of its best point
    is known and none is better.

    While results are outstanding (batches, several workers) and the best point's neighbours are all
    proposed, those of the next best are tried, so that nobody waits and little is lost.

    As a method for architectures: White et al., "Exploring the loss landscape in neural
    architecture search" (UAI 2021), and Den Ottelander et al. (EMO 2021).

    Args:
        starts: random points that a climb begins with.
        patience: infeasible proposals in a row before it gives up.

    Raises:
        StrategyError: an option is out of its range.
    """

    name: ClassVar[str] = "local"

    def __init__(self, *, starts: int = 10, patience: int = 1000) -> None:
        super().__init__(patience=patience)
        self.starts = whole("starts", starts, 1)

    def begin(self, space: SearchSpace, seed: int) -> None:
        super().begin(space, seed)
        self._climb = _Climb()
        self._asked: Asked[tuple[Step, ...]] = Asked()

    def ask(self, number: int) -> Point | None:
        rng = Random(derive(self.seed, "local", number))
        found = self.propose(lambda: self._next(rng))
        if found is None:
            return None
        self._asked[number] = found.steps
        return found.point

    def adopt(self, number: int, point: Point) -> bool:
        super().adopt(number, point)
        self._asked[number] = steps_of(point)
        self._climb.starts += 1
        return True

    def tell(self, number: int, score: float | None) -> None:
        steps = self._asked.take(number)
        if score is None or not math.isfinite(score):
            return
        # Among equals the newest comes first: a plateau is walked along, and not circled.
        place = _Place(steps, score, number)
        insort_left(self._climb.places, place, key=lambda known: -known.score)

    def rescore(self, scores: Mapping[int, float]) -> None:
        for place in self._climb.places:
            place.score = scores.get(place.number, place.score)
        self._climb.places.sort(key=lambda place: -place.score)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "starts": self.starts, "patience": self.patience}

    def _next(self, rng: Random) -> Chooser:
        """A chooser for a neighbour that was not proposed, or for a random point."""
        climb = self._climb
        if climb.starts < self.starts:
            climb.starts += 1
            return Unexplored(self.tried, rng)
        waiting = bool(self._asked)
        for place in climb.places if waiting else climb.places[:1]:
            if place.moves is None:
                place.moves = _moves(place.steps, rng)
            while place.moves:
                move = place.moves.pop()
                heir = Heir(genes_of(place.steps) | {move.label: move}, rng)
                if self.tried.is_new(heir):
                    return heir
        if not waiting:
            self._climb = _Climb(starts=1)
        return Unexplored(self.tried, rng)


def _moves(steps: tuple[Step, ...], rng: Random) -> list[Step]:
    """Every change of one decision, in random order; to be taken from the end."""
    moves = [
        step._replace(raw=raw)
        for step in steps
        if size(step.domain) != 1
        for raw in _neighbours(step.domain, step.raw)
    ]
    rng.shuffle(moves)
    return moves


def _neighbours(domain: Domain, raw: Raw) -> list[Raw]:
    """The other options, or the numbers some strides away."""
    if isinstance(domain, Categorical):
        return [other for other in range(domain.n) if other != raw]
    at = to_unit(domain, raw)
    ways = [at + sign * stride for stride in _STRIDES for sign in (1, -1)]
    found = [from_unit(domain, unit) for unit in ways if 0.0 <= unit <= 1.0]
    if isinstance(domain, Integer):
        found += [n for n in (int(raw) - 1, int(raw) + 1) if domain.low <= n <= domain.high]
    return [other for other in dict.fromkeys(found) if other != raw]
