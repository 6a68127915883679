from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any

import pytest

from retiarii.errors import SchedulerError
from retiarii.schedulers import registry
from retiarii.schedulers.asha import Asha
from retiarii.schedulers.bohb import Bohb
from retiarii.schedulers.registry import SCHEDULERS, check_strategy, make_scheduler


class Own(Asha):
    name = "own"


@pytest.mark.parametrize("name", list(SCHEDULERS))
def test_by_name(name: str) -> None:
    made = make_scheduler(name)
    assert made.name == made.describe()["name"] == name


def test_options() -> None:
    made = make_scheduler("asha, eta=4,grace = 2")
    assert made.describe() == {"name": "asha", "eta": 4, "grace": 2}
    assert make_scheduler(made) is made
    assert make_scheduler("curve,chance=0.1").describe()["chance"] == 0.1
    assert make_scheduler(f"{__name__}:Own").name == "own"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("ahsa", "nearest: 'asha'"),
        ("asha,etta=4", "nearest: 'eta'"),
        ("asha,eta", "not an option"),
        ("asha,eta=many", "not an option"),
        ("asha,eta=1", "at least 2"),
        ("asha,grace=1.5", "a whole number"),
        ("hyperband,epochs=0", "at least 1"),
        ("curve,grace=3", "at least 4"),
        ("curve,chance=1", "below 1"),
        ("curve,chance=0", "above 0"),
        ("median,least=0", "at least 1"),
        ("nowhere:Class", "cannot be imported"),
        (f"{__name__}:Nothing", "no scheduler class"),
        (3, "not a scheduler"),
    ],
)
def test_mistakes(spec: Any, says: str) -> None:
    with pytest.raises(SchedulerError, match=re.escape(says)):
        make_scheduler(spec)


def test_bohb_has_its_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "STRATEGIES", MappingProxyType({"tpe": "x:Y", "random": "x:Z"}))
    assert check_strategy(None, Bohb()) == "tpe"
    assert check_strategy("tpe", Bohb()) == "tpe"
    assert check_strategy("random", Asha()) == "random"
    assert check_strategy(None, Asha()) is None
    with pytest.raises(SchedulerError, match="not by 'random'"):
        check_strategy("random", Bohb())
    monkeypatch.setattr(registry, "STRATEGIES", MappingProxyType({}))
    with pytest.raises(SchedulerError, match="does not have"):
        check_strategy(None, Bohb())
