"""What a strategy is, and the replaying that all of them need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from retiarii.errors import InfeasibleError, StrategyError
from retiarii.mutators.choice import Chooser, Domain, Raw
from retiarii.strategies.tried import Step, Tried

if TYPE_CHECKING:
    from retiarii.search_space import Point, SearchSpace

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Training:
    """What a strategy may know of how trials are trained.

    Attributes:
        cohort: how many trials are proposed together.
        workers: how many cohorts are under way at once.
        longest: the most epochs of a trial; ``None`` where the evaluator does not say.
        changes: the hyper-parameters that may differ where a trial goes on from another one's
            weights; ``None``: it cannot.
        scheduler: the name of what stops trials early, if anything does.
    """

    cohort: int
    workers: int = 1
    longest: int | None = None
    changes: frozenset[str] | None = None
    scheduler: str | None = None


class Strategy(ABC):
    """Proposes points of a space and learns from their scores.

    A strategy is a function of its options, the seed, and the sequence of `ask` and `tell` calls.
    A search that resumes makes a new one and repeats those calls, so that nothing else may decide
    what is proposed: no clock, no global random state.

    A subclass writes `ask`, and `tell` where it learns.
    """

    name: ClassVar[str] = "custom"
    #: Whether it takes the value of each objective (`tell_all`) in the place of one score.
    several: ClassVar[bool] = False
    #: Whether its points say which trial they go on from, and how far (`Point.stage`).
    staged: ClassVar[bool] = False

    space: SearchSpace
    seed: int
    #: How many objectives the search has; set before `begin`, where ``several`` is true.
    objectives: int = 1

    def prepare(self, training: Training) -> None:  # noqa: B027 - few need to know
        """What is known of how trials are trained; called before `begin`, if at all.

        Raises:
            StrategyError: this strategy cannot work with it.
        """

    def begin(self, space: SearchSpace, seed: int) -> None:
        """Starts a search; called once, before it asks anything.

        Raises:
            StrategyError: this strategy cannot search this space.
        """
        self.space = space
        self.seed = seed

    @abstractmethod
    def ask(self, number: int) -> Point | None:
        """The point for trial ``number`` (0, 1, ...), or ``None``: nothing new is left.

        Infeasible points are this method's own matter: it notes them and goes on.

        Raises:
            StrategyError: this strategy cannot search this space.
        """

    def tell(self, number: int, score: float | None) -> None:  # noqa: B027 - learning is optional
        """The result of trial ``number``: higher is better; ``None`` if it failed.

        Results come in order of trial number, some trials after they were asked for.
        """

    def tell_all(self, number: int, values: tuple[float, ...] | None) -> None:
        """As `tell`, with the value of each objective: more is better.

        Called in the place of `tell` where a search has several objectives and ``several`` is true.
        """
        raise NotImplementedError

    def rescore(self, scores: Mapping[int, float]) -> None:  # noqa: B027 - as `tell`
        """The scores of all trials told so far, anew; called before `ask`.

        In a search of several objectives the score of a trial says how it stands among the others,
        and changes when others are told. A strategy that keeps scores replaces them.
        """

    def adopt(self, number: int, point: Point) -> bool:  # noqa: ARG002
        """Trial ``number`` is ``point``, which this strategy did not propose.

        The user asked for it, or an earlier search had it. `ask` is not called for that number.

        Returns:
            Whether `tell` is to be called with its result, as for a point that `ask` gave.
        """
        return False

    @property
    def listens(self) -> bool:
        """Whether `report` does anything."""
        return type(self).report is not Strategy.report

    def report(self, number: int, step: int, score: float) -> bool:  # noqa: ARG002
        """A score on the way (higher is better); whether to stop the trial early."""
        return False

    def released(self) -> Collection[int]:
        """Trials, told before, that no later point will go on from; asked after each `tell`."""
        return ()

    def describe(self) -> dict[str, Any]:
        """The name and the options, JSON-able: part of a search's identity."""
        return {"name": self.name}


class Trace(NamedTuple):
    """One replay: the decisions asked, and the point, or ``None`` if they are infeasible."""

    steps: tuple[Step, ...]
    point: Point | None


