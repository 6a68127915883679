"""Median stopping, and the extrapolation of learning curves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from retiarii.errors import SchedulerError
from retiarii.schedulers.base import Curve, Known, Setting
from retiarii.schedulers.curve import CurveFit, chance_above
from retiarii.schedulers.median import Median

SETTING = Setting(4, 30, pauses=True)


def test_worse_than_half_of_the_means() -> None:
    median = Median(least=3, grace=2)
    median.begin(SETTING)
    # Means up to step 2: 0.2, 0.4, 0.6; trial 3 did not get there.
    known = Known(
        {0: [(1, 0.1), (2, 0.3)], 1: [(1, 0.4), (2, 0.4)], 2: [(1, 0.5), (2, 0.7)], 3: [(1, 9.0)]}
    )
    assert median.stops(7, [(1, 0.0), (2, 0.39)], known)
    assert not median.stops(7, [(1, 0.0), (2, 0.41)], known)
    assert not median.stops(7, [(1, 0.5), (2, 0.0)], known)  # its best so far counts
    assert not median.stops(7, [(1, 0.0)], known)  # grace
    assert not median.stops(7, [(1, 0.0), (2, 0.0), (3, 0.0)], known)  # nobody got there
    few = Median(least=4)
    few.begin(SETTING)
    assert not few.stops(7, [(1, 0.0), (2, 0.0)], known)


def rising(level: float, speed: float, steps: int, noise: float = 0.0) -> Curve:
    rng = np.random.default_rng(3)
    return [
        (t, level * (1 - math.exp(-speed * t)) + noise * rng.standard_normal())
        for t in range(1, steps + 1)
    ]


@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_the_chance_to_beat_the_best(noise: float) -> None:
    low = rising(0.7, 0.3, 10, noise)
    assert chance_above(low, 30, 0.9) < 0.05
    assert chance_above(low, 30, 0.5) > 0.95
    promising = rising(0.95, 0.05, 10, noise)  # 0.37 by now, 0.74 at the end
    assert promising[-1][1] < 0.5
    assert chance_above(promising, 30, 0.55) > 0.5


def test_curves_that_are_flat_or_count_from_0() -> None:
    flat = [(t, 0.5) for t in range(5)]
    assert chance_above(flat, 30, 0.6) == pytest.approx(0.0, abs=1e-9)
    assert chance_above(flat, 30, 0.4) == pytest.approx(1.0, abs=1e-9)


def test_stops_when_it_knows_enough() -> None:
    curve = CurveFit()
    curve.begin(SETTING)
    known = Known({0: rising(0.9, 0.3, 30)})
    assert curve.stops(5, rising(0.5, 0.4, 8), known)
    assert not curve.stops(5, rising(0.5, 0.4, 3), known)  # grace
    assert not curve.stops(5, rising(0.5, 0.4, 30), known)  # it is at its end
    assert not curve.stops(5, rising(0.5, 0.4, 8), Known({}))  # nothing to beat
    assert not curve.stops(5, rising(0.95, 0.3, 8), known)


def test_curve_must_know_the_epochs() -> None:
    with pytest.raises(SchedulerError, match="how many epochs"):
        CurveFit().begin(Setting(4, None, pauses=True))
    CurveFit(epochs=5).begin(Setting(4, None, pauses=True))
