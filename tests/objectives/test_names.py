"""What users write of objectives, limits and proxies."""

from __future__ import annotations

from typing import Any

import pytest

from retiarii.errors import ObjectiveError
from retiarii.objectives.names import (
    Objective,
    Quantity,
    Sifting,
    make_limits,
    make_objectives,
    make_sifting,
)


@pytest.mark.parametrize(
    "given",
    [{"accuracy": "max", "latency@8": "min"}, "accuracy=max, latency@8=minimize"],
)
def test_objectives(given: Any) -> None:
    assert make_objectives(given) == (Objective("accuracy", True), Objective("latency@8", False))
    assert make_objectives(None) == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "objectives are"),
        (5, "objectives are"),
        ({"accuracy": "up"}, "'up'"),
        ({"accuracy": True}, "True"),
        ({7: "max"}, "called 7"),
        ({"a=b": "max"}, "a=b"),
        ("accuracy", "no direction"),
        ("a=max,a=min", "twice"),
        ("params@3=min", "batch of 3"),
        ("latency@0=min", "batch of 0"),
        ("synflow:cpu=max", "device"),
    ],
)
def test_bad_objectives(given: Any, words: str) -> None:
    with pytest.raises(ObjectiveError, match=words) as error:
        make_objectives(given)
    assert error.value.fix


def test_quantities() -> None:
    assert Quantity.of("latency@32:cuda:1") == Quantity("latency", 32, "cuda:1")
    assert Quantity.of("flops@1") == Quantity("flops", 1)
    assert Quantity.of("zen") == Quantity("zen")
    assert Quantity.of("accuracy") is None
    assert Quantity.of("latencies") is None


def test_limits() -> None:
    one, two = make_limits("params<=1e6, latency@1:cpu < 0.005")
    assert (str(one), str(two)) == ("params <= 1e+06", "latency@1:cpu < 0.005")
    assert one.met(1e6)
    assert not two.met(0.005)
    assert make_limits(["params <= 1e6"]) == (one,)
    assert make_limits(None) == ()
    assert make_limits(["zen > -2"])[0].met(0.0)
    assert not make_limits(["zen >= 2"])[0].met(1.9)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("params", "no"),
        ("params <= many", "not a limit"),
        ("params <= nan", "not a limit"),
        ("accuracy >= 0.9", "not known before"),
        ([3], "not a limit"),
        (3, "constraints are 3"),
    ],
)
def test_bad_limits(given: Any, words: str) -> None:
    with pytest.raises(ObjectiveError, match=words):
        make_limits(given)


def test_siftings() -> None:
    assert make_sifting("naswot", "prefilter", 4) == Sifting("naswot", 4)
    assert make_sifting("naswot, times=7", "prefilter", 4) == Sifting("naswot", 7)
    assert make_sifting(None, "prefilter", 4) is None
    for wrong in ("naswt", "naswot,times=1", "naswot,3", "naswot,times=x"):
        with pytest.raises(ObjectiveError) as error:
            make_sifting(wrong, "prefilter", 4)
        assert error.value.fix
