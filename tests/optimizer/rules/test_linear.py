"""Linear and bilinear layers of many members as one product."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retiarii.optimizer import kernels
from retiarii.optimizer.rules.base import Form, Fusion
from retiarii.optimizer.rules.registry import lower_group
from retiarii.testing.equivalence import (
    call_of_function,
    call_of_module,
    check_function,
    check_module,
    fused,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5), (2, 3, 2, 5), (0, 5)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_linear_layer(shape: tuple[int, ...], bias: bool, size: int, shared: bool) -> None:
    check_module(lambda: nn.Linear(5, 3, bias=bias), randn(*shape), size=size, shared=[shared])


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 5)])
def test_linear_layer_on_channels(shape: tuple[int, ...]) -> None:
    check_module(lambda: nn.Linear(5, 3), randn(*shape), form=Form.CHANNELS)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shared", range(8))
def test_linear_function(shape: tuple[int, ...], bias: bool, shared: int) -> None:
    tensors = [randn(*shape), randn(3, 5), *([randn(3)] if bias else [])]
    marks = [bool(shared >> i & 1) for i in range(len(tensors))]
    check_function(F.linear, *tensors, shared=marks)


def test_linear_accepts_any_strides() -> None:
    x = randn(2, 3, 6, 5).transpose(0, 1)
    w, b = randn(3, 4, 5), randn(3, 4)
    expected = torch.stack([F.linear(*row) for row in zip(x, w, b, strict=True)])
    torch.testing.assert_close(kernels.linear(x, w, b), expected)


def test_linear_gradient_of_weights_is_contiguous() -> None:
    x, w, b = randn(3, 7, 5), randn(3, 4, 5), randn(3, 4)
    w.requires_grad_()
    (made,) = torch.autograd.grad(kernels.linear(x, w, b).sum(), [w])
    assert made.is_contiguous()


def test_linear_second_derivatives() -> None:
    x, w, b = (t.requires_grad_() for t in (randn(2, 3, 4), randn(2, 2, 4), randn(2, 2)))
    assert torch.autograd.gradgradcheck(kernels.linear, (x, w, b))


def test_shared_input_is_one_wide_product() -> None:
    call = call_of_module(nn.Linear(5, 3), [torch.randn(4, 5)])
    found = lower_group(Fusion(call, 3, (True, False, False), (Form.PLAIN, *[Form.MEMBERS] * 2)))
    assert found is not None
    assert found.inputs[0] is Form.PLAIN
    assert found.results == (Form.CHANNELS,)


def test_linear_of_unusual_weights_is_left_alone() -> None:
    for tensors in ([randn(4, 5), randn(5)], [randn(4, 5), randn(3, 5), randn(4, 3)]):
        call, _ = call_of_function(F.linear, tensors, {})
        marks = (False,) * len(tensors)
        assert lower_group(Fusion(call, 2, marks, (Form.MEMBERS,) * len(tensors))) is None


@pytest.mark.parametrize("shared", [True, False])
def test_linear_under_autocast(shared: bool) -> None:
    layers = [nn.Linear(5, 3) for _ in range(2)]
    x = torch.randn(4, 5)
    rows = [[x, *layer.parameters()] for layer in layers]
    call = call_of_module(layers[0], [x])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = [layer(x) for layer in layers]
        _, got = fused(call, rows, [shared, False, False])
    for layer, want, (have, *_) in zip(layers, expected, got, strict=True):
        assert have.dtype is torch.bfloat16
        torch.testing.assert_close(have, want, rtol=0.02, atol=0.02)
        own = list(layer.parameters())
        given = torch.autograd.grad(have.float().sum(), own, retain_graph=True)
        for a, p in zip(given, torch.autograd.grad(want.float().sum(), own), strict=True):
            assert a.dtype is torch.float32
            torch.testing.assert_close(a, p, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_bilinear_layer(shape: tuple[int, ...], bias: bool, size: int) -> None:
    other = randn(*shape[:-1], 6)
    check_module(lambda: nn.Bilinear(5, 6, 3, bias=bias), randn(*shape), other, size=size)


@pytest.mark.parametrize("shared", range(16))
def test_bilinear_function(shared: int) -> None:
    tensors = [randn(4, 5), randn(4, 6), randn(3, 5, 6), randn(3)]
    check_function(F.bilinear, *tensors, shared=[bool(shared >> i & 1) for i in range(4)])


@pytest.mark.parametrize("bad", [0, 1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("shared", [True, False])
def test_what_is_wrong_in_one_member_stays_there(bad: int, value: float, shared: bool) -> None:
    layers = [nn.Linear(5, 3).double() for _ in range(3)]
    x = randn(3, 4, 5)

    def run() -> list[list[Tensor]]:
        rows = [[x[0] if shared else x[g], *layers[g].parameters()] for g in range(3)]
        call = call_of_module(layers[0], [x[0]])
        _, got = fused(call, rows, [shared, False, False])
        grads = [
            torch.autograd.grad(
                row[0].square().sum(), list(layers[g].parameters()), retain_graph=True
            )
            for g, row in enumerate(got)
        ]
        return [[row[0].detach(), *own] for row, own in zip(got, grads, strict=True)]

    before = run()
    with torch.no_grad():
        layers[bad].weight[0, 0] = value
    after = run()
    assert not after[bad][0].isfinite().all()
    for g in {0, 1, 2} - {bad}:
        assert all(map(torch.equal, before[g], after[g]))
