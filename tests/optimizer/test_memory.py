"""Memory, estimated before anything is built, against what a step then takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import retiarii as rt
from retiarii.optimizer.lift import Model
from retiarii.optimizer.memory import Memory, estimate, fit
from retiarii.optimizer.watching import StorageWatch

Made = tuple[list[Model], Tensor]


def of(models: Sequence[nn.Module], x: Tensor) -> Made:
    return [Model.of(rt.parse(m, x), m) for m in models], x


def cnns() -> Made:
    def cnn(width: int) -> nn.Module:
        body = [nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.2)]
        return nn.Sequential(*body, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(width * 9, 3))

    return of([cnn(w) for w in (8, 8, 12, 8)], torch.randn(6, 3, 8, 8))


def mlps() -> Made:
    def mlp() -> nn.Module:
        return nn.Sequential(nn.Linear(30, 200), nn.Tanh(), nn.Linear(200, 3))

    return of([mlp() for _ in range(5)], torch.randn(4, 30))


def nas_bench() -> Made:
    space = rt.spaces.nas_bench_201(channels=4, cells=1, input_size=8)
    samples = [space.sample(i) for i in range(5)]
    return [Model.of(s.graph, s.build(0)) for s in samples], torch.randn(16, 3, 8, 8)


def step_of(models: Sequence[Model], x: Tensor) -> int:
    """The most bytes that live in a step of SGD with momentum."""
    merged = rt.merge([m.graph for m in models], fuse="on").train()
    optimizer = torch.optim.SGD(merged.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        sum(out.pow(2).mean() for out in merged(x)).backward()
        optimizer.step()

    step()
    optimizer.zero_grad()
    states = [state["momentum_buffer"] for state in optimizer.state.values()]
    with StorageWatch() as watch:
        watch.hold([*merged.parameters(), *merged.buffers(), *states, x])
        step()
    return watch.peak


@pytest.mark.parametrize("make", [cnns, mlps, nas_bench])
def test_the_estimate_is_the_peak(make: Callable[[], Made]) -> None:
    models, x = make()
    found = estimate(models, batch=len(x), states=1.0)
    assert found.exact
    assert found.peak == pytest.approx(step_of(models, x), rel=0.15)


def test_its_parts() -> None:
    models, _ = mlps()
    found = estimate(models, states=2.0)
    one = 4 * (30 * 200 + 200 + 200 * 3 + 3)
    assert found.parameters == found.gradients == 5 * one
    assert found.states == 10 * one
    # The input, both layers' results, and that of tanh is one of them.
    assert found.activations >= 4 * 4 * (30 + 5 * (200 + 3))
    assert found.peak >= found.parameters + found.gradients + found.states
    assert "MiB" in str(found)


def test_frozen_parameters_have_neither_gradients_nor_states() -> None:
    torch.manual_seed(0)
    backbone = nn.Linear(6, 10).requires_grad_(False)
    heads = [nn.Sequential(backbone, nn.Linear(10, 2)) for _ in range(3)]
    models, _ = of(heads, torch.randn(4, 6))
    found = estimate(models)
    assert found.gradients == found.states == 3 * 4 * 22
    assert found.parameters == 4 * 70 + found.gradients  # the backbone is there once


def test_nothing_of_it_is_made() -> None:
    models, _ = nas_bench()
    small, huge = estimate(models, batch=10), estimate(models, batch=10_000_000)
    assert huge.parameters == small.parameters
    assert huge.activations == pytest.approx(1_000_000 * small.activations, rel=0.01)
    assert huge.peak > 100 * 2**30  # more than there is here


class LooksAtValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.detach().sum().item() > 0 else -self.inner(x)


def test_what_needs_values_is_taken_to_keep_all() -> None:
    models, x = of(
        [nn.Sequential(LooksAtValues(), nn.Linear(6, 2)) for _ in range(2)], torch.randn(4, 6)
    )
    found = estimate(models)
    assert not found.exact
    assert "at most" in str(found)
    assert found.activations >= x.nbytes + 2 * 4 * 4 * (6 + 2)


@pytest.mark.parametrize("make", [cnns, mlps, nas_bench])
def test_fit(make: Callable[[], Made]) -> None:
    models, x = make()

    def peak(count: int) -> int:
        return estimate(models[:count], batch=len(x)).peak

    def room(size: int) -> int:
        return fit(models, size, batch=len(x))

    assert room(peak(len(models))) == len(models)
    assert room(0) == 0
    for count in range(1, len(models)):
        # The plan of the first few is not made anew, so that it may differ a little.
        assert room(int(1.1 * peak(count))) >= count
        assert room(int(0.8 * peak(count))) < count
    assert fit([], 10) == 0


def test_the_watch_counts_what_lives() -> None:
    with StorageWatch() as watch:
        a = torch.zeros(100)
        b = a.view(10, 10)
        assert (watch.live, watch.peak) == (400, 400)
        c = a + 1
        del a
        assert watch.live == 800  # b holds it
        del b
        assert watch.live == 400
        c.add_(1)
        assert (watch.live, watch.peak) == (400, 800)
        del c
    assert watch.live == 0


def test_shown() -> None:
    assert str(Memory(2**20, 0, 0, 3 * 2**19, 2**22)) == (
        "4.0 MiB: parameters 1.0 MiB, gradients 0.0 MiB, optimizer 0.0 MiB, activations 1.5 MiB"
    )
