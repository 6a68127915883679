"""Optuna's samplers, set up for us."""

from __future__ import annotations

import math
import warnings
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from retiarii.strategies.features import Array
from retiarii.strategies.parzen import Axes, Axis, Parzen, best_of_draws

Space = dict[str, BaseDistribution]

_GOOD = 0.1
_CANDIDATES = 24


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Optuna's words on new studies and experimental features from the user."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


class GroupedTPE(BaseSampler):
    """Multivariate TPE in groups: the decisions of a group are asked together in every trial.

    As Optuna's own with ``group=True`` and ``constant_liar=True``, but that groups are kept from
    one proposal to the next instead of being worked out from all trials, that only those groups
    are sampled which a point asks for, and that densities are estimated by `Parzen`. Decisions
    that another sampler has made for the trial are left alone. A tenth of all results are taken
    for good ones, however few of the others are still known, and at most as many as are kept.
    With several objectives Optuna's own sampler does the work.
    """

    def __init__(self, seed: int, startup: int, candidates: int, best: int) -> None:
        self._told = 0
        self._startup, self._candidates, self._best = startup, candidates, best
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed)
        with quiet():  # there is no other way to say how many results are good ones
            self._tpe = TPESampler(
                seed=seed,
                n_startup_trials=startup,
                n_ei_candidates=candidates,
                multivariate=True,
                constant_liar=True,
                gamma=lambda _: self._good(),
            )
        self._groups: list[Space] = []
        self._seen: set[frozenset[str]] = set()
        self._rows: dict[tuple[str, ...], _Rows] = {}
        self._number = -1
        self._sampled: dict[str, Any] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:  # noqa: ARG002
        return {}

    def sample_relative(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
        search_space: Space,  # noqa: ARG002
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        if trial.number != self._number:
            self._number, self._sampled = trial.number, {}
        if param_name not in self._sampled:
            group = next((group for group in self._groups if param_name in group), {})
            left = {name: kind for name, kind in group.items() if name not in trial.params}
            sample = self._together if len(study.directions) == 1 else self._tpe.sample_relative
            self._sampled |= sample(study, trial, left)
        if param_name in self._sampled:
            return self._sampled[param_name]
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._tpe.after_trial(study, trial, state, values)
        self._told += 1
        names = frozenset(trial.distributions)
        if names not in self._seen:
            self._seen.add(names)
            self._split(trial.distributions)

    def _good(self) -> int:
        """How many results count as good ones."""
        return min(math.ceil(_GOOD * self._told), self._best)

    def _together(self, study: Study, trial: FrozenTrial, group: Space) -> dict[str, Any]:
        """The decisions of a group, sampled together; none while there are too few results."""
        known = study.get_trials(deepcopy=False)
        if not group or sum(each.state.is_finished() for each in known) < self._startup:
            return {}
        sign = -1.0 if study.direction is StudyDirection.MAXIMIZE else 1.0
        scored = [each for each in known if each.state is TrialState.COMPLETE]
        scored.sort(key=lambda each: (sign * each.values[0], each.number))
        good = {each.number for each in scored[: self._good()]}
        good.discard(trial.number)
        names = tuple(group)
        rows = self._rows.get(names)
        if rows is None:
            rows = self._rows[names] = _Rows(group)
        # What has no result, and what failed, counts as bad.
        best, rest = rows.split([each for each in known if each.number != trial.number], good)
        drawn = best_of_draws(
            Parzen(rows.axes, best), Parzen(rows.axes, rest), self._candidates, self._rng
        )
        return {
            name: axis.value(place)
            for name, axis, place in zip(names, rows.axes.axes, drawn.tolist(), strict=True)
        }

    def _split(self, asked: Space) -> None:
        """Splits each group into what a trial was asked for and what not; adds what is new."""
        groups = []
        for group in self._groups:
            groups.append({name: kind for name, kind in group.items() if name in asked})
            groups.append({name: kind for name, kind in group.items() if name not in asked})
        known = {name for group in self._groups for name in group}
        groups.append({name: kind for name, kind in asked.items() if name not in known})
        self._groups = [group for group in groups if group]
        self._rows.clear()


class _Rows:
    """The decisions of one group in all trials that have them, as rows of a matrix."""

    def __init__(self, group: Space) -> None:
        self.axes = Axes([_axis(kind) for kind in group.values()])
        self._names = tuple(group)
        self._known: dict[int, Array | None] = {}

    def split(self, trials: Sequence[FrozenTrial], good: Container[int]) -> tuple[Array, Array]:
        """The rows of the good trials, and those of the others, the oldest first."""
        known = {trial.number: self._row(trial) for trial in trials}
        self._known = known  # what was forgotten is no longer there
        parts: tuple[list[Array], list[Array]] = ([], [])
        for number in sorted(known):
            row = known[number]
            if row is not None:
                parts[number not in good].append(row)
        none = np.empty((0, len(self._names)))
        best, rest = (np.stack(part) if part else none for part in parts)
        return best, rest

    def _row(self, trial: FrozenTrial) -> Array | None:
        if trial.number in self._known:
            return self._known[trial.number]
        params = trial.params
        if not all(name in params for name in self._names):
            return None
        places = zip(self.axes.axes, self._names, strict=True)
        return np.array([axis.place(params[name]) for axis, name in places], dtype=float)


def _axis(kind: BaseDistribution) -> Axis:
    if isinstance(kind, CategoricalDistribution):
        return Axis(len(kind.choices))
    assert isinstance(kind, IntDistribution | FloatDistribution)
    return Axis(0, kind.low, kind.high, kind.log, isinstance(kind, IntDistribution))


class _Until(BaseSampler):
    """One sampler for the first trials, another one for those after them."""

    def __init__(self, main: BaseSampler, rest: BaseSampler, trials: int) -> None:
        self._main, self._rest, self._trials = main, rest, trials

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        return self._now(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Space
    ) -> dict[str, Any]:
        with quiet():  # of libraries that would make it faster
            found: dict[str, Any] = self._now(trial).sample_relative(study, trial, search_space)
        return found

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._now(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._main.after_trial(study, trial, state, values)  # hands it on to the rest

    def _now(self, trial: FrozenTrial) -> BaseSampler:
        return self._main if trial.number < self._trials else self._rest


def gp(seed: int, startup: int, trials: int, best: int, *, deterministic: bool) -> BaseSampler:
    """A Gaussian process over the decisions that every point has; TPE for the rest.

    After ``trials`` proposals TPE goes on alone.
    """
    rest = GroupedTPE(seed, startup, _CANDIDATES, best)
    main = GPSampler(
        seed=seed,
        independent_sampler=rest,
        n_startup_trials=startup,
        deterministic_objective=deterministic,
        warn_independent_sampling=False,
    )
    return _Until(main, rest, trials)


def cmaes(seed: int, startup: int, population: int | None, best: int) -> BaseSampler:
    """CMA-ES over the numbers that every point has; TPE for the rest."""
    return CmaEsSampler(
        seed=seed,
        independent_sampler=GroupedTPE(seed, startup, _CANDIDATES, best),
        n_startup_trials=startup,
        popsize=population,
        warn_independent_sampling=False,
    )


def nsga2(seed: int, population: int, crossover: float, mutation: float | None) -> BaseSampler:
    """NSGA-II: crossover and mutation among the best of each generation."""
    return NSGAIISampler(
        seed=seed, population_size=population, crossover_prob=crossover, mutation_prob=mutation
    )


def nsga3(seed: int, population: int, crossover: float, mutation: float | None) -> BaseSampler:
    """NSGA-III: as NSGA-II, spread along reference points."""
    return NSGAIIISampler(
        seed=seed, population_size=population, crossover_prob=crossover, mutation_prob=mutation
    )