def trace(space: SearchSpace, chooser: Chooser) -> Trace:
    """Replays ``space`` under ``chooser`` and notes what was asked."""
    steps: list[Step] = []

    def noting(label: str, domain: Domain) -> Raw:
        raw = chooser(label, domain)
        steps.append(Step(label, domain, raw))
        return raw

    try:
        point = space.replay(noting)
    except InfeasibleError:
        return Trace(tuple(steps), None)
    return Trace(tuple(steps), point)


def steps_of(point: Point) -> tuple[Step, ...]:
    """What was asked on the way to ``point``, and the answers."""
    return tuple(Step(made.label, made.domain, made.raw) for made in point.decisions)


class Asked(dict[int, T]):
    """What a strategy keeps of the trials that it was asked for and not told of."""

    def take(self, number: int) -> T:
        """What was kept of a trial that is told now.

        Raises:
            StrategyError: it was never asked for, or is told a second time.
        """
        if number not in self:
            raise StrategyError(
                f"trial {number} was told a result, and is not waiting for one",
                fix="tell each trial once, after it was asked for",
            )
        return self.pop(number)


class TryingStrategy(Strategy):
    """A strategy that never proposes a decision sequence twice, nor (mostly) a model twice.

    Different decisions may lead to the same model: *twins*, which share a `Point.key`. A search
    would give the second the score of the first, and learn nothing. So a twin of an earlier
    proposal is passed over, unless `TWINS` of them came in a row: then there is hardly anything
    else left.

    Args:
        patience: infeasible proposals in a row before it gives up.

    Attributes:
        tried: what was proposed so far.
        infeasible: how many proposals were infeasible so far.
        twins: how many were passed over as twins so far.
    """

    #: Twins in a row that are passed over; 0 proposes them all.
    TWINS: ClassVar[int] = 100

    def __init__(self, *, patience: int = 1000) -> None:
        self.patience = whole("patience", patience, 1)

    def begin(self, space: SearchSpace, seed: int) -> None:
        super().begin(space, seed)
        self.tried = Tried()
        self.infeasible = 0
        self.twins = 0
        self._keys: set[str] = set()

    def propose(self, chooser: Callable[[], Chooser]) -> Trace | None:
        """The first feasible and new point that a chooser leads to; ``None`` if all are used up.

        Args:
            chooser: makes the chooser of one attempt; it must lead to a new sequence.

        Raises:
            StrategyError: ``patience`` attempts in a row were infeasible.
        """
        infeasible = twins = 0
        while infeasible < self.patience:
            if self.tried.exhausted:
                return None
            found = trace(self.space, chooser())
            self.tried.add(found.steps)
            if found.point is None:
                self.infeasible += 1
                infeasible += 1
                self.passed_over(found)
            elif twins < self.TWINS and found.point.key() in self._keys:
                self.twins += 1
                twins += 1
                infeasible = 0
                self.passed_over(found)
            else:
                self.note(found.point)
                return found
        if self.tried.exhausted:
            return None
        raise barren(self.patience)

    def adopt(self, number: int, point: Point) -> bool:  # noqa: ARG002
        self.tried.add(steps_of(point))
        self.note(point)
        return False

    def passed_over(self, found: Trace) -> None:
        """Called for each proposal that was infeasible, or a twin; for those that learn of it."""

    def note(self, point: Point) -> None:
        """Remembers what ``point`` trains, so that its twins are known."""
        if self.TWINS:
            self._keys.add(point.key())


def barren(count: int) -> StrategyError:
    """The error for ``count`` infeasible proposals in a row."""
    return StrategyError(
        f"{count} proposals in a row were infeasible, and the space is not used up",
        fix="look at why with `retiarii inspect space.py --seed N`; ask for fewer choices that "
        "exclude each other, or give the strategy more patience=",
    )


def whole(name: str, value: int, least: int) -> int:
    """``value`` if it is a whole number of at least ``least``.

    Raises:
        StrategyError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise StrategyError(
            f"{name} must be a whole number of at least {least}, not {value!r}",
            where=f"strategy option {name!r}",
            fix=f"give {name}={least} or more",
        )
    return value


def within(name: str, value: float, low: float, high: float) -> float:
    """``value`` if it is a number from ``low`` to ``high``.

    Raises:
        StrategyError: it is not.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        raise StrategyError(
            f"{name} must be a number from {low:g} to {high:g}, not {value!r}",
            where=f"strategy option {name!r}",
            fix=f"give {name}= between {low:g} and {high:g}",
        )
    return float(value)
