from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from retiarii.ir.ops import bind_call, function_op
from retiarii.ir.types import Attrs, TensorType
from retiarii.optimizer.kernels import instance_norm, layer_norm, rms_norm
from retiarii.optimizer.rules.base import Call, Form, Fusion
from retiarii.optimizer.rules.registry import lower_group
from retiarii.testing.equivalence import call_of_module, check_function, check_module, fused
from retiarii.testing.isolation import check_module_isolation

FORMS = st.sampled_from([Form.MEMBERS, Form.CHANNELS])
SIZES = (5, 4, 3)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def images(spatial: int, batch: int | None = 2) -> torch.Tensor:
    return randn(*(() if batch is None else (batch,)), 4, *SIZES[:spatial])


@settings(max_examples=40, deadline=None)
@given(
    leading=st.integers(0, 3),
    over=st.integers(1, 2),
    eps=st.sampled_from([1e-5, 1e-2]),
    affine=st.booleans(),
    bias=st.booleans(),
    size=st.integers(1, 3),
    form=FORMS,
    shared=st.booleans(),
)
def test_layer_norm(leading, over, eps, affine, bias, size, form, shared):
    shape = (3, 4)[-over:]
    x = randn(*(2, 3, 2)[:leading], *shape)
    options = {"size": size, "shared": [shared]}
    options["form"] = form if x.ndim > 1 else Form.MEMBERS
    check_module(lambda: nn.LayerNorm(shape, eps, affine, bias), x, **options)


@settings(max_examples=30, deadline=None)
@given(
    leading=st.integers(0, 3),
    over=st.integers(1, 2),
    eps=st.sampled_from([None, 1e-2]),
    affine=st.booleans(),
    size=st.integers(1, 3),
    form=FORMS,
)
def test_rms_norm(leading, over, eps, affine, size, form):
    shape = (3, 4)[-over:]
    x = randn(*(2, 3, 2)[:leading], *shape)
    form = form if x.ndim > 1 else Form.MEMBERS
    check_module(lambda: nn.RMSNorm(shape, eps, affine), x, size=size, form=form)


@pytest.mark.parametrize("own", [True, False])
def test_functions_over_the_last_dimensions(own):
    x, weight, bias = randn(2, 3, 4), randn(4), randn(4)
    shared = (False, not own, not own)
    check_function(F.layer_norm, x, (4,), weight, bias, 1e-3, shared=shared)
    check_function(F.layer_norm, x, [4], weight=weight, shared=shared[:2])
    check_function(F.layer_norm, x, [4], bias=bias, shared=shared[:2])
    check_function(F.layer_norm, x, (3, 4))
    check_function(F.rms_norm, x, (4,), weight, shared=shared[:2])
    check_function(F.rms_norm, x, (3, 4), eps=1e-2)


