"""An ensemble of Gaussian processes that says how good points may be, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from retiarii.strategies.features import Array

# Squared length scales, in mean squared distances; and noise, as a part of the variance.
_SCALES = (0.5, 1.0, 2.0, 4.0)
_NOISES = (0.01, 0.1)
# Members less likely than this, beside the likeliest, are left out until all are weighed again.
_UNLIKELY = math.log(0.02)
_GROWTH = 1.2


class _Kind(NamedTuple):
    """One member's prior: the squared length scale of each block (0: not seen), and the noise."""

    scales: tuple[float, ...]
    noise: float


@dataclass(frozen=True, slots=True)
class _Member:
    """One member, conditioned on the scores."""

    kind: _Kind
    likelihood: float  # logarithm, of the scores under this prior
    whiten: Array  # (n, n), inverse of the covariance's Cholesky factor
    weights: Array  # (n,)
    variance: float


class Surrogate:
    """Gaussian processes of several length scales, over several blocks of features.

    Each is believed as much as it makes the scores likely. A draw takes a member by that belief
    and then a score from its posterior, for each point anew: independent Thompson sampling, as in
    White et al., "BANANAS" (AAAI 2021), with Gaussian processes for its neural networks, since
    these are exact, and fitted in milliseconds.
    """

    def __init__(self) -> None:
        self._kinds: list[_Kind] = []
        self._weighed = 0
        self._members: list[_Member] = []

    def fit(self, blocks: Sequence[Array], scores: Array) -> None:
        """Learns scores.

        Args:
            blocks: (n, columns) each, for the same n >= 2 points.
            scores: (n,), higher is better.
        """
        self._blocks = list(blocks)
        raw = [_distances(block, block) for block in blocks]
        self._units = [max(float(d.mean()), 1e-12) for d in raw]
        distances = [d / unit for d, unit in zip(raw, self._units, strict=True)]
        targets = emphasised(scores)
        every = len(scores) > self._weighed * _GROWTH or len(scores) < self._weighed
        if every or not self._kinds:
            self._kinds = _kinds(len(blocks))
            self._weighed = len(scores)
        members = [_member(kind, distances, targets) for kind in self._kinds]
        top = max(member.likelihood for member in members)
        self._members = [m for m in members if m.likelihood - top > _UNLIKELY]
        self._kinds = [m.kind for m in self._members]

    def draw(self, blocks: Sequence[Array], rng: np.random.Generator) -> Array:
        """A score for each of m points, drawn independently.

        Args:
            blocks: (m, columns) each, in `fit`'s order; columns not seen there may follow.
            rng: where the draws come from.

        Returns:
            (m,), to be compared among themselves only.
        """
        count = len(blocks[0])
        distances = [
            _distances(block, known) / unit
            for block, known, unit in zip(blocks, self._blocks, self._units, strict=True)
        ]
        likelihood = np.array([member.likelihood for member in self._members])
        belief = np.exp(likelihood - likelihood.max())
        chosen = rng.choice(len(belief), size=count, p=belief / belief.sum())
        noise = rng.standard_normal(count)
        drawn = np.empty(count)
        for index, member in enumerate(self._members):
            at = np.flatnonzero(chosen == index)
            if len(at):
                near = _kernel(member.kind, [d[at] for d in distances])
                spread = 1.0 - np.square(near @ member.whiten.T).sum(1)
                deviation = np.sqrt(np.maximum(spread, 1e-9) * member.variance)
                drawn[at] = near @ member.weights + deviation * noise[at]
        return drawn


def emphasised(scores: Array) -> Array:
    """Scores on a scale that tells the best apart: the logarithm of how far below the best.

    In units of the median distance, and with a floor, so that it depends on neither the score's
    unit nor on how bad the worst are. Standardised.
    """
    below = scores.max() - scores
    unit = float(np.median(below))
    if unit <= 0.0:
        unit = float(below.mean()) or 1.0
    targets = -np.log(0.1 + below / unit)
    deviation = float(targets.std())
    centred: Array = (targets - targets.mean()) / (deviation or 1.0)
    return centred


def _kinds(blocks: int) -> list[_Kind]:
    """Priors that see one block alone, and those that see all."""
    alone = [
        tuple(scale if at == block else 0.0 for at in range(blocks))
        for block, scale in product(range(blocks), _SCALES)
    ]
    together = [(scale,) * blocks for scale in _SCALES] if blocks > 1 else []
    return [_Kind(scales, noise) for scales, noise in product(alone + together, _NOISES)]


def _member(kind: _Kind, distances: Sequence[Array], targets: Array) -> _Member:
    count = len(targets)
    covariance = _kernel(kind, distances)
    covariance[np.diag_indices(count)] += kind.noise
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    white = whiten @ targets
    variance = max(float(white @ white) / count, 1e-12)
    likelihood = float(np.log(np.diag(whiten)).sum()) - 0.5 * count * math.log(variance)
    return _Member(kind, likelihood, whiten, whiten.T @ white, variance)


def _kernel(kind: _Kind, distances: Sequence[Array]) -> Array:
    total = sum(d / s for d, s in zip(distances, kind.scales, strict=True) if s)
    near: Array = np.exp(-np.asarray(total))
    return near


def _distances(one: Array, other: Array) -> Array:
    """Squared distances of all rows; a column that one matrix lacks is 0 there."""
    shared = min(one.shape[1], other.shape[1])
    squares = np.square(one).sum(1)[:, None] + np.square(other).sum(1)[None]
    apart: Array = np.maximum(squares - 2.0 * (one[:, :shared] @ other[:, :shared].T), 0.0)
    return apart
