"""What a user wants of objectives, limits and proxies, and what a search makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retiarii.objectives.names import (
    Limit,
    Objective,
    Sifting,
    make_limits,
    make_objectives,
    make_sifting,
)
from retiarii.runtime.place import DATABASE

if TYPE_CHECKING:
    from retiarii.objectives.aims import Aims
    from retiarii.objectives.limits import Limits
    from retiarii.objectives.measures import Measures
    from retiarii.runtime.store import Store
    from retiarii.search_space import SearchSpace
    from retiarii.strategies.base import Strategy
    from retiarii.training.evaluator import Evaluator

# How many times as many points as are trained are looked at.
_PREFILTER = 4
_WARM_START = 8

#: Where the store keeps the objectives: pairs of a name and a direction.
OBJECTIVES = "objectives"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user says, read and checked.

    Attributes:
        objectives: in order; none: the evaluator's metric alone counts.
        limits: that models must keep to.
        prefilter: how all proposals are sifted.
        warm_start: how the first ones are.
    """

    objectives: tuple[Objective, ...] = ()
    limits: tuple[Limit, ...] = ()
    prefilter: Sifting | None = None
    warm_start: Sifting | None = None

    @staticmethod
    def of(objectives: Any, constraints: Any, prefilter: Any, warm_start: Any) -> Wanted:
        """What the arguments of `Experiment` say.

        Raises:
            ObjectiveError: one of them is not written right.
        """
        return Wanted(
            make_objectives(objectives),
            make_limits(constraints),
            make_sifting(prefilter, "prefilter", _PREFILTER),
            make_sifting(warm_start, "warm_start", _WARM_START),
        )


class Aimed:
    """The same for one run of a search.

    Args:
        wanted: what is wanted.
        evaluator: scores the trials.
        modelled: whether there are models.
        cohort: how many are proposed together.
        seed: the search's.

    Raises:
        ObjectiveError: something that cannot be measured, or that no trial will report.
    """

    def __init__(
        self, wanted: Wanted, evaluator: Evaluator, *, modelled: bool, cohort: int, seed: int
    ) -> None:
        self._wanted = wanted
        self._cohort = cohort
        self._seed = seed
        self._measures: Measures | None = None
        self.aims: Aims | None = None
        self.limits: Limits | None = None
        self._described: dict[str, Any] = {}
        if wanted == Wanted():
            return
        from retiarii.objectives.aims import Aims, check_known, described
        from retiarii.objectives.limits import Limits
        from retiarii.objectives.measures import Measures

        sifted = [s for s in (wanted.prefilter, wanted.warm_start) if s is not None]
        check_known(wanted.objectives, wanted.limits, sifted, evaluator, modelled=modelled)
        self._measures = Measures(evaluator, seed)
        self._described = described(wanted.objectives, wanted.limits, self._measures)
        if wanted.objectives:
            self.aims = Aims(wanted.objectives, self._measures, evaluator, modelled=modelled)
        if wanted.limits:
            self.limits = Limits(wanted.limits, self._measures)

    def strategy(self, inner: Strategy) -> Strategy:
        """The strategy, its proposals sifted where that is wanted."""
        found = inner
        if self._measures is not None and (self._wanted.prefilter or self._wanted.warm_start):
            from retiarii.objectives.sieve import Sieve

            rules = self._wanted.prefilter, self._wanted.warm_start
            found = Sieve(inner, *rules, self._cohort, self._measures)
        if found.several:  # set anew: an instance may have searched something else before
            found.objectives = max(1, len(self._wanted.objectives))
        return found

    def probe(self, space: SearchSpace, directory: Path | None) -> None:
        """Makes sure that a new search has models to find.

        Raises:
            InfeasibleError: none of many samples keeps to the limits.
        """
        begun = directory is not None and (directory / DATABASE).is_file()
        if self.limits is not None and not begun:
            self.limits.probe(space, self._seed)

    def attach(self, store: Store) -> None:
        """What is measured is kept in ``store`` from now on."""
        if self._measures is not None:
            self._measures.attach(store)

    def describe(self) -> dict[str, Any]:
        """For the identity of a search: nothing at all where nothing is wanted."""
        return self._described

    def facts(self) -> Mapping[str, Any]:
        """What the store says of the search."""
        wanted = self._wanted.objectives
        return {OBJECTIVES: [[each.name, each.maximize] for each in wanted]} if wanted else {}
