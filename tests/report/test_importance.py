"""Importance: what matters comes first, for conditional decisions too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from retiarii.errors import RetiariiError
from retiarii.mutators.choice import Numbered, choice, loguniform, uniform
from retiarii.report import importance as module
from retiarii.report.decisions import axes_of
from retiarii.report.importance import importance
from retiarii.result import Result
from retiarii.training.trial import Trial

Search = Callable[..., Result]


def test_what_matters_comes_first(search: Search) -> None:
    found = importance(search(trials=40))
    assert next(iter(found.shares))[0] == "x"
    assert found.shares[0][1] > 0.8
    assert sum(share for _, share in found.shares) == pytest.approx(1.0)
    assert {label for label, _ in found.shares} == {"x", "kind", "lr"}
    assert found.trials == 40
    assert found.conditional == frozenset()


def test_a_choice_matters_by_its_options_and_not_their_order(search: Search) -> None:
    def middle(trial: Trial) -> float:
        return float(trial.hyperparameters["kind"] == "b")

    assert importance(search(middle, trials=40)).shares[0][0] == "kind"


def test_a_range_in_its_logarithm(search: Search) -> None:
    def small(trial: Trial) -> float:
        return float(trial.hyperparameters["lr"] < 1e-2)

    found = importance(search(small, trials=40))
    assert found.shares[0][0] == "lr"


def test_the_same_each_time(search: Search) -> None:
    result = search(trials=20)
    assert importance(result) == importance(result)


class _Rows:
    """A result whose trials were asked for different decisions."""

    def __init__(self, rows: list[tuple[dict[str, tuple[Any, Any]], float]]) -> None:
        self._rows = rows
        self.directory = "here"
        self.trials = [
            type("T", (), {"id": n, "state": "complete", "score": score})()
            for n, (_, score) in enumerate(rows)
        ]

    def row(self, number: int) -> Any:
        made = self._rows[number][0]
        return type("R", (), {"decisions": [(k, raw, shown) for k, (raw, shown) in made.items()]})()


def test_conditional_decisions() -> None:
    rows: list[tuple[dict[str, tuple[Any, Any]], float]] = []
    for n in range(40):
        kind = n % 2
        made: dict[str, tuple[Any, Any]] = {
            "kind": (kind, "ab"[kind]),
            "noise": (n % 5, f"o{n % 5}"),
        }
        depth = (n // 2) % 4
        if kind:
            made["depth"] = (depth, f"d{depth}")
            made["rate"] = (n / 40, n / 40)
        rows.append((made, float(depth) if kind else 0.0))
    found = importance(_Rows(rows))  # type: ignore[arg-type]
    assert found.conditional == {"depth", "rate"}
    assert found.shares[0][0] == "depth"
    assert dict(found.shares)["noise"] < 0.1


def test_places_of_numbers_and_options() -> None:
    gelu, relu = Numbered.of(0, "GELU()"), Numbered.of(1, "ReLU()")
    rows = [
        ({"width": (1, 32), "lr": (1e-4, 1e-4), "n": (3, 3), "layer": (1, relu)}, 0.0),
        ({"width": (0, 16), "lr": (1e-2, 1e-2), "n": (5, 5), "layer": (0, gelu)}, 0.0),
        ({"width": (2, 8), "lr": (1.0, 1.0)}, 0.0),
    ]
    width, lr, n, layer = axes_of(_Rows(rows), [0, 1, 2])  # type: ignore[arg-type]
    assert (width.options, width.places) == (("16", "32", "8"), {0: 1.0, 1: 0.0, 2: 2.0})
    assert lr.log
    assert lr.places == pytest.approx({0: 0.0, 1: 0.5, 2: 1.0})
    assert (n.options, n.places, n.log) == ((), {0: 0.0, 1: 1.0}, False)
    assert (layer.options, layer.places) == (("GELU()", "ReLU()"), {0: 1.0, 1: 0.0})


@pytest.mark.parametrize("missing", ["optuna", "sklearn"])
def test_a_library_that_is_not_there(
    missing: str, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(RetiariiError) as caught:
        importance(search())
    wanted = {"optuna": "pip install 'optuna>=5,<6'", "sklearn": "pip install 'scikit-learn>=1.4'"}
    assert caught.value.fix == wanted[missing]


def test_too_few_scores(search: Search) -> None:
    with pytest.raises(RetiariiError, match="needs 4 complete trials with different scores"):
        importance(search(trials=3))
    with pytest.raises(RetiariiError, match="needs 4 complete trials with different scores"):
        importance(search(lambda trial: 1.0, trials=8))


def test_nothing_that_varies(search: Search) -> None:
    choices = {"a": choice(["only"]), "b": uniform(1.0, 1.0), "c": loguniform(2.0, 2.0)}
    seen: list[int] = []

    def rising(trial: Trial) -> float:
        seen.append(1)
        return float(len(seen))

    with pytest.raises(RetiariiError):
        importance(search(rising, choices=choices))
