"""The densities that TPE compares are Optuna's own."""

from __future__ import annotations

import numpy as np
import pytest

from retiarii.strategies.parzen import Axes, Axis, Parzen, best_of_draws

OPTIONS = [Axis(5), Axis(3)]
NUMBERS = [Axis(0, 0.0, 2.0), Axis(0, 1e-4, 1.0, log=True)]
WHOLE = [Axis(0, 1, 64, whole=True), Axis(0, 1, 512, log=True, whole=True)]


def places(axes, count, seed):
    """Random points of these axes."""
    rng = np.random.default_rng(seed)
    columns = [
        rng.integers(0, axis.options, count)
        if axis.options
        else [
            axis.place(axis.value(axis.place(v))) for v in rng.uniform(axis.low, axis.high, count)
        ]
        for axis in axes
    ]
    return np.array(columns, dtype=float).T.reshape(count, len(axes))


def optunas(axes, seen, points):
    """The logarithm of the density, as Optuna has it."""
    pytest.importorskip("optuna")
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from optuna.samplers._tpe.parzen_estimator import (
        _ParzenEstimator,
        _ParzenEstimatorParameters,
    )
    from optuna.samplers._tpe.sampler import default_weights

    space = {
        str(at): CategoricalDistribution(tuple(range(axis.options)))
        if axis.options
        else FloatDistribution(axis.low, axis.high, log=axis.log)
        for at, axis in enumerate(axes)
    }

    def values(rows):
        return {
            str(at): np.exp(rows[:, at]) if axis.log else rows[:, at]
            for at, axis in enumerate(axes)
        }

    estimator = _ParzenEstimator(
        values(seen),
        space,
        _ParzenEstimatorParameters(1.0, True, False, default_weights, True),
    )
    return estimator.log_pdf(values(points))


@pytest.mark.parametrize("axes", [OPTIONS, NUMBERS, OPTIONS + NUMBERS])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 60])
def test_densities_are_those_of_optuna(axes, count):
    seen, points = places(axes, count, 1), places(axes, 40, 2)
    ours = Parzen(Axes(axes), seen).density(points)
    assert ours == pytest.approx(optunas(axes, seen, points), abs=1e-6)


@pytest.mark.parametrize("axes", [OPTIONS, NUMBERS, WHOLE, OPTIONS + NUMBERS + WHOLE])
def test_draws_are_as_likely_as_the_density_says(axes):
    """Weighed by one over the density, draws are uniform over the space."""
    parzen = Parzen(Axes(axes), places(axes, 12, 1))
    drawn = parzen.draw(20_000, np.random.default_rng(0))
    weights = np.exp(-parzen.density(drawn))
    for at, axis in enumerate(axes):
        column = drawn[:, at]
        if axis.options:
            shares = [weights[column == option].sum() for option in range(axis.options)]
        else:
            low, high = Axes([axis]).low[0], Axes([axis]).high[0]
            parts = np.minimum(((column - low) / (high - low) * 3).astype(int), 2)
            assert column.min() >= low
            assert column.max() <= high
            shares = [weights[parts == part].sum() for part in range(3)]
        assert np.array(shares) / sum(shares) == pytest.approx(1 / len(shares), rel=0.25)


def test_values_are_inside_of_their_ranges():
    axes = NUMBERS + WHOLE
    drawn = Parzen(Axes(axes), places(axes, 3, 1)).draw(500, np.random.default_rng(0))
    for at, axis in enumerate(axes):
        values = [axis.value(place) for place in drawn[:, at].tolist()]
        assert axis.low <= min(values)
        assert max(values) <= axis.high
        assert {type(value) for value in values} == {int if axis.whole else float}


def test_what_the_good_ones_have_is_drawn():
    axes = Axes([Axis(4), Axis(0, 0.0, 1.0)])
    good = Parzen(axes, np.array([[2.0, 0.9], [2.0, 0.8], [2.0, 0.85]]))
    bad = Parzen(axes, np.array([[0.0, 0.1], [1.0, 0.3], [3.0, 0.2], [2.0, 0.05]]))
    rng = np.random.default_rng(0)
    found = np.array([best_of_draws(good, bad, 24, rng) for _ in range(50)])
    assert (found[:, 0] == 2).mean() > 0.9
    assert (found[:, 1] > 0.6).mean() > 0.9
