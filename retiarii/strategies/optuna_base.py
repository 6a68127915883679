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
from retiarii.strategies.base import Asked, Trace, Training, TryingStrategy, steps_of, whole
from retiarii.strategies.budgets import Budgets
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
    steps: tuple[Step, ...]


class OptunaStrategy(TryingStrategy):
    """Proposes what an Optuna sampler suggests; a new point near by where that is known.

    The sampler learns from what was proposed, not from what it suggested. Infeasible points and
    failed trials are told as trials without a value; a model that is known by other decisions is
    told with the score it has. The study is in memory, and sees the ``best`` and the ``recent``
    results alone, so that a proposal costs as much late in a search as early.

    A sampler that can do with several objectives (``several``) is told the value of each; what is
    best then are the trials that the fewest others dominate.

    Where a scheduler stops trials early, the study holds the scores at one budget: see `Budgets`.

    Args:
        best: how many of the best results the sampler sees.
        recent: how many of the newest it sees beside them.
        patience: infeasible proposals in a row before it gives up.

    Raises:
        StrategyError: an option is out of its range, or a library is not installed.
    """

    #: Libraries that the sampler needs: module -> what to install.
    NEEDS: ClassVar[dict[str, str]] = {}
    #: Whether the sampler learns only from trials that it has put into a generation.
    GENERATIONS: ClassVar[bool] = False

    def __init__(self, *, best: int, recent: int, patience: int) -> None:
        super().__init__(patience=patience)
        self.best = whole("best", best, 1)
        self.recent = whole("recent", recent, 1)
        _check_installed(self.name, {"optuna": _OPTUNA} | self.NEEDS)
        self._scheduled = False

    def prepare(self, training: Training) -> None:
        self._scheduled = training.scheduler is not None

    @property
    def listens(self) -> bool:
        return self._scheduled

    def report(self, number: int, step: int, score: float) -> bool:
        # Not looked at before the trial is told: when a report comes is a matter of chance.
        if self._budgets is not None:
            self._budgets.note(number, step, score)
        return False

    @abstractmethod
    def sampler(self, seed: int) -> BaseSampler:
        """The sampler, made anew for each search."""

    def begin(self, space: SearchSpace, seed: int) -> None:
        super().begin(space, seed)
        one = self._scheduled and self.objectives == 1
        self._budgets: Budgets | None = Budgets() if one else None
        self._study = self._new_study()
        self._asked: Asked[_Asked] = Asked()
        self._known: dict[str, tuple[float, ...]] = {}

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
        self._asked[number] = _Asked(inside, found.point.key(), found.steps)
        return found.point

    def adopt(self, number: int, point: Point) -> bool:
        super().adopt(number, point)
        steps = steps_of(point)
        inside = self._study.adopt(steps, counted=self.GENERATIONS)
        self._asked[number] = _Asked(inside, point.key(), steps)
        return True

    def tell(self, number: int, score: float | None) -> None:
        self.tell_all(number, None if score is None else (score,))

    def tell_all(self, number: int, values: tuple[float, ...] | None) -> None:
        asked = self._asked.take(number)
        finite = values if values is not None and all(map(math.isfinite, values)) else None
        if self._budgets is None:
            self._study.tell(asked.inside, finite)
        else:
            finite = self._told_at_budget(self._budgets, number, asked, finite)
        if finite is not None:
            self._known[asked.key] = finite

    def _told_at_budget(
        self, budgets: Budgets, number: int, asked: _Asked, values: tuple[float, ...] | None
    ) -> tuple[float, ...] | None:
        """Tells the study what a trial had scored at the budget; what was told, if anything."""
        moved = budgets.tell(number, asked.steps, None if values is None else values[0])
        value = budgets.value(number)
        told = None if value is None else (value,)
        if moved:
            self._study = self._new_study(budgets.level)
            for steps, known in budgets.results():
                self._study.add(steps, None if known is None else (known,))
            for waiting, other in self._asked.items():
                self._asked[waiting] = other._replace(inside=self._study.adopt(other.steps))
            self._known.clear()
        elif told is None and not budgets.failed(number):
            self._study.drop(asked.inside)
        else:
            self._study.tell(asked.inside, told)
        return told

    def _new_study(self, *level: int) -> Study:
        from retiarii.strategies.optuna_study import Study

        # numpy's seeds have 32 bits
        own = derive(self.seed, self.name, *level) % 2**32
        return Study(lambda: self.sampler(own), self.best, self.recent, self.objectives)

    def passed_over(self, found: Trace) -> None:
        if found.point is None:
            self._study.add(found.steps, None)
            if self._budgets is not None:
                self._budgets.infeasible(found.steps)
            return
        values = self._known.get(found.point.key())
        if values is not None:  # a twin of a proposal that has no result yet teaches nothing
            self._study.add(found.steps, values)

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