@pytest.mark.parametrize(("weight", "bias"), [(True, True), (True, False), (False, True)])
def test_layer_norm_of_large_members(weight, bias):
    """On CPUs these are computed one after the other."""
    x = randn(8, 16, 128)
    options = {"weight": randn(128)} if weight else {}
    options |= {"bias": randn(128)} if bias else {}
    check_function(F.layer_norm, x, [128], **options, size=2)
    check_function(F.layer_norm, x, [16, 128], randn(16, 128), randn(16, 128), size=2)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(dtype):
    x, weight, bias = torch.randn(2, 3, 8).to(dtype), torch.randn(2, 8), torch.randn(2, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for g in range(2):
            pairs = (
                (
                    F.layer_norm(x[g], (8,), weight[g], bias[g]),
                    layer_norm(x, (8,), weight, bias, 1e-5)[g],
                ),
                (F.rms_norm(x[g], (8,), weight[g]), rms_norm(x, (8,), weight, None)[g]),
            )
            for alone, together in pairs:
                torch.testing.assert_close(together, alone, rtol=2e-2, atol=2e-2)


def test_parameters_of_another_dtype_are_not_fused():
    call = call_of_module(nn.LayerNorm(4), [torch.randn(2, 4)])
    x, *rest = call.inputs
    mixed = replace(call, inputs=(TensorType(x.shape, torch.bfloat16), *rest))
    assert lower_group(Fusion(mixed, 2, (False,) * 3, (Form.MEMBERS,) * 3)) is None


@settings(max_examples=40, deadline=None)
@given(
    spatial=st.integers(0, 3),
    groups=st.sampled_from([1, 2, 4]),
    eps=st.sampled_from([1e-5, 1e-2]),
    affine=st.booleans(),
    bias=st.booleans(),
    size=st.integers(1, 3),
    form=FORMS,
    shared=st.booleans(),
)
def test_group_norm(spatial, groups, eps, affine, bias, size, form, shared):
    def make():
        return nn.GroupNorm(groups, 4, eps, affine, bias=bias)

    options = {"size": size, "form": form, "shared": [shared]}
    check_module(make, images(spatial), **options)


def test_group_norm_function():
    x = images(2)
    check_function(F.group_norm, x, 2, randn(4), randn(4), 1e-3)
    check_function(F.group_norm, x, num_groups=4, form=Form.CHANNELS)


@settings(max_examples=80, deadline=None)
@given(
    spatial=st.integers(1, 3),
    eps=st.sampled_from([1e-5, 1e-2]),
    momentum=st.sampled_from([0.1, None, 1.0]),
    affine=st.booleans(),
    track=st.booleans(),
    training=st.booleans(),
    size=st.integers(1, 3),
    form=FORMS,
    batch=st.sampled_from([2, None]),
)
def test_instance_norm(spatial, eps, momentum, affine, track, training, size, form, batch):
    def make():
        layer = getattr(nn, f"InstanceNorm{spatial}d")(4, eps, momentum, affine, track)
        if track:
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
        return layer

    check_module(make, images(spatial, batch), size=size, form=form, training=training)


@pytest.mark.parametrize("form", [Form.MEMBERS, Form.CHANNELS])
def test_instance_norm_function(form):
    check_function(F.instance_norm, images(2), eps=1e-3, form=form)
    check_function(F.instance_norm, images(1), weight=randn(4), bias=randn(4), form=form)


@pytest.mark.parametrize("uses", [True, False])
def test_instance_norm_function_with_buffers(uses):
    rows = [[images(2), randn(4), randn(4).abs()] for _ in range(3)]
    match = function_op(F.instance_norm)
    options = {"use_input_stats": uses, "momentum": 0.3}
    tensors, attrs = bind_call(match.spec, rows[0], options)
    types = tuple(map(TensorType.of, tensors))
    call = Call(match.op, Attrs(attrs), types, types[:1])
    _, results = fused(call, [[t.clone() for t in row] for row in rows], [False] * 3)
    for row, (out, _, mean, var) in zip(rows, results, strict=True):
        torch.testing.assert_close(out, F.instance_norm(*row, **options))
        torch.testing.assert_close(mean, row[1])
        torch.testing.assert_close(var, row[2])
    shared = (False, True, True)
    forms = (Form.MEMBERS, Form.PLAIN, Form.PLAIN)
    assert (lower_group(Fusion(call, 3, shared, forms)) is None) is uses


def test_statistics_that_are_no_contiguous_stack_are_written():
    x = torch.randn(5, 6, 3)
    mean, var = torch.zeros(3, 2).t(), torch.ones(3, 2).t()
    options = {"use_input_stats": True, "momentum": 0.5, "eps": 1e-5}
    instance_norm(x, mean, var, None, None, **options)
    torch.testing.assert_close(mean.flatten(), x.mean((0, 2)) / 2)
    torch.testing.assert_close(var.flatten(), (x.var(2).mean(0) + 1) / 2)


@settings(max_examples=30, deadline=None)
@given(
    spatial=st.integers(1, 3),
    width=st.integers(1, 4),
    alpha=st.sampled_from([1e-4, 1.0]),
    beta=st.sampled_from([0.75, 1.0]),
    k=st.sampled_from([1.0, 2.0]),
    size=st.integers(1, 3),
    form=FORMS,
)
def test_local_response(spatial, width, alpha, beta, k, size, form):
    def make():
        return nn.LocalResponseNorm(width, alpha, beta, k)

    check_module(make, images(spatial), size=size, form=form)
    call = F.local_response_norm
    check_function(call, images(spatial), width, alpha, beta, k, size=size, form=form)


@pytest.mark.parametrize("form", [Form.MEMBERS, Form.CHANNELS])
@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -3, (2, 3)])
def test_unit_length(form, dim):
    check_function(F.normalize, images(2), dim=dim, form=form)
    if dim != (2, 3):
        check_function(F.normalize, images(2), 1.0, dim, 1e-3, form=form)


def test_unit_length_of_vectors():
    check_function(F.normalize, randn(5), dim=0)
    check_function(F.normalize, randn(5, 3), p=float("inf"), size=1)


@pytest.mark.parametrize("form", [Form.MEMBERS, Form.CHANNELS])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    "layer",
    [
        nn.LayerNorm(8),
        nn.LayerNorm((8, 8), bias=False),
        nn.RMSNorm(8),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    ],
)
def test_isolation(layer, shared, form):
    check_module_isolation(layer, torch.randn(2, 4, 8, 8), shared=shared, form=form)


def test_isolation_of_large_members():
    check_module_isolation(nn.LayerNorm(128), torch.randn(8, 16, 128))


def test_isolation_of_responses():
    check_module_isolation(nn.LocalResponseNorm(3), torch.randn(2, 4, 8, 8))
