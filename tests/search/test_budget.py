from __future__ import annotations

from typing import Any

import pytest

from retiarii.errors import RetiariiError
from retiarii.search.budget import Budget, make_budget, seconds


@pytest.mark.parametrize(
    ("given", "value"),
    [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("1.5 h", 5400), ("45s", 45), ("1D", 86400),
     (10, 10), (0.5, 0.5)],
)  # fmt: skip
def test_durations(given: Any, value: float) -> None:
    assert seconds(given) == value


@pytest.mark.parametrize("given", ["", "2", "h", "2x", "2h5", "-1h", "0s", 0, -3, True, [], "1e3s"])
def test_no_durations(given: Any) -> None:
    with pytest.raises(RetiariiError, match="not a duration"):
        seconds(given)


def test_budgets() -> None:
    assert make_budget(None, None, None) == Budget()
    assert make_budget(5, "1m", 1) == Budget(5, 60.0, 1.0)


@pytest.mark.parametrize(
    ("epochs", "target"), [(0, None), (1.5, None), (True, None), (None, "x"), (None, float("nan"))]
)
def test_no_budgets(epochs: Any, target: Any) -> None:
    with pytest.raises(RetiariiError):
        make_budget(epochs, None, target)
