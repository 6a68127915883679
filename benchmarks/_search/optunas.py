"""Optuna's own samplers, as its users would use them: to compare with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler

from retiarii.mutators.choice import Categorical, Domain, Integer, Raw
from retiarii.strategies.base import Strategy, trace

if TYPE_CHECKING:
    from retiarii.search_space import Point, SearchSpace


class PlainOptuna(Strategy):
    """A study that is asked and told: it may propose a point twice, and knows no twins.

    Args:
        sampler: makes the sampler of a seed.
    """

    name: ClassVar[str] = "optuna"

    def __init__(self, sampler: Callable[[int], BaseSampler]) -> None:
        self._sampler = sampler
        optuna.logging.set_verbosity(optuna.logging.ERROR)

    def begin(self, space: SearchSpace, seed: int) -> None:
        super().begin(space, seed)
        with warnings.catch_warnings():  # that some samplers are experimental
            warnings.simplefilter("ignore")
            self._study = optuna.create_study(
                direction="maximize", sampler=self._sampler(seed % 2**32)
            )
        self._trials: dict[int, optuna.Trial] = {}

    def ask(self, number: int) -> Point | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = self._trials[number] = self._study.ask()
            return trace(self.space, _suggested(trial)).point

    def tell(self, number: int, score: float | None) -> None:
        self._study.tell(self._trials.pop(number), score)


def _suggested(trial: optuna.Trial) -> Callable[[str, Domain], Raw]:
    def chooser(label: str, domain: Domain) -> Raw:
        if isinstance(domain, Categorical):
            return int(trial.suggest_categorical(label, list(range(domain.n))))
        if isinstance(domain, Integer):
            return trial.suggest_int(label, domain.low, domain.high, log=domain.log)
        return trial.suggest_float(label, domain.low, domain.high, log=domain.log)

    return chooser


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


def _gp(seed: int) -> BaseSampler:
    return GPSampler(seed=seed)


def _nsga2(seed: int) -> BaseSampler:
    return NSGAIISampler(seed=seed)


SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "(Optuna TPE)": _tpe,
    "(Optuna GP)": _gp,
    "(Optuna NSGA-II)": _nsga2,
}
