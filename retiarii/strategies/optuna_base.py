"""The adapter: an Optuna sampler as a strategy. Optuna itself is imported when a search begins."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from retiarii.errors import StrategyError
from retiarii.mutators.choice import Chooser, Domain, Raw
from retiarii.seeding import derive
from retiarii.strategies.base import Trace, TryingStrategy, whole
from retiarii.strategies.heirs import genes_of, mutate
from retiarii.strategies.tried import Step, Unexplored

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from retiarii.search_space import Point, SearchSpace
    from retiarii.strategies.optuna_study import Study, Suggested

_OPTUNA = "optuna>=5,<6"
# A numeric change that turns a known point into a new one near by, in unit space.
_SCALE = 0.1
# Neighbours of one suggestion that are tried before a random point takes its place.
_NEIGHBOURS = 48
_FARTHER = 12  # after so many, one decision more is changed
# Suggestions asked for one trial: more than one only where they were infeasible, or twins.
_ASKS = 4


class _Asked(NamedTuple):
    """A proposal whose result is not known."""

    inside: int  # its number in the study
    key: str


class OptunaStrategy(TryingStrategy):
    """Proposes what an Optuna sampler suggests; a new point near by where that is known.

    The sampler learns from what was proposed, not from what it suggested. Infeasible points and
    failed trials are told as trials without a value; a model that is known by other decisions is
    told with the score it has. The study is in memory, and sees the ``best`` and the ``recent``
    results alone, so that a proposal costs as much late in a search as early.

    A search has one score for now: `_values` is where several would come in.

    Args:
        best: how many of the best results the sampler sees.
        recent: how many of the newest it sees beside them.
        patience: infeasible proposals in a row before it gives up.

    Raises:
        StrategyError: an option is out of its range, or a library is not installed.
    """

    #: Libraries that the sampler needs: module -> what to install.
    NEEDS: ClassVar[dict[str, str]] = {}

    def __init__(self, *, best: int, recent: int, patience: int) -> None:
        super().__init__(patience=patience)
        self.best = whole("best", best, 1)
        self.recent = whole("recent", recent, 1)
        _check_installed(self.name, {"optuna": _OPTUNA} | self.NEEDS)

    @abstractmethod
    def sampler(self, seed: int) -> BaseSampler:
        """The sampler, made anew for each search."""

    def begin(self, space: SearchSpace, seed: int) -> None:
        from retiarii.strategies.optuna_study import Study

        super().begin(space, seed)
        # numpy's seeds have 32 bits
        own = derive(seed, self.name) % 2**32
        self._study: Study = Study(lambda: self.sampler(own), self.best, self.recent)
        self._asked: dict[int, _Asked] = {}
        self._scores: dict[str, float] = {}

    def ask(self, number: int) -> Point | None:
        rng = Random(derive(self.seed, self.name, number))
        attempts = self._attempts(rng)
        inside = self._study.NONE

        def attempt() -> Chooser:
            nonlocal inside
            inside, chooser = next(attempts)
            return chooser

        try:
            found = self.propose(attempt)
        except StrategyError:
            self._study.drop(inside)
            raise
        if found is None or found.point is None:
            self._study.drop(inside)
            return None
        self._study.decide(inside, found.steps)
        self._asked[number] = _Asked(inside, found.point.key())
        return found.point

    def tell(self, number: int, score: float | None) -> None:
        if number not in self._asked:
            raise StrategyError(
                f"trial {number} was told a result, and is not waiting for one",
                fix="tell each trial once, after it was asked for",
            )
        inside, key = self._asked.pop(number)
        self._study.tell(inside, _values(score))
        if score is not None and math.isfinite(score):
            self._scores[key] = score

    def passed_over(self, found: Trace) -> None:
        if found.point is None:
            self._study.add(found.steps, None)
            return
        score = self._scores.get(found.point.key())
        if score is not None:  # a twin of a proposal that has no result yet teaches nothing
            self._study.add(found.steps, _values(score))

    def describe(self) -> dict[str, Any]:
        return {"name": self.name} | {option: getattr(self, option) for option in self._options()}

    def _options(self) -> tuple[str, ...]:
        return ("best", "recent", "patience")

    def _attempts(self, rng: Random) -> Iterator[tuple[int, Chooser]]:
        """Choosers for one trial, each new when it is taken, with the trial's number inside.

        What Optuna suggests; where that is known, a point near by. Another suggestion follows
        where that was infeasible or a twin, a few times; then random points. It never ends.
        """
        suggested = self._study.ask()
        for ask in range(_ASKS):
            if ask:
                self._study.drop(suggested.number)
                suggested = self._study.ask()
            yield suggested.number, self._near(suggested, rng)
        while True:
            yield suggested.number, Unexplored(self.tried, rng)

    def _near(self, suggested: Suggested, rng: Random) -> Chooser:
        """What is suggested, or a point that differs in few decisions, and is new."""
        asked = _Noting(suggested)
        if self.tried.is_new(asked):
            return suggested
        steps = tuple(asked.steps)
        for attempt in range(_NEIGHBOURS):
            genes = genes_of(steps)
            mutate(genes, steps, rng, _SCALE, 1 + attempt // _FARTHER)
            changed = _Changed(suggested, genes)
            if self.tried.is_new(changed):
                return changed
        return Unexplored(self.tried, rng)


class _Noting:
    """A chooser that remembers what it was asked."""

    __slots__ = ("_chooser", "steps")

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser
        self.steps: list[Step] = []

    def __call__(self, label: str, domain: Domain) -> Raw:
        raw = self._chooser(label, domain)
        self.steps.append(Step(label, domain, raw))
        return raw


class _Changed:
    """A chooser that answers as another one, but for the decisions that were changed."""

    __slots__ = ("_chooser", "_genes")

    def __init__(self, chooser: Chooser, genes: Mapping[str, Step]) -> None:
        self._chooser, self._genes = chooser, genes

    def __call__(self, label: str, domain: Domain) -> Raw:
        gene = self._genes.get(label)
        if gene is not None and gene.domain == domain:
            return gene.raw
        return self._chooser(label, domain)


def _values(score: float | None) -> tuple[float, ...] | None:
    """The value of each objective; ``None`` for a trial that failed."""
    return (score,) if score is not None and math.isfinite(score) else None


def _check_installed(name: str, needs: Mapping[str, str]) -> None:
    # Looked for, not imported: that takes a second, and a search begins later.
    missing = [package for module, package in needs.items() if find_spec(module) is None]
    if missing:
        wanted = " ".join(f"'{package}'" for package in missing)
        raise StrategyError(
            f"strategy {name!r} needs {' and '.join(missing)}, and it is not installed",
            where=f"strategy {name!r}",
            fix=f"pip install {wanted}; or use a strategy of ours: evolution, local, random",
        )
