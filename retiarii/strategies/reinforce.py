"""Search by a controller that is trained with policy gradients (after ENAS)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from retiarii.mutators.choice import Domain, Raw
from retiarii.seeding import derive
from retiarii.strategies.base import Asked, TryingStrategy, steps_of, whole, within
from retiarii.strategies.controller import Controller, Path, answer_of, answers, drawn, raw_of
from retiarii.strategies.sampling import sample_open, size
from retiarii.strategies.tried import Cursor, Step, Tried

if TYPE_CHECKING:
    from retiarii.search_space import Point, SearchSpace

# Draws of a number from the controller before one that is new is drawn as the space says.
_DRAWS = 8
# A result this many deviations off the baseline counts as one that is.
_CLIP = 2.0


class _Elite(NamedTuple):
    score: float
    number: int
    path: Path


class Reinforce(TryingStrategy):
    """A controller draws decision after decision, and is rewarded for what scores well.

    The reward is how far a score lies above a moving baseline, in moving mean deviations, so that
    its unit is of no matter. An entropy bonus keeps the controller from settling early. With every
    result, the best ``elites`` so far are made likelier too, as in Abolafia et al., "Neural
    program synthesis with priority queue training" (2018): a search has hundreds of trials, where
    a policy gradient alone would need thousands. What was proposed is left out of the draw.

    After Zoph and Le (ICLR 2017), and Pham et al., "ENAS" (ICML 2018); the controller is a softmax
    over earlier answers in place of an LSTM: see `Controller`. It is a function of the results, so
    that a resumed search rebuilds it by being told them again.

    Args:
        rate: how far one result moves the controller.
        entropy: weight of the entropy bonus, beside ``rate``.
        baseline: how much of the moving baseline each result keeps.
        elites: how many of the best are learnt again; 0 is the policy gradient alone.
        patience: infeasible proposals in a row before it gives up.

    Raises:
        StrategyError: an option is out of its range.
    """

    name: ClassVar[str] = "reinforce"

    def __init__(
        self,
        *,
        rate: float = 0.1,
        entropy: float = 0.1,
        baseline: float = 0.9,
        elites: int = 10,
        patience: int = 1000,
    ) -> None:
        super().__init__(patience=patience)
        self.rate = within("rate", rate, 1e-6, 10.0)
        self.entropy = within("entropy", entropy, 0.0, 10.0)
        self.baseline = within("baseline", baseline, 0.0, 0.9999)
        self.elites = whole("elites", elites, 0)

    def begin(self, space: SearchSpace, seed: int) -> None:
        super().begin(space, seed)
        self._controller = Controller()
        self._asked: Asked[tuple[Step, ...]] = Asked()
        self._best: list[_Elite] = []
        self._mean = self._spread = self._weight = 0.0

    def ask(self, number: int) -> Point | None:
        rng = Random(derive(self.seed, "reinforce", number))
        found = self.propose(lambda: _Draw(self._controller, self.tried, rng))
        if found is None:
            return None
        self._asked[number] = found.steps
        return found.point

    def adopt(self, number: int, point: Point) -> bool:
        super().adopt(number, point)
        self._asked[number] = steps_of(point)
        return True

    def tell(self, number: int, score: float | None) -> None:
        steps = self._asked.take(number)
        if score is None or not math.isfinite(score):
            return
        path = self._controller.path(steps)
        reward = self._reward(score)
        self._controller.learn(path, self.rate * reward, self.rate * self.entropy)
        self._best.append(_Elite(score, number, path))
        self._best.sort(key=lambda elite: (-elite.score, elite.number))
        del self._best[self.elites :]
        for elite in self._best:
            share = self.rate / len(self._best)
            self._controller.learn(elite.path, share, 0.0)

    def rescore(self, scores: Mapping[int, float]) -> None:
        self._best = [e._replace(score=scores.get(e.number, e.score)) for e in self._best]
        self._best.sort(key=lambda elite: (-elite.score, elite.number))

    def describe(self) -> dict[str, Any]:
        options = ("rate", "entropy", "baseline", "elites", "patience")
        return {"name": self.name} | {option: getattr(self, option) for option in options}

    def _reward(self, score: float) -> float:
        """How far a score is above the baseline; then the baseline moves."""
        spread, beyond = self._spread, score - self._mean if self._weight else 0.0
        self._weight = self.baseline * self._weight + 1.0
        self._mean = self._mean + beyond / self._weight if self._weight > 1.0 else score
        # Absolute rather than squared, so that one model that collapsed does not hush the rest.
        self._spread += (abs(beyond) - spread) / self._weight
        above = beyond / spread if 0.0 < spread < math.inf else 0.0
        return max(-_CLIP, min(_CLIP, above))


class _Draw:
    """A chooser that asks a controller, and leaves out what leads to nothing new."""

    __slots__ = ("_cursor", "_rng", "_walk")

    def __init__(self, controller: Controller, tried: Tried, rng: Random) -> None:
        self._walk = controller.walk()
        self._cursor = Cursor(tried)
        self._rng = rng

    def __call__(self, label: str, domain: Domain) -> Raw:
        closed = self._cursor.closed(label, domain)
        if size(domain) == 1:
            raw = sample_open(domain, self._rng, closed)
        else:
            likely = self._walk.likely(label, domain)
            if closed and answers(domain) == size(domain):
                for taken in closed:
                    likely[answer_of(domain, taken)] = 0.0
            for _ in range(_DRAWS):
                raw = raw_of(domain, drawn(likely, self._rng), self._rng)
                if raw not in closed:
                    break
            else:
                raw = sample_open(domain, self._rng, closed)
            self._walk.took(label, domain, raw)
        self._cursor.advance(raw)
        return raw
