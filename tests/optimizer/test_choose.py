"""What is fused, given what groups were measured to take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import retiarii as rt
from retiarii.ir.analysis.remembering import Remembered
from retiarii.ir.types import TensorType
from retiarii.optimizer import measuring
from retiarii.optimizer.defaults import default_seconds
from retiarii.optimizer.measuring import Copying, Meter, budget
from retiarii.optimizer.rules.base import Call
from retiarii.testing.equivalence import call_of_function, call_of_module

Times = Callable[[Call, int | None], float]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("RETIARII_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("RETIARII_MEASURE", "5")
    return tmp_path


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a millisecond each time that it is looked at."""
    ticks = count(0.0, 1e-3)
    monkeypatch.setattr(Meter, "_now", lambda _: next(ticks))


def measured_as(monkeypatch: pytest.MonkeyPatch, times: Times) -> list[tuple[str, int | None]]:
    """Groups take what ``times`` says; ``None`` members is a call alone. Answers what was asked."""
    asked: list[tuple[str, int | None]] = []

    def looked_up(_: Meter, _key: str, call: Call, size: int | None, *_args: object) -> float:
        asked.append((call.op, size))
        return times(call, size)

    monkeypatch.setattr(Meter, "_looked_up", looked_up)
    monkeypatch.setattr(Meter, "copying", lambda _: Copying(1e-12, 1e-7))
    return asked


def networks(number: int) -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)).double()
        for _ in range(number)
    ]


X = torch.randn(4, 3, 5, 5, dtype=torch.float64)


def sizes(merged: rt.MergedModel, op: str) -> list[int]:
    return [len(g.members) for g in merged.program.plan.groups if g.call.op == op]


def agrees(merged: rt.MergedModel, models: list[nn.Module]) -> None:
    for out, model in zip(merged(X), models, strict=True):
        torch.testing.assert_close(out, model(X), rtol=1e-10, atol=1e-12)


def test_all_is_fused_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    measured_as(monkeypatch, lambda _, size: 1e-3 if size is None else 1e-3 + 1e-5 * size)
    merged = rt.merge(networks(6), X)
    choice = merged.stats.choice
    assert choice.fuse
    assert not choice.limits
    assert choice.serial == pytest.approx(24e-3)
    assert choice.estimated_ratio == pytest.approx(24 / 4.24, rel=0.05)
    assert "times faster" in str(choice)
    assert sizes(merged, "Conv2d") == [6]


def test_a_kind_that_does_not_gain_is_left_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def times(call: Call, size: int | None) -> float:
        if call.op == "Conv2d":
            return 1e-3 if size in (None, 1) else 3e-3 * size
        return 1e-3

    measured_as(monkeypatch, times)
    models = networks(6)
    merged = rt.merge(models, X)
    assert sizes(merged, "Conv2d") == [1] * 6
    assert sizes(merged, "Linear") == [6]
    assert "6 x Conv2d" in merged.stats.choice.kept[0]
    assert "fused, but for 1 kind of calls: " in merged.stats.choice.reason
    assert "one by one" in str(merged.stats.choice)
    agrees(merged, models)
    agrees(merged.eval(), [m.eval() for m in models])
    assert sizes(merged, "Conv2d") == [1] * 6
    # Models that leave change nothing of it.
    left = merged.without([0])
    agrees(left, models[1:])
    assert left.stats.choice == merged.stats.choice


def test_a_kind_is_fused_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def times(call: Call, size: int | None) -> float:
        if call.op == "Conv2d":
            return 1e-3 if size is None or size <= 4 else 4e-3 * size
        return 1e-3

    measured_as(monkeypatch, times)
    models = networks(10)
    merged = rt.merge(models, X)
    assert sizes(merged, "Conv2d") == [4, 4, 2]
    agrees(merged, models)


