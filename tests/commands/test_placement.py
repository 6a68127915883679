from __future__ import annotations

from typing import Any

import pytest

from retiarii.commands.placement import EXECUTOR, check_placement
from retiarii.errors import RetiariiError
from retiarii.runtime.cluster.need import Need

NOTHING = {
    "executor": None, "workers": None, "cohort": None, "address": None, "cpus": None, "gpus": None
}  # fmt: skip


def check(**given: Any) -> dict[str, Any]:
    return check_placement(**{**NOTHING, **given})


def test_the_default_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EXECUTOR)
    assert check()["executor"] == "local"
    monkeypatch.setenv(EXECUTOR, "inline")
    assert check()["executor"] == "inline"
    assert check(executor="ray")["executor"] == "ray"
    monkeypatch.setenv(EXECUTOR, "inlin")
    with pytest.raises(RetiariiError, match="no executor 'inlin'") as caught:
        check()
    assert caught.value.where == "the variable RETIARII_EXECUTOR"
    assert "'inline'" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({}, "workers", None),
        ({"workers": 3}, "workers", 3),
        ({}, "cohort", None),
        ({"cohort": "auto"}, "cohort", "auto"),
        ({"cohort": "12"}, "cohort", 12),
        ({}, "need", None),
        ({"executor": "ray", "cpus": 2.0}, "need", Need(2.0, None)),
        ({"executor": "ray", "gpus": 0.5}, "need", Need(None, 0.5)),
        ({"executor": "ray", "gpus": 0.0}, "need", Need(None, 0.0)),
        ({"executor": "ray", "address": "a:1"}, "address", "a:1"),
    ],
)
def test_taken(given: dict[str, Any], name: str, value: Any) -> None:
    assert check(**given)[name] == value


@pytest.mark.parametrize(
    ("given", "cause", "where"),
    [
        ({"workers": 0}, "workers is 0", "--workers 0"),
        ({"cohort": "0"}, "cohort is 0", "--cohort 0"),
        ({"cohort": "many"}, "cohort is many", "--cohort many"),
        ({"address": "a:1"}, "--address is about a Ray cluster", "--address a:1"),
        ({"cpus": 1.0, "executor": "local"}, "the executor is local", "--cpus-per-worker 1.0"),
        ({"cpus": 0.0, "executor": "ray"}, "cannot take 0 of a node", "--cpus-per-worker 0"),
        ({"gpus": -1.0, "executor": "ray"}, "cannot take -1", "--gpus-per-worker -1"),
    ],
)
def test_refused(given: dict[str, Any], cause: str, where: str) -> None:
    with pytest.raises(RetiariiError, match=cause) as caught:
        check(**given)
    assert caught.value.where == where
