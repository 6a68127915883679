"""How much of the scores' variance each decision explains (fANOVA, by Optuna)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from retiarii.errors import RetiariiError
from retiarii.report.decisions import Axis, axes_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from retiarii.result import Result

_NEEDS = (("optuna", "optuna>=5,<6"), ("sklearn", "scikit-learn>=1.4"))
_LEAST = 4
# Forests of more trees and trials take minutes, and say no more.
_MOST = 500
_TREES = 32


@dataclass(frozen=True)
class Importance:
    """What matters for the score.

    Attributes:
        shares: (label, part of the variance) of each decision that varied, the largest first;
            together they are 1.
        trials: how many scores it was found from.
        conditional: labels that only some of these trials were asked for.
    """

    shares: tuple[tuple[str, float], ...]
    trials: int
    conditional: frozenset[str]


def importance(result: Result) -> Importance:
    """The importance of decisions, by fANOVA (Hutter, Hoos and Leyton-Brown, ICML 2014).

    A random forest is fitted to the scores of the complete trials; the share of its variance that
    is explained by a decision alone, averaged over all others, is that decision's importance. A
    decision that not all trials were asked for has "not asked" as one more option; a number has its
    middle there.

    Raises:
        RetiariiError: a library is not installed; there are too few scores; or no decision varies.
    """
    _check_installed()
    scores = {
        t.id: t.score
        for t in result.trials
        if t.state == "complete" and t.score is not None and math.isfinite(t.score)
    }
    every = max(1, -(-len(scores) // _MOST))
    trials = list(scores)[::every]
    if len(trials) < _LEAST or len({scores[n] for n in trials}) < 2:
        raise RetiariiError(
            f"importance needs {_LEAST} complete trials with different scores, and there are "
            f"{len(trials)}",
            where=str(result.directory),
            fix="let the search go on: a larger --trials",
        )
    asked = [axis for axis in axes_of(result, trials) if axis.varies or _partly(axis, trials)]
    if not asked:
        raise RetiariiError(
            "no decision varies among the complete trials", where=str(result.directory)
        )
    shares = _fanova(asked, trials, [scores[n] for n in trials])
    total = sum(shares.values()) or 1.0
    ranked = sorted(shares, key=lambda label: (-shares[label], label))
    return Importance(
        tuple((label, shares[label] / total) for label in ranked),
        len(trials),
        frozenset(axis.label for axis in asked if _partly(axis, trials)),
    )


def _partly(axis: Axis, trials: list[int]) -> bool:
    return len(axis.places) < len(trials)


def _fanova(asked: list[Axis], trials: list[int], scores: list[float]) -> dict[str, float]:
    import warnings

    import optuna
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.trial import create_trial

    from retiarii.strategies.optuna_samplers import quiet

    kinds = [_kind(axis, trials) for axis in asked]
    names = [str(at) for at in range(len(asked))]
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study()
        study.add_trials(
            create_trial(
                params={
                    name: _param(axis, number) for name, axis in zip(names, asked, strict=True)
                },
                distributions=dict(zip(names, kinds, strict=True)),
                value=score,
            )
            for number, score in zip(trials, scores, strict=True)
        )
        found = FanovaImportanceEvaluator(n_trees=_TREES, seed=0).evaluate(study, params=names)
    return {axis.label: float(found[name]) for name, axis in zip(names, asked, strict=True)}


def _kind(axis: Axis, trials: list[int]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if not axis.options:
        return FloatDistribution(0.0, 1.0)
    return CategoricalDistribution(range(len(axis.options) + _partly(axis, trials)))


def _param(axis: Axis, number: int) -> int | float:
    place = axis.places.get(number)
    if axis.options:
        return len(axis.options) if place is None else int(place)
    return 0.5 if place is None else place


def _check_installed() -> None:
    missing = [package for module, package in _NEEDS if find_spec(module) is None]
    if missing:
        wanted = " ".join(f"'{package}'" for package in missing)
        raise RetiariiError(
            f"the importance of decisions needs {' and '.join(missing)}, and it is not installed",
            where="importance",
            fix=f"pip install {wanted}",
        )
