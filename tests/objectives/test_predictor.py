"""Latency from counts of operations: exact where it is linear, and honest where it is not."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

import retiarii as rt
from retiarii.objectives.predictor import LatencyPredictor, features, kendall


def models(count: int, noise: float, seed: int = 0) -> list[tuple[dict[str, float], float]]:
    """Models whose time is 2 ms, 1 ms a convolution and 3 ms a million FLOPs of it."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        calls, flops, pools = rng.randrange(1, 9), rng.uniform(1, 9), rng.randrange(5)
        known = {"conv calls": float(calls), "conv flops": flops, "pool calls": float(pools)}
        seconds = 0.002 + 0.001 * calls + 0.003 * flops
        found.append((known, seconds * (1 + rng.uniform(-noise, noise))))
    return found


def test_what_is_linear_is_found() -> None:
    predictor = LatencyPredictor.fit(models(24, 0.0))
    assert predictor.error < 1e-3
    assert predictor.rank == pytest.approx(1.0)
    for known, seconds in models(50, 0.0, seed=1):
        assert predictor.predict(known) == pytest.approx(seconds, rel=1e-2)
    assert predictor.weights["pool calls"] == pytest.approx(0.0, abs=1e-5)


def test_the_error_is_that_of_models_that_were_not_seen() -> None:
    """With noise of up to 20 % the fit to what was seen is better than what it says."""
    told, seen, new = [], [], []
    for seed in range(10):
        known = models(16, 0.2, seed)
        predictor = LatencyPredictor.fit(known)
        told.append(predictor.error)
        seen += [abs(predictor.predict(k) / s - 1) for k, s in known]
        new += [abs(predictor.predict(k) / s - 1) for k, s in models(40, 0.2, seed + 100)]

    def median(values: list[float]) -> float:
        return sorted(values)[len(values) // 2]

    assert median(seen) < median(told)
    assert median(told) == pytest.approx(median(new), rel=0.35)


def test_no_prediction_is_absurd() -> None:
    predictor = LatencyPredictor.fit(models(16, 0.0))
    assert predictor.predict({"conv flops": -1e6}) > 0
    assert "median error" in str(predictor)
    assert "16 measured" in str(predictor)


def test_features_add_up() -> None:
    graph = rt.parse(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(3, 4))
    found = features(graph.cost(batch=5))
    assert found["Linear calls"] == 2
    assert found["Linear flops"] == pytest.approx(2 * 5 * (4 * 8 + 8 * 2) / 1e6)
    assert found["ReLU calls"] == 1
    assert "ReLU flops" not in found


def test_kendall() -> None:
    assert kendall([1, 2, 3], [10, 20, 30]) == 1.0
    assert kendall([1, 2, 3], [30, 20, 10]) == -1.0
    assert kendall([1, 1], [1, 2]) == 0.0
    assert kendall([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)
