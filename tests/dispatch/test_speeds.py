from __future__ import annotations

import pytest

from retiarii.dispatch.speeds import Speeds


def test_rates_between_and_beyond_what_was_measured() -> None:
    speeds = Speeds().add("gpu", 4, 8.0).add("gpu", 16, 20.0)
    assert speeds.rate("gpu", 4) == 8.0
    assert speeds.rate("gpu", 10) == 14.0
    assert speeds.rate("gpu", 2) == 4.0
    assert speeds.rate("gpu", 64) == 20.0
    assert speeds.rate("cpu", 4) is None


def test_later_measurements_count_most_but_not_alone() -> None:
    speeds = Speeds().add("gpu", 4, 10.0)
    assert speeds.add("gpu", 4, 20.0).rate("gpu", 4) == pytest.approx(13.0)
    assert speeds.rate("gpu", 4) == 10.0  # unchanged
    for _ in range(40):
        speeds = speeds.add("gpu", 4, 20.0)
    assert speeds.rate("gpu", 4) == pytest.approx(20.0, rel=1e-3)


def test_target_never_leaves_its_limits() -> None:
    speeds = Speeds().add("gpu", 1, 1.0).add("gpu", 2, 2.0)
    assert speeds.target("gpu", 1, 1) == 1
    assert speeds.target("gpu", 1, 100) == 4
    assert speeds.target("gpu", 16, 3) == 3
