"""Search by a model of the scores, over decisions and graphs (after BANANAS)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from retiarii.seeding import derive
from retiarii.strategies.base import Asked, Trace, TryingStrategy, steps_of, trace, whole
from retiarii.strategies.features import (
    Array,
    Columns,
    GraphFeatures,
    decision_features,
    stacked,
)
from retiarii.strategies.heirs import Heir, genes_of, mixed, mutate
from retiarii.strategies.surrogate import Surrogate
from retiarii.strategies.tried import Step, Unexplored

if TYPE_CHECKING:
    from retiarii.search_space import Point, SearchSpace

# How many decisions of a parent are changed, as often as they stand here; 0 is half of them.
_CHANGES = (1, 1, 1, 1, 1, 1, 2, 2, 3, 0)
_PARENTS = 8
_CROSSED = 0.2
_STEPS = (0.3, 0.1, 0.03, 0.01)
# Candidates that were replayed and not proposed, compared again with the next.
_KEPT = 160


class _Seen(NamedTuple):
    """A point with its features, one row a block."""

    trace: Trace
    rows: tuple[Array, ...]


class _Scored(NamedTuple):
    steps: tuple[Step, ...]
    rows: tuple[Array, ...]
    score: float
    number: int


class Predictor(TryingStrategy):
    """Proposes what an ensemble of Gaussian processes, fitted to all scores, thinks may be best.

    After ``initial`` random points, each proposal draws ``pool`` children of the best points so
    far and scores them by their decisions alone. The ``looks`` most promising are replayed; from
    then on the ensemble sees their graphs too: which operations occur in which surroundings,
    depth, parameters and FLOPs (`graph_features`). What scores best in an independent Thompson
    draw is proposed; the others are kept, and compared again the next time. So that proposals of
    one batch differ as much as the ensemble is unsure.

    After White, Neiswanger and Savani, "BANANAS" (AAAI 2021): ensemble, candidates by mutation and
    independent Thompson sampling as there; Gaussian processes for the neural networks.

    Args:
        initial: random points to begin with.
        pool: children that are compared by their decisions, a proposal.
        looks: how many of them are replayed, and compared by their graphs.
        memory: how many scores it learns from at most: the best, and a sample of the rest.
        patience: infeasible proposals in a row before it gives up.

    Raises:
        StrategyError: an option is out of its range.
    """

    name: ClassVar[str] = "predictor"

    def __init__(
        self,
        *,
        initial: int = 10,
        pool: int = 64,
        looks: int = 6,
        memory: int = 200,
        patience: int = 1000,
    ) -> None:
        super().__init__(patience=patience)
        self.initial = whole("initial", initial, 2)
        self.pool = whole("pool", pool, 1)
        self.looks = whole("looks", looks, 1)
        self.memory = whole("memory", memory, 2)
        self._graphs = GraphFeatures()

    def begin(self, space: SearchSpace, seed: int) -> None:
        super().begin(space, seed)
        self._columns = (Columns(), Columns())
        self._scored: list[_Scored] = []
        self._asked: Asked[_Seen] = Asked()
        self._kept: list[_Seen] = []
        self._shelf: list[tuple[Step, ...]] = []  # what was replayed, and no longer compared
        self._coarse, self._fine = Surrogate(), Surrogate()
        self._fitted = 0

    def ask(self, number: int) -> Point | None:
        rng = Random(derive(self.seed, "predictor", number))
        found = self._best(rng) if len(self._scored) >= self.initial else None
        if found is None:
            drawn = self.propose(lambda: Unexplored(self.tried, rng)) or self._shelved(rng)
            if drawn is None:
                return None
            found = self._seen(drawn)
        self._asked[number] = found
        return found.trace.point

    def adopt(self, number: int, point: Point) -> bool:
        super().adopt(number, point)
        self._asked[number] = self._seen(Trace(steps_of(point), point))
        return True

    def tell(self, number: int, score: float | None) -> None:
        seen = self._asked.take(number)
        if score is not None and math.isfinite(score):
            self._scored.append(_Scored(seen.trace.steps, seen.rows, score, number))

    def rescore(self, scores: Mapping[int, float]) -> None:
        self._scored = [s._replace(score=scores.get(s.number, s.score)) for s in self._scored]
        self._fitted = 0

    def describe(self) -> dict[str, Any]:
        options = ("initial", "pool", "looks", "memory", "patience")
        return {"name": self.name} | {option: getattr(self, option) for option in options}

    # -- inside

    def _best(self, rng: Random) -> _Seen | None:
        """The most promising point that was replayed; ``None`` where there is none."""
        draws = np.random.default_rng(rng.getrandbits(64))
        self._fit()
        self._look(rng, draws)
        if not self._kept:
            return None
        drawn = self._fine.draw(_blocks([seen.rows for seen in self._kept]), draws)
        order = np.argsort(-drawn, kind="stable")
        found = self._kept[int(order[0])]
        self._shelf += [self._kept[at].trace.steps for at in order[_KEPT + 1 :]]
        self._kept = [self._kept[at] for at in order[1 : _KEPT + 1]]
        return found

    def _shelved(self, rng: Random) -> Trace | None:
        """When all else was proposed: what was looked at once, and left."""
        if not self._shelf:
            return None
        return trace(self.space, Heir(genes_of(self._shelf.pop()), rng))

    def _fit(self) -> None:
        if self._fitted == len(self._scored):
            return
        self._fitted = len(self._scored)
        learnt = self._learnt()
        scores = np.array([scored.score for scored in learnt])
        blocks = _blocks([scored.rows for scored in learnt])
        self._fine.fit(blocks, scores)
        if len(blocks) > 1:
            self._coarse.fit(blocks[:1], scores)
        else:
            self._coarse = self._fine

    def _learnt(self) -> list[_Scored]:
        """All scores, or the best half and of the rest every so many."""
        if len(self._scored) <= self.memory:
            return self._scored
        ranked = sorted(self._scored, key=lambda scored: -scored.score)
        best, rest = ranked[: self.memory // 2], ranked[self.memory // 2 :]
        spread = np.linspace(0, len(rest) - 1, self.memory - len(best))
        return best + [rest[int(at)] for at in spread]

    def _look(self, rng: Random, draws: np.random.Generator) -> None:
        """Replays the most promising of many children, and keeps them."""
        heirs = self._children(rng)
        if not heirs:
            return
        rows = [self._columns[0].row(decision_features(genes.values())) for _, genes in heirs]
        drawn = self._coarse.draw([stacked(rows)], draws)
        looks = self.looks
        for at in np.argsort(-drawn, kind="stable"):
            chooser, _ = heirs[at]
            if not self.tried.is_new(chooser):
                continue  # what appeared in it was drawn as in a child before
            found = self.examine(chooser)
            if found is not None:
                self._kept.append(self._seen(found))
            looks -= 1
            if not looks:
                return

    def examine(self, chooser: Heir) -> Trace | None:
        """Replays a new sequence; ``None`` where it is infeasible, or a twin."""
        found = trace(self.space, chooser)
        self.tried.add(found.steps)
        if found.point is None:
            self.infeasible += 1
        elif found.point.key() in self._keys:
            self.twins += 1
        else:
            self.note(found.point)
            return found
        return None

    def _children(self, rng: Random) -> list[tuple[Heir, dict[str, Step]]]:
        """New children of the best points, with what they inherit."""
        parents = sorted(self._scored, key=lambda scored: -scored.score)
        heirs: dict[Any, tuple[Heir, dict[str, Step]]] = {}
        for _ in range(self.pool):
            parent = parents[min(int(rng.expovariate(1.0 / _PARENTS)), len(parents) - 1)]
            if rng.random() < _CROSSED:
                genes = mixed(parent.steps, rng.choice(parents[: 4 * _PARENTS]).steps, rng)
            else:
                genes = genes_of(parent.steps)
            changes = rng.choice(_CHANGES) or max(1, len(genes) // 2)
            mutate(genes, parent.steps, rng, rng.choice(_STEPS), changes)
            heir = Heir(genes, rng)
            if self.tried.is_new(heir):
                heirs.setdefault(tuple(step.raw for step in genes.values()), (heir, genes))
        return list(heirs.values())

    def _seen(self, found: Trace) -> _Seen:
        assert found.point is not None
        rows = [self._columns[0].row(decision_features(found.steps))]
        graph = self._graphs.of(found.point)
        if graph:
            rows.append(self._columns[1].row(graph))
        return _Seen(found, tuple(rows))


def _blocks(rows: list[tuple[Array, ...]]) -> list[Array]:
    """Rows of many points as one matrix a block."""
    return [stacked(block) for block in zip(*rows, strict=True)]
