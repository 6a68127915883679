"""Densities over mixed decisions, estimated from points: what TPE compares, in a few array steps.

Optuna's own estimator takes each decision by itself, which costs a proposal some 50 microseconds
a decision; here all options are one array, and all numbers another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retiarii.mutators.choice import Raw
from retiarii.strategies.features import Array

# Observations that weigh as much as any; of more, the older ones weigh less.
_FULL = 25
# A kernel is at least this part of a range wide.
_NARROWEST = 0.01
# Draws of a number outside of its range before it is put on the range's end.
_REDRAWS = 24

_ROOT = math.sqrt(2.0 * math.pi)

_erf = np.frompyfunc(math.erf, 1, 1)


@dataclass(frozen=True, slots=True)
class Axis:
    """One decision.

    Attributes:
        options: how many it has; 0 for a number.
        low: the smallest number.
        high: the largest number.
        log: whether distances are those of logarithms.
        whole: whether it is a whole number.
    """

    options: int
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def place(self, raw: Raw) -> float:
        """Where a value lies: the option's index, or the number or its logarithm."""
        return math.log(raw) if self.log else float(raw)

    def value(self, place: float) -> Raw:
        """The value that lies there."""
        if self.options:
            return int(place)
        number = math.exp(place) if self.log else place
        if self.whole:
            number = math.floor(number + 0.5)
        kept = min(max(number, self.low), self.high)
        return int(kept) if self.whole else kept


class Axes:
    """Several decisions, the columns of all matrices.

    Args:
        axes: in order.
    """

    def __init__(self, axes: Sequence[Axis]) -> None:
        self.axes = tuple(axes)
        self.options = np.flatnonzero([axis.options > 0 for axis in axes])
        self.numbers = np.flatnonzero([axis.options == 0 for axis in axes])
        options = [axis.options for axis in axes if axis.options > 0]
        self.counts: Array = np.array(options, dtype=np.float64)
        ends = [_ends(axis) for axis in axes if axis.options == 0]
        self.low = np.array([low for low, _ in ends])
        self.high = np.array([high for _, high in ends])


def _ends(axis: Axis) -> tuple[float, float]:
    half = 0.5 if axis.whole else 0.0
    low, high = axis.low - half, axis.high + half
    return (math.log(low), math.log(high)) if axis.log else (low, high)


class Parzen:
    """A kernel around each observation, and a flat one over all: a product over the decisions.

    As Optuna's multivariate estimator: Bergstra et al. (NeurIPS 2011), Falkner et al. (ICML 2018).

    Args:
        axes: the decisions.
        seen: (n, decisions), the oldest first; n may be 0.
    """

    def __init__(self, axes: Axes, seen: Array) -> None:
        self._axes = axes
        count = len(seen)
        weights = np.ones(count + 1)
        if count > _FULL:
            weights[: count - _FULL] = np.linspace(1.0 / count, 1.0, count - _FULL)
        self._weights = weights / weights.sum()
        # An option is drawn from all of them alike as often as that, else it is the observed one.
        self._other = axes.counts / (count + 1 + axes.counts)
        self._chosen = seen[:, axes.options]
        self._centres = np.concatenate([seen[:, axes.numbers], [(axes.low + axes.high) / 2]])
        self._widths = np.concatenate(
            [_widths(self._centres[:-1], axes.low, axes.high), [axes.high - axes.low]]
        )
        # The density of the numbers at a kernel's centre, all of it being inside of the range.
        inside = self._below(axes.high) - self._below(axes.low)
        area = _ROOT * self._widths * np.maximum(inside, 1e-12)
        self._heights = -np.log(area).sum(1)

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """(count, decisions) points."""
        axes = self._axes
        kernels = rng.choice(len(self._weights), size=count, p=self._weights)
        drawn = np.empty((count, len(axes.axes)))
        if len(axes.options):
            shape = (count, len(axes.options))
            uniform = np.floor(rng.random(shape) * axes.counts)
            flat = (rng.random(shape) < self._other) | (kernels == len(self._chosen))[:, None]
            # The flat kernel has the last place, where any row will do.
            rows = np.concatenate([self._chosen, np.zeros((1, shape[1]))])
            drawn[:, axes.options] = np.where(flat, uniform, rows[kernels])
        if len(axes.numbers):
            centres, widths = self._centres[kernels], self._widths[kernels]
            found = centres + widths * rng.standard_normal(centres.shape)
            for _ in range(_REDRAWS):
                out = (found < axes.low) | (found > axes.high)
                if not out.any():
                    break
                found[out] = centres[out] + widths[out] * rng.standard_normal(int(out.sum()))
            drawn[:, axes.numbers] = np.clip(found, axes.low, axes.high)
        return drawn

    def density(self, points: Array) -> Array:
        """The logarithm of the density at each of (m, decisions) points; whole numbers as they
        are drawn, before they are rounded."""
        axes = self._axes
        logs = np.log(self._weights)[None] + np.zeros((len(points), 1))
        if len(axes.options):
            miss = np.log(self._other / axes.counts)
            hit = np.log(1.0 - self._other + self._other / axes.counts)
            same = points[:, None, axes.options] == self._chosen[None]
            logs[:, :-1] += miss.sum() + same @ (hit - miss)
            logs[:, -1] -= np.log(axes.counts).sum()
        if len(axes.numbers):
            apart = (points[:, None, axes.numbers] - self._centres) / self._widths
            logs += self._heights - 0.5 * np.square(apart).sum(2)
        top = logs.max(1)
        found: Array = top + np.log(np.exp(logs - top[:, None]).sum(1))
        return found

    def _below(self, end: Array) -> Array:
        """How much of each kernel is below ``end``."""
        scaled = (end - self._centres) / (self._widths * math.sqrt(2.0))
        below: Array = 0.5 * (1.0 + _erf(scaled).astype(float))
        return below


def best_of_draws(good: Parzen, bad: Parzen, count: int, rng: np.random.Generator) -> Array:
    """The draw from ``good``, of ``count``, that is likeliest there beside ``bad``."""
    drawn = good.draw(count, rng)
    best: Array = drawn[int(np.argmax(good.density(drawn) - bad.density(drawn)))]
    return best


def _widths(centres: Array, low: Array, high: Array) -> Array:
    """Each kernel reaches to the farther of its neighbours, within bounds."""
    count = len(centres)
    order = np.argsort(centres, axis=0, kind="stable")
    ranked = np.take_along_axis(centres, order, 0)
    gaps = np.diff(np.concatenate([[low], ranked, [high]]), axis=0)
    reach = np.maximum(gaps[:-1], gaps[1:])
    if count > 1:  # the ends of the range are no neighbours
        reach[0], reach[-1] = gaps[1], gaps[-2]
    widths = np.empty_like(centres)
    np.put_along_axis(widths, order, reach, 0)
    span = high - low
    return np.clip(widths, span * max(_NARROWEST, 1.0 / (count + 2)), span)
