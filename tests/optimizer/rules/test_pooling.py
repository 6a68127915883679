from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from retiarii.ir.types import BatchSize
from retiarii.optimizer.kernels import global_average
from retiarii.optimizer.rules.base import Form, Fusion
from retiarii.optimizer.rules.registry import lower_group
from retiarii.testing.equivalence import call_of_module, check_function, check_module, fused
from retiarii.testing.isolation import check_module_isolation

SIZES = (9, 8, 7)
FORMS = st.sampled_from([Form.MEMBERS, Form.CHANNELS])
RANKS = pytest.mark.parametrize("spatial", [1, 2, 3])


def images(spatial: int, batch: int | None = 2) -> torch.Tensor:
    shape = (3, *SIZES[:spatial])
    return torch.randn(*(() if batch is None else (batch,)), *shape, dtype=torch.float64)


def layer(name: str, spatial: int) -> type[nn.Module]:
    return getattr(nn, f"{name}{spatial}d")


@settings(max_examples=60, deadline=None)
@given(
    spatial=st.integers(1, 3),
    kernel=st.integers(2, 3),
    stride=st.sampled_from([None, 1, 2]),
    padding=st.integers(0, 1),
    dilation=st.integers(1, 2),
    indices=st.booleans(),
    ceil=st.booleans(),
    size=st.integers(1, 3),
    form=FORMS,
    batch=st.sampled_from([2, None]),
)
def test_max(spatial, kernel, stride, padding, dilation, indices, ceil, size, form, batch):
    def make():
        return layer("MaxPool", spatial)(kernel, stride, padding, dilation, indices, ceil)

    check_module(make, images(spatial, batch), size=size, form=form)


@settings(max_examples=60, deadline=None)
@given(
    spatial=st.integers(1, 3),
    kernel=st.integers(2, 3),
    stride=st.sampled_from([None, 1, 2]),
    padding=st.integers(0, 1),
    ceil=st.booleans(),
    counted=st.booleans(),
    divisor=st.sampled_from([None, 3]),
    size=st.integers(1, 3),
    form=FORMS,
    batch=st.sampled_from([2, None]),
)
def test_average(spatial, kernel, stride, padding, ceil, counted, divisor, size, form, batch):
    more = (divisor,) if spatial > 1 else ()

    def make():
        return layer("AvgPool", spatial)(kernel, stride, padding, ceil, counted, *more)

    check_module(make, images(spatial, batch), size=size, form=form)


@settings(max_examples=40, deadline=None)
@given(
    spatial=st.integers(1, 3),
    sizes=st.lists(st.sampled_from([1, 2, 3, None]), min_size=3, max_size=3),
    single=st.booleans(),
    indices=st.booleans(),
    size=st.integers(1, 3),
    form=FORMS,
    batch=st.sampled_from([2, None]),
)
def test_adaptive(spatial, sizes, single, indices, size, form, batch):
    wanted = (sizes[0] or 2) if single or spatial == 1 else tuple(sizes[:spatial])
    x = images(spatial, batch)
    options = {"size": size, "form": form}
    check_module(lambda: layer("AdaptiveAvgPool", spatial)(wanted), x, **options)
    check_module(lambda: layer("AdaptiveMaxPool", spatial)(wanted, indices), x, **options)


@settings(max_examples=30, deadline=None)
@given(
    spatial=st.integers(1, 3),
    norm=st.sampled_from([1, 2, 3.0]),
    stride=st.sampled_from([None, 2]),
    ceil=st.booleans(),
    form=FORMS,
    batch=st.sampled_from([2, None]),
)
def test_powers(spatial, norm, stride, ceil, form, batch):
    options = {"form": form, "positive": True}
    call = getattr(F, f"lp_pool{spatial}d")
    check_function(call, images(spatial, batch).abs(), norm, 2, stride, ceil, **options)


@RANKS
@pytest.mark.parametrize("form", [Form.MEMBERS, Form.CHANNELS])
@pytest.mark.parametrize("shared", [True, False])
def test_functions(spatial, form, shared):
    x = images(spatial)
    options = {"form": form, "shared": [shared]}
    check_function(getattr(F, f"max_pool{spatial}d"), x, 2, padding=1, **options)
    check_function(getattr(F, f"avg_pool{spatial}d"), x, (2,) * spatial, **options)
    check_function(getattr(F, f"adaptive_avg_pool{spatial}d"), x, 2, **options)
    pool = getattr(F, f"adaptive_max_pool{spatial}d")
    check_function(pool, x, 2, return_indices=True, **options)
    check_function(pool, x, 2, **options)


@RANKS
@pytest.mark.parametrize("form", [Form.MEMBERS, Form.CHANNELS])
@pytest.mark.parametrize("batch", [2, None])
def test_unpooling(spatial, form, batch):
    x = images(spatial, batch)
    x = x[..., :8] if spatial == 1 else x[..., :8, :6]
    x = x[..., :8, :, :] if spatial == 3 else x
    small, indices = getattr(F, f"max_pool{spatial}d")(x, 2, return_indices=True)
    unpool = getattr(F, f"max_unpool{spatial}d")
    sizes = [None, x.shape[-spatial:]] + ([x.shape] if batch else [])
    for size in sizes:
        check_function(unpool, small, indices, 2, output_size=size, form=form)
        made = {} if size is None else {"output_size": tuple(size)}
        check_module(lambda: layer("MaxUnpool", spatial)(2), small, indices, form=form, **made)
    check_function(unpool, small, indices, 2, shared=[False, True], form=form)


def test_unpooling_to_the_size_of_another_batch():
    small, indices = F.max_pool2d(torch.randn(2, 3, 8, 8), 2, return_indices=True)
    call = call_of_module(nn.MaxUnpool2d(2), [small, indices])
    size = {"output_size": (BatchSize(), 3, 8, 8)}
    call = type(call)(call.op, call.attrs.merged(size), call.inputs, call.results)
    bigger, places = F.max_pool2d(torch.randn(5, 3, 8, 8), 2, return_indices=True)
    _, results = fused(call, [[bigger, places]] * 2, [False, False])
    torch.testing.assert_close(results[1][0], F.max_unpool2d(bigger, places, 2))


@pytest.mark.parametrize("wanted", [1, (1, 1)])
@pytest.mark.parametrize("form", [Form.MEMBERS, Form.CHANNELS])
def test_global_average(wanted, form):
    check_function(F.adaptive_avg_pool2d, images(2), wanted, form=form)
    check_function(F.adaptive_avg_pool2d, images(2, None), wanted)


def test_global_average_of_half_precision_does_not_overflow():
    x = torch.full((2, 3, 16, 16), 1000.0, dtype=torch.float16)
    assert global_average(x).eq(1000).all()


def test_no_images():
    call = call_of_module(nn.MaxPool2d(2), [torch.randn(2, 3, 8, 8)])
    _, results = fused(call, [[torch.randn(0, 3, 8, 8)]] * 2, [False])
    assert results[0][0].shape == (0, 3, 4, 4)


@pytest.mark.parametrize("form", [Form.MEMBERS, Form.CHANNELS])
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(3, 1, 1), nn.AdaptiveAvgPool2d(1)])
def test_isolation(pool, form):
    check_module_isolation(pool, torch.randn(2, 3, 8, 8), form=form)


@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_inputs_are_written_once(spatial):
    """Generated code may put an expression in the place of an input."""
    call = call_of_module(layer("MaxPool", spatial)(2, return_indices=True), [images(spatial)])
    lowering = lower_group(Fusion(call, 2, (False,), (Form.MEMBERS,)))
    assert lowering is not None
    assert lowering.text.count("$0") == 1
