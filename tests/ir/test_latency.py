"""Measured latency: what is measured, and what is remembered. No test asserts a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from retiarii.errors import GraphError
from retiarii.ir.analysis import latency as module
from retiarii.ir.analysis.latency import cache_file, device_name, example_inputs
from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RETIARII_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "retiarii" / "latency.sqlite"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Any]]:
    """What was measured in this test: (batch, dtype), with times made up: 3, 1, 2, 3, 1, ..."""
    asked: list[tuple[int, Any]] = []

    def measure(graph: Graph, device: Any, batch: int, dtype: Any, runs: int) -> list[float]:
        asked.append((batch, dtype))
        return [float(i % 3 or 3) for i in range(runs)]

    monkeypatch.setattr(module, "_measure", measure)
    return asked


def mlp(width: int = 8) -> Graph:
    return parse(nn.Sequential(nn.Linear(4, width), nn.ReLU()), torch.zeros(2, 4))


def test_it_really_measures() -> None:
    found = mlp().latency(runs=5)
    assert found.seconds > 0
    assert (found.runs, found.batch, found.cached) == (5, 2, False)
    assert found.device == device_name(torch.device("cpu"))
    assert f"{torch.get_num_threads()} threads" in found.device


def test_the_median_of_the_runs(measured: list[Any]) -> None:
    found = mlp().latency(runs=6)
    assert (found.seconds, found.spread) == (2.0, 1.5)
    assert mlp(3).latency(runs=1).spread == 0


def test_an_equal_model_is_not_measured_again(measured: list[Any]) -> None:
    first = mlp().latency()
    again = parse(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), torch.ones(2, 4)).latency()
    assert len(measured) == 1
    assert (first.cached, again.cached) == (False, True)
    assert again.seconds == first.seconds
    assert mlp().latency(fresh=True).cached is False
    assert len(measured) == 2


@pytest.mark.parametrize(
    "other",
    [
        lambda: mlp(9).latency(),
        lambda: mlp().latency(batch=3),
        lambda: mlp().latency(dtype=torch.float64),
        lambda: mlp().latency(runs=40),
    ],
)
def test_what_differs_is_measured(other: Callable[[], Any], measured: list[Any]) -> None:
    mlp().latency()
    assert not other().cached
    assert len(measured) == 2
    assert other().cached
    assert len(measured) == 2


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("torch.__version__", "0.0"),
        ("retiarii.ir.analysis.latency.device_name", lambda _: "another"),
    ],
)
def test_another_torch_or_device_is_another_measurement(
    place: str, value: Any, measured: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mlp().latency()
    monkeypatch.setattr(place, value)
    assert not mlp().latency().cached


def test_the_cache_directory(own_cache: Path, measured: list[Any], tmp_path: Path) -> None:
    mlp().latency()
    assert cache_file() == own_cache
    assert own_cache.is_file()


def test_without_the_variable_it_is_in_the_home_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/place"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_file() == tmp_path / ".cache" / "retiarii" / "latency.sqlite"
    monkeypatch.setenv("RETIARII_CACHE_DIR", str(tmp_path / "own"))
    assert cache_file() == tmp_path / "own" / "latency.sqlite"


def test_a_cache_that_is_broken_costs_time_and_nothing_else(
    own_cache: Path, measured: list[Any]
) -> None:
    own_cache.parent.mkdir(parents=True)
    own_cache.write_bytes(b"not a database, but long enough to be taken for one" * 40)
    assert mlp().latency().seconds == 2.0
    assert mlp().latency().cached  # what was there is replaced
    with sqlite3.connect(own_cache) as connection:
        connection.execute("UPDATE latency SET value = '{}'")
    connection.close()
    assert not mlp().latency().cached
    assert mlp().latency().cached


def test_a_cache_that_cannot_be_made_too(measured: list[Any], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the directory should be")
    assert mlp().latency().seconds == 2.0
    assert len(measured) == 1


def test_cost_with_latency_measures_the_graph_and_each_distinct_node() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Flatten())
    graph = parse(model, torch.zeros(2, 4))
    assert graph.cost().latency is None
    assert all(row.seconds is None for row in graph.cost().nodes)
    cost = graph.cost(latency=True, batch=6)
    assert cost.batch == 6
    assert cost.latency == graph.latency(batch=6).seconds
    rows = {row.name: row.seconds for row in cost.nodes}
    assert rows["input"] == 0
    assert rows["0"] == rows["1"] > 0
    assert rows["2"] > 0
    assert graph.cost(latency=True, batch=6) == cost


class Mixed(nn.Module):
    """Inputs of many kinds, sizes that follow the batch, parameters and devices."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, batch: Any, *, mask: torch.Tensor) -> torch.Tensor:
        x = self.embed(batch["ids"]) * self.gain + batch["more"][0][:, None]
        x = x.view(x.shape[0] * 3, 4) + torch.arange(4, device=x.device)
        return x.masked_fill(mask[:, :1].repeat_interleave(3, 0), 0.0)


def mixed() -> Graph:
    example = {"ids": torch.zeros(2, 3, dtype=torch.long), "more": [torch.zeros(2, 4)]}
    return parse(Mixed(), {"batch": example, "mask": torch.zeros(2, 3, dtype=torch.bool)})


def test_inputs_are_made_as_forward_takes_them() -> None:
    graph = mixed()
    args, named = example_inputs(graph, 5, dtype=torch.float64)
    (batch,) = args
    assert batch["ids"].shape == (5, 3)
    assert batch["ids"].dtype == torch.long
    assert batch["more"][0].dtype == torch.float64
    assert named["mask"].dtype == torch.bool
    args, named = example_inputs(graph, 5)
    assert graph.to_module()(*args, **named).shape == (15, 4)


def test_each_node_of_a_mixed_graph_is_measured() -> None:
    cost = mixed().cost(latency=True, batch=4)
    unmeasured = [row.name for row in cost.nodes if row.seconds is None]
    assert unmeasured == []
    assert {row.op for row in cost.nodes if row.seconds} >= {"Embedding", "view", "arange", "mul"}


def test_measuring_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    graph = parse(model, torch.zeros(2, 4))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random, training = torch.random.get_rng_state(), model.training
    graph.cost(latency=True)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert model.training == training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"device": "toaster"}, "nothing can run on device 'toaster'"),
        ({"device": "meta"}, "meta device runs nothing"),
        ({"batch": 0}, "nothing to measure"),
        ({"runs": 0}, "nothing to measure"),
    ],
)
def test_errors_say_what_to_do(options: dict[str, Any], cause: str) -> None:
    with pytest.raises(GraphError, match=cause) as caught:
        mlp().latency(**options)
    assert caught.value.fix


def test_a_model_that_does_not_run_says_so() -> None:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not x.is_meta and float(x.detach().sum()) != 0:
                raise ValueError("no such numbers")
            return x

    graph = parse(nn.Sequential(Fails()), torch.zeros(2, 3))
    with pytest.raises(GraphError, match="ValueError: no such numbers"):
        graph.latency()


def test_constraints_on_latency(measured: list[Any]) -> None:
    from retiarii.mutators.mutator import Mutator
    from retiarii.space import ModelSpace

    class Widen(Mutator):
        def mutate(self, graph: Any, target: Any) -> None:
            graph.update(target, out_features=self.choice([4, 8], label="width"))

    space = ModelSpace(nn.Sequential(nn.Linear(4, 4)), torch.zeros(2, 4))
    space.apply_mutator("0", Widen())
    space.require(lambda c: c.cost(latency=True).latency > 1)
    assert space.count() == 2
    number = len(measured)
    assert space.count() == 2
    assert len(measured) == number
