from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from retiarii.ir.types import BatchSize
from retiarii.optimizer.rules.base import Form
from retiarii.testing.equivalence import call_of_function, check_function, check_module, fused
from retiarii.testing.isolation import check_module_isolation

FORMS = st.sampled_from([Form.MEMBERS, Form.CHANNELS])
KINDS = ("ZeroPad", "ConstantPad", "ReflectionPad", "ReplicationPad", "CircularPad")
SHAPE = (2, 3, 4, 5, 6)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    spatial=st.integers(1, 3),
    sizes=st.lists(st.integers(0, 2), min_size=6, max_size=6),
    one=st.booleans(),
    value=st.sampled_from([0.0, 1.5, float("inf")]),
    size=st.integers(1, 3),
    form=FORMS,
    batched=st.booleans(),
    shared=st.booleans(),
)
def test_layers(kind, spatial, sizes, one, value, size, form, batched, shared):
    layer = getattr(nn, f"{kind}{spatial}d")
    more = (value,) if kind == "ConstantPad" else ()
    width = sizes[0] if one else tuple(sizes[: 2 * spatial])
    x = randn(*SHAPE[0 if batched else 1 : spatial + 2])
    options = {"size": size, "form": form, "shared": [shared]}
    check_module(lambda: layer(width, *more), x, **options)


@settings(max_examples=60, deadline=None)
@given(
    rank=st.integers(1, 5),
    padded=st.integers(1, 5),
    sizes=st.lists(st.integers(-1, 2), min_size=10, max_size=10),
    value=st.sampled_from([None, 0, 2.5]),
    form=FORMS,
)
def test_constants_around_any_dimensions(rank, padded, sizes, value, form):
    x = randn(*SHAPE[:rank])
    form = form if rank > 1 else Form.MEMBERS
    check_function(F.pad, x, sizes[: 2 * min(rank, padded)], "constant", value, form=form)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("form", [Form.MEMBERS, Form.CHANNELS])
def test_modes(mode, form):
    check_function(F.pad, randn(2, 3, 5), (1, 2), mode, form=form)
    check_function(F.pad, randn(2, 3, 4, 5), (1, 2, 0, 1), mode=mode, form=form)
    check_function(F.pad, randn(3, 4, 5), (1, 2, 0, 1), mode=mode)
    check_function(F.pad, randn(2, 3, 4, 4, 5), (1, 2, 0, 1, 1, 0), mode=mode, form=form)


def test_integers_stay_integers():
    check_function(F.pad, torch.arange(12).view(1, 3, 4), (1, 1), value=3)
    check_function(F.pad, torch.ones(2, 3, dtype=torch.bool), (1, 0))


def test_a_width_that_is_the_batch_size():
    call, _ = call_of_function(F.pad, (randn(2, 3, 4), (0, 2)), {})
    call = replace(call, attrs=call.attrs.merged({"pad": (0, BatchSize(2, 1, -1))}))
    x = randn(5, 3, 4)
    _, results = fused(call, [[x], [x]], [False])
    torch.testing.assert_close(results[1][0], F.pad(x, (0, 9)))


@pytest.mark.parametrize("form", [Form.MEMBERS, Form.CHANNELS])
@pytest.mark.parametrize("layer", [nn.ZeroPad2d(1), nn.ReflectionPad2d(2), nn.CircularPad2d(1)])
def test_isolation(layer, form):
    check_module_isolation(layer, torch.randn(2, 3, 4, 5), form=form)
