"""Programs are compiled where the steps to come repay it, and compute the same then."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from retiarii.optimizer import compiling
from retiarii.optimizer.merge import merge as merge_where_it_pays
from retiarii.optimizer.merged import MergedModel

merge = partial(merge_where_it_pays, fuse="on")
CPU = torch.device("cpu")
X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of its own, and a compiler that takes no time."""
    monkeypatch.setenv("RETIARII_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")


def models(dropout: float = 0.0) -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4, 2)
        ).double()
        for _ in range(3)
    ]


def trained(merged: MergedModel, steps: int = 3) -> dict[str, Tensor]:
    optimizer = torch.optim.SGD(merged.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        sum(output.square().mean() for output in merged(X + step)).backward()
        optimizer.step()
    return {f"{i}.{k}": v for i in range(3) for k, v in merged.state_dict_of(i).items()}


def test_what_does_not_pay_is_not_compiled() -> None:
    merged = merge(models(), X)
    assert merged.execution.reason == "eager: how many steps are to come is not known"
    found = merged.expect(100, 1e-3)
    # 1.8 s a call are taken to be usual on a CPU, and a step to become 1.1 times as fast.
    takes = 1.8 * merged.stats.nodes_after
    assert found == merged.execution
    assert not found.compiled
    assert found.reason == (
        f"eager: compiling takes about {takes:.3g} s here and would save 0.00909 s "
        "in 100 steps of 1 ms"
    )
    assert found.reason in merged.stats.execution


def test_many_steps_repay_it() -> None:
    merged = merge(models(), X)
    assert not merged.expect(100_000, 1e-3).compiled
    assert merged.expect(1_000_000, 1e-3).compiled
    assert merged.execution.reason.startswith("compiled: compiling takes about")


def test_steps_are_told_when_merging() -> None:
    merged = merge(models(), X, steps=10)
    # With fuse="on" nothing is measured.
    assert merged.execution.reason == "eager: how long a step takes was not measured"


def test_what_was_seen_here_counts() -> None:
    merged = merge(models(), X)
    calls = merged.stats.nodes_after
    for seconds in (calls * 1e-3, calls * 2e-3, calls * 50.0):
        compiling.remember(CPU, calls, seconds, ratio=2.0)
    found = merged.expect(1000, 1e-3)  # half of a second is saved, at two milliseconds a call
    assert found.compiled
    assert f"about {calls * 2e-3:.3g} s here and would save 0.5 s" in found.reason
    for _ in range(30):
        compiling.remember(CPU, calls, 1.0, ratio=0.9)
    assert not merged.expect(10**9, 1e-3).compiled


def test_what_is_compiled_trains_the_same() -> None:
    alone = trained(merge(models(), X))
    merged = merge(models(), X)
    assert merged.expect(10**7, 1e-3).compiled
    ours = trained(merged)
    assert merged.execution.compiled
    assert ours.keys() == alone.keys()
    for key, value in alone.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-10, atol=1e-12)
    # Other sizes, evaluation, and copies run as they are.
    merged(X[:4])
    assert not copy.deepcopy(merged).execution.compiled
    assert not merged.without([0]).execution.compiled
    merged.eval()(X)


def test_random_numbers_are_not_compiled() -> None:
    merged = merge(models(0.5), X)
    assert "random stream of its own" in merged.expect(10**9, 1.0).reason


@pytest.mark.parametrize("fails", [True, False])
def test_a_compiler_that_is_wrong_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    def backend(module: torch.fx.GraphModule, _: list[Tensor]) -> object:
        def run(*args: Tensor) -> list[Tensor]:
            if fails:
                raise RuntimeError("no compiler here")
            return [o * 1.01 if o.is_floating_point() else o for o in module(*args)]

        return run

    monkeypatch.setattr(compiling, "BACKEND", backend)
    merged = merge(models(), X)
    merged.expect(10**7, 1e-3)
    ours, alone = trained(merged), trained(merge(models(), X))
    for key, value in alone.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-12, atol=1e-12)
    assert not merged.execution.compiled
    why = "it cannot be compiled: no compiler here" if fails else "it computed other numbers"
    assert why in merged.execution.reason
