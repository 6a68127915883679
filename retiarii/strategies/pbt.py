"""Population based training: hyper-parameters that change while models train."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

from retiarii.errors import StrategyError
from retiarii.mutators.choice import Categorical, Chooser, Domain, Raw
from retiarii.seeding import derive
from retiarii.strategies.base import Asked, Trace, Training, TryingStrategy, trace, whole, within
from retiarii.strategies.heirs import Heir, genes_of
from retiarii.strategies.sampling import first, last, sample, size
from retiarii.strategies.tried import Step, Unexplored
from retiarii.training.stage import Stage

if TYPE_CHECKING:
    from retiarii.search_space import Point, SearchSpace

_POPULATION = 16
# By default a population trains in so many intervals, so that 64 trials are one of 16 members.
_INTERVALS = 4
_FACTORS = (0.8, 1.2)
# Points drawn for one that is new, before a known one is taken.
_DRAWS = 50


class PBT(TryingStrategy):
    """Population based training (Jaderberg et al., 2017).

    A population of random points trains for ``interval`` epochs. Then the members with the worst
    scores *exploit*: each goes on from the weights of one of the best, drawn at random, with all
    of that one's decisions, and *explores*: of the hyper-parameters that may change, each is
    multiplied by 0.8 or 1.2 (an option gives way to the one beside it), or drawn anew. All others
    go on as they are. After the last epoch another population begins.

    Every interval of a member is a trial of its own, whose `TrialResult.parent` is the trial that
    it went on from: a search of T trials trains T intervals. What a trial has scored is the score
    at the end of its interval, and only those of the last one are complete.

    Which hyper-parameters may change, the evaluator says: for `Supervised` the numbers of the
    optimizer, and ``grad_clip``. Decisions on the model stay with its weights.

    Args:
        population: members; ``None`` takes the trials that are under way at once, or 16.
        interval: epochs between two exchanges; ``None`` takes a quarter of a trial's.
        part: of the population, how much exploits (the worst), and is exploited (the best).
        resample: the probability that a hyper-parameter is drawn anew.
        patience: infeasible proposals in a row before it gives up.

    Raises:
        StrategyError: an option is out of its range.
    """

    name: ClassVar[str] = "pbt"
    staged: ClassVar[bool] = True

    def __init__(
        self,
        *,
        population: int | None = None,
        interval: int | None = None,
        part: float = 0.2,
        resample: float = 0.25,
        patience: int = 1000,
    ) -> None:
        super().__init__(patience=patience)
        self.population = None if population is None else whole("population", population, 2)
        self.interval = None if interval is None else whole("interval", interval, 1)
        self.part = within("part", part, 0.0, 0.5)
        self.resample = within("resample", resample, 0.0, 1.0)
        self._training: Training | None = None

    def prepare(self, training: Training) -> None:
        _check(training)
        under_way = training.cohort * training.workers
        members = self.population or max(under_way, _POPULATION)
        if members < under_way:
            raise StrategyError(
                f"a population of {members} is smaller than the {under_way} trials that are under "
                "way at once, so that a member would go on before its own result is known",
                where="strategy pbt",
                fix=f"give population={under_way} or more, or a smaller cohort",
            )
        self._training = training
        self._members = members

    def begin(self, space: SearchSpace, seed: int) -> None:
        super().begin(space, seed)
        if self._training is None:
            raise StrategyError(
                "pbt must be told how trials are trained, and was not",
                where="PBT.begin",
                fix="call prepare() before it, as Experiment does",
            )
        assert self._training.longest is not None
        self._longest = self._training.longest
        self._interval = min(self.interval or -(-self._longest // _INTERVALS), self._longest)
        self._intervals = -(-self._longest // self._interval)
        self._asked: Asked[tuple[Step, ...]] = Asked()
        self._steps: dict[int, tuple[Step, ...]] = {}
        self._scores: dict[int, float] = {}
        self._told = 0

    def ask(self, number: int) -> Point | None:
        rng = Random(derive(self.seed, "pbt", number))
        generation = number // self._members % self._intervals
        until = min((generation + 1) * self._interval, self._longest)
        parent, copied = self._parent(number, rng) if generation else (None, False)
        found = None
        for _ in range(_DRAWS):
            found = self._fresh(rng) if parent is None else self._heir(parent, copied, rng)
            if found is None or found.point is None:
                return None
            point = replace(found.point, stage=Stage(parent, until))
            if parent is None or not copied or point.key() not in self._keys:
                break  # else another one has gone on from there in the same way
        assert found is not None
        self.note(point)
        self._steps[number] = self._asked[number] = found.steps
        return point

    def adopt(self, number: int, point: Point) -> bool:
        """Members of a population have their places by number: nobody else fits in.

        Raises:
            StrategyError: always.
        """
        del point
        raise StrategyError(
            f"{self.name} trains a population, and trial {number} is none of its members",
            where=f"strategy {self.name}",
            fix="leave --enqueue and --continue-from out, or use another strategy",
        )

    def tell(self, number: int, score: float | None) -> None:
        self._asked.take(number)
        if score is not None and math.isfinite(score):
            self._scores[number] = score
        self._told = number + 1

    def rescore(self, scores: Mapping[int, float]) -> None:
        self._scores = {number: scores.get(number, old) for number, old in self._scores.items()}

    def released(self) -> range:
        """Nothing goes on from trials more than two generations back.

        A third one is for trials that share the weights of one that is up to a generation older.
        """
        ended = self._told - 3 * self._members
        for number in [n for n in self._steps if n < ended]:
            del self._steps[number]
            self._scores.pop(number, None)
        return range(max(ended - 1, 0), max(ended, 0))

    def describe(self) -> dict[str, Any]:
        options = ("population", "interval", "part", "resample", "patience")
        return {"name": self.name} | {option: getattr(self, option) for option in options}

    # -- inside

    def _parent(self, number: int, rng: Random) -> tuple[int | None, bool]:
        """The trial to go on from, and whether it is another member's; none where all failed."""
        start = number // self._members * self._members - self._members
        peers = [n for n in range(start, start + self._members) if n in self._scores]
        if not peers:
            return None, False
        peers.sort(key=lambda n: (-self._scores[n], n))
        many = min(math.ceil(self.part * self._members), len(peers) // 2)
        own = number - self._members
        if own in self._scores and own not in peers[len(peers) - many :]:
            return own, False
        return rng.choice(peers[: max(many, 1)]), True

    def _heir(self, parent: int, copied: bool, rng: Random) -> Trace:
        """The parent's decisions; where it is copied, with some of them changed."""
        assert self._training is not None
        steps = self._steps[parent]
        genes = genes_of(steps)
        for step in steps if copied else ():
            if step.label in (self._training.changes or ()) and size(step.domain) != 1:
                anew = rng.random() < self.resample
                raw = sample(step.domain, rng) if anew else perturbed(step.domain, step.raw, rng)
                genes[step.label] = step._replace(raw=raw)
        return trace(self.space, Heir(genes, rng))

    def _fresh(self, rng: Random) -> Trace | None:
        """A random point; one that is known where the space has not so many."""
        found = self.propose(lambda: Unexplored(self.tried, rng))
        for _ in range(_DRAWS if found is None else 0):
            chooser: Chooser = lambda _, domain: sample(domain, rng)  # noqa: E731
            found = trace(self.space, chooser)
            if found.point is not None:
                break
        return found


def perturbed(domain: Domain, raw: Raw, rng: Random) -> Raw:
    """A value near ``raw``: 0.8 or 1.2 times it, at least one whole number apart; the option
    before or after it."""
    if isinstance(domain, Categorical):
        moved: Raw = int(raw) + rng.choice((-1, 1))
        return moved if 0 <= moved < domain.n else 2 * int(raw) - moved
    factor = rng.choice(_FACTORS)
    moved = raw * factor
    if isinstance(raw, int):
        moved = round(moved) if round(moved) != raw else raw + (1 if factor > 1.0 else -1)
    return min(max(moved, first(domain)), last(domain))


def _check(training: Training) -> None:
    """Raises StrategyError where nothing can go on from another trial's weights."""
    problem = fix = ""
    if training.scheduler is not None:
        problem = f"pbt says itself how far trials train, and so does {training.scheduler}"
        fix = "leave the scheduler out"
    elif training.changes is None:
        problem = "pbt goes on from other trials' weights, and this evaluator keeps none"
        fix = (
            "use rt.Supervised with checkpoint=True and a fixed number of epochs, or an Evaluator "
            "of your own with `changes`; for functions use another strategy"
        )
    elif not training.changes:
        problem = "pbt has no hyper-parameter that may change between two epochs"
        fix = "make a choice of one: optimizer=rt.SGD(lr=rt.loguniform(1e-3, 1e-1))"
    elif training.longest is None or training.longest < 2:
        problem = f"pbt needs trials of two epochs or more, and these have {training.longest}"
        fix = "give the evaluator more epochs, or use another strategy"
    if problem:
        raise StrategyError(problem, where="strategy pbt", fix=fix)
