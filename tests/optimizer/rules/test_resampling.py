from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from retiarii.ir.types import BatchSize
from retiarii.optimizer.kernels import channel_shuffle
from retiarii.optimizer.rules.base import Form
from retiarii.testing.equivalence import (
    call_of_function,
    check,
    check_function,
    check_module,
    fused,
)
from retiarii.testing.isolation import check_isolation, check_module_isolation

FORMS = st.sampled_from([Form.MEMBERS, Form.CHANNELS])
BOTH = pytest.mark.parametrize("form", [Form.MEMBERS, Form.CHANNELS])
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def images(spatial: int) -> torch.Tensor:
    return randn(2, 4, *(6, 4, 5)[:spatial])


@settings(max_examples=60, deadline=None)
@given(
    spatial=st.integers(1, 3),
    kind=st.sampled_from(["nearest", "nearest-exact", "area", "linear", "bicubic"]),
    by=st.sampled_from([{"size": 7}, {"scale_factor": 2.0}, {"scale_factor": 0.5}, "sizes"]),
    corners=st.sampled_from([None, True, False]),
    antialias=st.booleans(),
    recompute=st.booleans(),
    size=st.integers(1, 3),
    form=FORMS,
)
def test_interpolation(spatial, kind, by, corners, antialias, recompute, size, form):
    spatial = 2 if kind == "bicubic" else spatial
    options = {"size": (3, 7, 5)[:spatial]} if by == "sizes" else dict(by)
    options["mode"] = LINEAR[spatial] if kind == "linear" else kind
    if kind in ("linear", "bicubic"):
        options["align_corners"] = corners
        options["antialias"] = antialias and spatial == 2
    if "scale_factor" in options:
        options["recompute_scale_factor"] = recompute or None

    # Named otherwise than in the harness, where `size` is the number of members.
    def resample(tensor):
        return F.interpolate(tensor, **options)

    x = images(spatial)
    call, _ = call_of_function(F.interpolate, (x,), options)
    rows = [[images(spatial)] for _ in range(size)]
    check(call, resample, rows, form=form)


@BOTH
def test_layers(form):
    x = images(2)
    check_module(lambda: nn.Upsample(scale_factor=2), x, form=form)
    check_module(lambda: nn.Upsample((5, 7), mode="bilinear", align_corners=True), x, form=form)
    check_module(lambda: nn.UpsamplingNearest2d(scale_factor=2), x, form=form)
    check_module(lambda: nn.UpsamplingBilinear2d(9), x, form=form)
    check_module(lambda: nn.PixelShuffle(2), x, form=form)
    check_module(lambda: nn.PixelUnshuffle(2), x, form=form)
    check_module(lambda: nn.ChannelShuffle(2), x, form=form)


@BOTH
@pytest.mark.parametrize("shared", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_sampling(form, shared, mode):
    options = {"form": form, "shared": shared, "mode": mode, "align_corners": False}
    check_function(F.grid_sample, images(2), randn(2, 3, 5, 2), **options)
    options |= {"padding_mode": "reflection", "align_corners": True}
    check_function(F.grid_sample, images(3), randn(2, 3, 5, 4, 3), **options)


@pytest.mark.parametrize("size", [1, 3])
def test_grids(size):
    def grid(theta):
        return F.affine_grid(theta, [2, 3, 4, 5], align_corners=True)

    theta = randn(2, 2, 3)
    call, _ = call_of_function(F.affine_grid, (theta, [2, 3, 4, 5]), {"align_corners": True})
    check(call, grid, [[randn(2, 2, 3)] for _ in range(size)])
    check_function(F.affine_grid, randn(2, 3, 4), (2, 1, 3, 4, 5), align_corners=False)


def test_grids_of_another_batch_size():
    theta = randn(2, 2, 3)
    call, _ = call_of_function(F.affine_grid, (theta, [2, 3, 4, 5]), {"align_corners": False})
    call = replace(call, attrs=call.attrs.merged({"size": (BatchSize(), 3, 4, 5)}))
    more = randn(7, 2, 3)
    _, results = fused(call, [[more], [more]], [False])
    expected = F.affine_grid(more, [7, 3, 4, 5], align_corners=False)
    torch.testing.assert_close(results[1][0], expected)


@BOTH
@pytest.mark.parametrize("size", [1, 3])
def test_shuffles(form, size):
    options = {"form": form, "size": size}
    check_function(F.pixel_shuffle, images(2), 2, **options)
    check_function(F.pixel_shuffle, randn(4, 5, 6), 2, size=size)
    check_function(F.pixel_shuffle, randn(2, 3, 4, 5, 6), 2, **options)
    check_function(F.pixel_unshuffle, images(2), 2, **options)
    check_function(F.pixel_unshuffle, randn(2, 4, 6), 2, size=size)
    check_function(F.channel_shuffle, images(2), 2, **options)
    check_function(F.channel_shuffle, randn(2, 6, 3), 3, **options)
    check_function(F.channel_shuffle, images(3), 4, **options)


def test_shuffled_images_keep_their_memory_format():
    x = torch.randn(2, 12, 3, 5).contiguous(memory_format=torch.channels_last)
    shuffled = channel_shuffle(x, 2, 3)
    assert shuffled.is_contiguous(memory_format=torch.channels_last)
    expected = torch.cat([F.channel_shuffle(part, 3) for part in x.split(6, 1)], 1)
    assert shuffled.equal(expected)


@BOTH
@pytest.mark.parametrize(
    "layer",
    [
        nn.Upsample(scale_factor=2, mode="bicubic"),
        nn.Upsample(scale_factor=2),
        nn.PixelShuffle(2),
        nn.ChannelShuffle(2),
    ],
)
def test_isolation(layer, form):
    check_module_isolation(layer, torch.randn(2, 4, 4, 4), form=form)


def test_isolation_of_samples():
    x, grid = torch.randn(2, 3, 4, 4), torch.rand(2, 5, 5, 2)
    call, _ = call_of_function(F.grid_sample, (x, grid), {"align_corners": False})
    check_isolation(call, [[torch.randn(2, 3, 4, 4), grid] for _ in range(3)], [False, True])
    check_isolation(call, [[x, torch.rand(2, 5, 5, 2)] for _ in range(3)], [True, False])