def test_a_little_slower_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements differ by as much from run to run."""

    def times(call: Call, size: int | None) -> float:
        if call.op == "Conv2d":
            return 1e-3 * (size or 1) * (1.0 if size in (None, 1) else 1.15)
        return 1e-3 if size is None else 1e-4 * size

    measured_as(monkeypatch, times)
    choice = rt.merge(networks(6), X).stats.choice
    assert choice.fuse
    assert not choice.limits


def test_nothing_is_fused_where_that_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    measured_as(monkeypatch, lambda _, size: 1e-3 if size is None else 2e-3 * size)
    models = networks(5)
    merged = rt.merge(models, X)
    assert not merged.stats.choice.fuse
    assert "would not pay" in merged.stats.choice.reason
    assert "would not pay" in str(merged.stats)
    assert merged.stats.groups == 0
    agrees(merged, models)
    assert merged.eval().stats.groups == 0


def test_the_choice_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    models = networks(5)
    measured_as(monkeypatch, lambda _, size: 1e-3 if size is None else 2e-3 * size)
    first = rt.merge(models, X).stats.choice
    asked = measured_as(monkeypatch, lambda _, size: 1e-3 if size is None else 1e-5)
    assert rt.merge(models, X).stats.choice == first
    assert not asked
    # Another cohort, another batch: another question.
    assert rt.merge(models[:4], X).stats.choice.fuse
    assert rt.merge(models, X, batch=9).stats.choice.fuse


def test_the_batch_is_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def times(call: Call, size: int | None) -> float:
        seen.append(call.results[0].shape)
        return 1e-3

    measured_as(monkeypatch, times)
    rt.merge(networks(2), X, batch=64)
    assert {shape[0] for shape in seen} == {64}


@pytest.mark.parametrize("fuse", ["on", "off", True, False])
def test_what_is_asked_for_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, fuse: str | bool
) -> None:
    asked = measured_as(monkeypatch, lambda _, size: 1e-3)
    merged = rt.merge(networks(3), X, fuse=fuse)
    assert not asked
    assert merged.stats.groups == (4 if fuse in ("on", True) else 0)
    assert "as asked" in merged.stats.choice.reason


def test_without_measuring_all_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measured_as(monkeypatch, lambda _, size: 1e-3 if size is None else 1.0)
    monkeypatch.setenv("RETIARII_MEASURE", "0")
    merged = rt.merge(networks(3), X)
    assert not asked
    assert merged.stats.groups == 4
    assert merged.stats.choice.estimated_ratio is None


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("", 10.0), ("0", 0.0), ("2.5", 2.5), ("900", 60.0), ("-1", 0), ("x", 10)],
)
def test_the_budget(monkeypatch: pytest.MonkeyPatch, given: str, seconds: float) -> None:
    monkeypatch.setenv("RETIARII_MEASURE", given)
    assert budget() == seconds


# --- measuring ---------------------------------------------------------------------------------


def calls() -> list[Call]:
    images = torch.randn(2, 3, 6, 6)
    return [
        call_of_module(nn.Conv2d(3, 4, 3), [images]),
        call_of_module(nn.BatchNorm2d(3), [images]),
        call_of_module(nn.Embedding(5, 3), [torch.tensor([[1, 4]])]),
        call_of_module(nn.Linear(6, 2), [torch.randn(2, 6)]),
        call_of_function(torch.relu, [images], {})[0],
        call_of_function(torch.argmax, [images], {})[0],  # nothing to differentiate
        call_of_function(nn.functional.dropout, [images], {"p": 0.5, "training": True})[0],
    ]


@pytest.mark.parametrize("call", calls(), ids=lambda call: call.op)
def test_every_kind_of_call_is_measured(call: Call, steady: None) -> None:
    before = torch.get_rng_state()
    with Remembered("fusion") as cache:
        meter = Meter(torch.device("cpu"), 2, cache, 60.0)
        shared = (False,) * len(call.inputs)
        found = (meter.alone(call, False), meter.fused(call, shared, 3))
        assert meter.estimated == 0
        assert all(0 < seconds < 1 for seconds in found)
        again = Meter(torch.device("cpu"), 2, cache, 0.0)  # no time to measure
        assert (again.alone(call, False), again.fused(call, shared, 3)) == found
        assert again.estimated == 0
        # Another size is another measurement, for which there is no time left.
        assert again.fused(call, shared, 4) == default_seconds(call, 4)
        assert again.estimated == 1
    assert torch.equal(before, torch.get_rng_state())


def test_shared_inputs_are_measured_as_they_are_read(steady: None) -> None:
    call = call_of_module(nn.Conv2d(3, 4, 3), [torch.randn(2, 3, 6, 6)])
    with Remembered("fusion") as cache:
        meter = Meter(torch.device("cpu"), 2, cache, 60.0)
        meter.fused(call, (True, False, False), 3)
        assert meter.estimated == 0


def test_what_cannot_be_run_is_estimated(steady: None) -> None:
    """Here, as the weight does not fit; in life, because made-up values do not do."""
    call = call_of_module(nn.Conv2d(3, 4, 3), [torch.randn(2, 3, 6, 6)])
    call = replace(call, inputs=(TensorType((2, 5, 6, 6), torch.float32), *call.inputs[1:]))
    with Remembered("fusion") as cache:
        meter = Meter(torch.device("cpu"), 2, cache, 60.0)
        assert meter.alone(call, False) == default_seconds(call, None)
        assert meter.fused(call, (False,) * 3, 2) == default_seconds(call, 2)
        assert meter.estimated == 2


def test_copies_are_measured_once(monkeypatch: pytest.MonkeyPatch, steady: None) -> None:
    with Remembered("fusion") as cache:
        found = Meter(torch.device("cpu"), 2, cache).copying()
        assert 0 < found.byte < 1e-2
        assert 0 < found.piece < 1
        monkeypatch.setattr(measuring, "_Step", None)  # nothing can be run from here on
        assert Meter(torch.device("cpu"), 2, cache).copying() == found


def test_more_work_takes_longer() -> None:
    def linear(width: int) -> Call:
        return call_of_module(nn.Linear(width, width), [torch.randn(8, width)])

    assert default_seconds(linear(512), None) > default_seconds(linear(8), None)
    assert default_seconds(linear(8), 64) > default_seconds(linear(8), 2)


def test_merging_measures(own_cache: Path) -> None:
    """With nothing in the place of the clock."""
    models: list[nn.Module] = [nn.Linear(3, 2) for _ in range(3)]
    x: Tensor = torch.randn(4, 3)
    choice = rt.merge(models, x).stats.choice
    assert choice.serial is not None
    assert choice.serial > 0
    assert (own_cache / "fusion.sqlite").is_file()
    assert rt.merge(models, x).stats.choice == choice


def test_a_busy_machine_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that take now this, now that: estimates decide, for calls alone and in groups alike."""
    asked: list[int] = []

    def timed(*_: object) -> float:
        asked.append(0)
        return 1e-3 if len(asked) % 3 == 0 else 5e-2

    monkeypatch.setattr(Meter, "_timed", timed)
    models = networks(6)
    merged = rt.merge(models, X)
    assert asked
    # Rough figures choose, and are not told.
    assert merged.stats.choice.serial is None
    assert "rough figures" in merged.stats.choice.reason
    assert merged.stats.choice.fuse


def test_what_is_half_measured_is_estimated(steady: None) -> None:
    call = call_of_module(nn.Linear(6, 2), [torch.randn(2, 6)])
    relu, _ = call_of_function(torch.relu, [torch.randn(2, 6)], {})
    with Remembered("fusion") as cache:
        meter = Meter(torch.device("cpu"), 2, cache, 60.0)
        measured = meter.fused(call, (False,) * 3, 2)
        for size in (1, 2, 4):
            meter.fused(relu, (False,), size)
        meter = Meter(torch.device("cpu"), 2, cache, 0.0)
        assert meter.fused(call, (False,) * 3, 2) == measured
        assert meter.alone(call, False) == default_seconds(call, None)
        kept = [meter.fused(relu, (False,), size) for size in (1, 2, 4)]
        assert meter.consistent()
        assert meter.fused(call, (False,) * 3, 2) == default_seconds(call, 2)
        assert [meter.fused(relu, (False,), size) for size in (1, 2, 4)] == kept
