"""Latency predicted from counts of operations, fitted to what was measured."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from retiarii.ir.analysis.cost import Cost

Array = npt.NDArray[np.float64]
Features = Mapping[str, float]

_UNIT = 1e6
_RIDGES: Final = tuple(10.0**k for k in range(-6, 4))
# No prediction is below this part of the fastest model that was measured.
_LEAST = 0.1


def features(cost: Cost) -> dict[str, float]:
    """For each operation, how often it occurs, its FLOPs and the bytes that it makes.

    Args:
        cost: counted at the batch size that latency is wanted for.
    """
    found: defaultdict[str, float] = defaultdict(float)
    for row in cost.nodes:
        found[f"{row.op} calls"] += 1.0
        found[f"{row.op} flops"] += row.flops / _UNIT
        found[f"{row.op} bytes"] += (row.activations + row.size) / _UNIT
    return {name: value for name, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class LatencyPredictor:
    """A linear model of seconds, over `features`; made by `fit`.

    Attributes:
        weights: feature -> seconds a unit; those that were not seen count nothing.
        constant: seconds that every model takes.
        least: the smallest prediction.
        error: the median, over the models that it was fitted to, of the relative error when that
            model is left out of the fit.
        rank: Kendall's rank correlation of these predictions with what was measured.
        models: how many it was fitted to.
    """

    weights: Mapping[str, float]
    constant: float
    least: float
    error: float
    rank: float
    models: int

    @staticmethod
    def fit(measured: Sequence[tuple[Features, float]]) -> LatencyPredictor:
        """Ridge regression of relative errors; its strength is what does best on models left out.

        Args:
            measured: features and seconds of at least two models.
        """
        names = sorted({name for known, _ in measured for name in known})
        seconds = np.array([each for _, each in measured])
        table = np.array([[known.get(name, 0.0) for name in names] for known, _ in measured])
        scale = np.maximum(table.max(0, initial=0.0), 1e-12) if names else np.ones(0)
        # Divided by what was measured, the squares that are summed are those of relative errors.
        rows = np.hstack([table / scale, np.ones((len(seconds), 1))]) / seconds[:, None]
        ones = np.ones(len(seconds))
        tries = [(_left_out(rows, ones, ridge), ridge) for ridge in _RIDGES]
        guesses, ridge = min(tries, key=lambda each: float(np.mean((each[0] - 1.0) ** 2)))
        solved = _solve(rows, ones, ridge)
        return LatencyPredictor(
            dict(zip(names, (solved[:-1] / scale).tolist(), strict=True)),
            float(solved[-1]),
            _LEAST * float(seconds.min()),
            float(np.median(np.abs(guesses - 1.0))),
            kendall((guesses * seconds).tolist(), seconds.tolist()),
            len(seconds),
        )

    def predict(self, known: Features) -> float:
        """Seconds of a model with these features."""
        found = self.constant + sum(self.weights.get(n, 0.0) * value for n, value in known.items())
        return max(found, self.least)

    def __str__(self) -> str:
        return (
            f"latency is predicted from {self.models} measured models: median error "
            f"{100 * self.error:.1f} %, rank correlation {self.rank:.2f} (each left out in turn)"
        )


def kendall(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau-b of two lists; 0 where either is constant."""
    agree = ties_one = ties_other = pairs = 0
    for i in range(len(one)):
        for j in range(i):
            a = (one[i] > one[j]) - (one[i] < one[j])
            b = (other[i] > other[j]) - (other[i] < other[j])
            agree += a * b
            ties_one += a == 0
            ties_other += b == 0
            pairs += 1
    below = math.sqrt((pairs - ties_one) * (pairs - ties_other))
    return agree / below if below else 0.0


def _solve(rows: Array, wanted: Array, ridge: float) -> Array:
    # In the space of models, of which there are fewer than features.
    found: Array = rows.T @ np.linalg.solve(rows @ rows.T + _damping(rows, ridge), wanted)
    return found


def _left_out(rows: Array, wanted: Array, ridge: float) -> Array:
    """What each model is predicted as by a fit to the others (the hat matrix has it in one go)."""
    kernel = rows @ rows.T
    hat = kernel @ np.linalg.inv(kernel + _damping(rows, ridge))
    residuals = (wanted - hat @ wanted) / np.maximum(1.0 - np.diag(hat), 1e-9)
    found: Array = wanted - residuals
    return found


def _damping(rows: Array, ridge: float) -> Array:
    mean = float(np.mean(np.sum(rows**2, axis=1)))
    found: Array = ridge * max(mean, 1e-30) * np.eye(len(rows))
    return found
