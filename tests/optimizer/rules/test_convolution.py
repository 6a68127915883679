from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from retiarii.optimizer.rules.base import Form, Fusion
from retiarii.optimizer.rules.registry import lower_group
from retiarii.testing.equivalence import call_of_module, check_function, check_module, fused
from retiarii.testing.isolation import check_module_isolation

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
SIZES = (7, 6, 5)
INCOMING = pytest.mark.parametrize("form", [Form.MEMBERS, Form.CHANNELS])


def image(channels: int, spatial: int, batch: int | None = 2) -> torch.Tensor:
    shape = (channels, *SIZES[:spatial])
    return torch.randn(*(() if batch is None else (batch,)), *shape, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=60, deadline=None)
@given(
    spatial=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.one_of(st.integers(0, 1), st.sampled_from(["same", "valid"])),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    size=st.integers(1, 3),
    shared=st.booleans(),
    batch=st.sampled_from([2, 1, None]),
)
def test_conv_layers(
    spatial, kernel, stride, padding, dilation, groups, bias, mode, size, shared, batch
):
    if padding == "same":
        stride = 1

    def make():
        return CONVS[spatial - 1](
            4, 8, kernel, stride, padding, dilation, groups, bias, padding_mode=mode
        )

    check_module(make, image(4, spatial, batch), size=size, shared=[shared])


@settings(max_examples=40, deadline=None)
@given(
    spatial=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 1),
    extra=st.integers(0, 1),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    size=st.integers(1, 3),
    shared=st.booleans(),
    batch=st.sampled_from([2, None]),
)
def test_transposed_layers(
    spatial, kernel, stride, padding, extra, dilation, groups, bias, size, shared, batch
):
    kernel = max(kernel, padding + 1)
    extra = min(extra, max(stride, dilation) - 1)

    def make():
        return TRANSPOSED[spatial - 1](4, 6, kernel, stride, padding, extra, groups, bias, dilation)

    check_module(make, image(4, spatial, batch), size=size, shared=[shared])


@INCOMING
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_forms(spatial, form):
    x = image(4, spatial)
    check_module(lambda: CONVS[spatial - 1](4, 6, 3, padding=1, groups=2), x, form=form)
    check_module(lambda: TRANSPOSED[spatial - 1](4, 6, 3, groups=2), x, form=form)


def test_uneven_options():
    x = image(4, 2)
    check_module(lambda: nn.Conv2d(4, 3, (3, 2), (1, 2), (1, 0), (2, 1)), x)
    check_module(lambda: nn.Conv2d(4, 3, (4, 1), padding="same", padding_mode="reflect"), x)
    check_module(lambda: nn.Conv2d(4, 3, (3, 1), padding=(2, 1), padding_mode="circular"), x)
    check_module(lambda: nn.ConvTranspose2d(4, 3, (3, 2), (1, 2), (1, 0), (0, 1)), x)


@pytest.mark.parametrize("wanted", [(13, 11), (14, 12), (2, 3, 14, 11)])
def test_output_size_of_a_transposed_layer(wanted):
    check_module(lambda: nn.ConvTranspose2d(4, 3, 3, 2, 1), image(4, 2), output_size=wanted)


@pytest.mark.parametrize("shared", [(False, False, False), (True, False, False)])
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_functions(spatial, shared):
    x = image(4, spatial)
    kernel = (3,) * spatial
    weight, bias = torch.randn(6, 2, *kernel).double(), torch.randn(6).double()
    conv = getattr(F, f"conv{spatial}d")
    check_function(conv, x, weight, bias, padding=1, groups=2, shared=shared)
    check_function(conv, x, weight, stride=2, padding="valid", groups=2, shared=shared[:2])
    weight = torch.randn(4, 3, *kernel).double()
    transposed = getattr(F, f"conv_transpose{spatial}d")
    check_function(transposed, x, weight, bias, 2, 1, 1, groups=2, shared=shared)
    check_function(transposed, x, weight, bias=bias[:3], shared=shared)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [2, None])
def test_shared_filters(batch, bias):
    """A fixed blur: members are further images."""
    x = image(4, 2, batch)
    weight, extra = torch.randn(6, 2, 3, 3).double(), torch.randn(6).double()
    tensors = (x, weight, extra) if bias else (x, weight)
    shared = (False, True, True)[: len(tensors)]
    check_function(F.conv2d, *tensors, padding=1, groups=2, shared=shared)
    weight = torch.randn(4, 6, 3, 3).double()
    tensors = (x, weight, extra) if bias else (x, weight)
    check_function(F.conv_transpose2d, *tensors, shared=shared)


def test_shared_filters_with_a_bias_of_each_member():
    x, weight, bias = image(4, 2), torch.randn(6, 4, 3, 3).double(), torch.randn(6).double()
    check_function(F.conv2d, x, weight, bias, shared=(False, True, False))


def test_a_shared_input_is_read_once():
    call = call_of_module(nn.Conv2d(4, 8, 3), [torch.randn(2, 4, 8, 8)])
    fusion = Fusion(call, 3, (True, False, False), (Form.PLAIN, Form.MEMBERS, Form.MEMBERS))
    lowering = lower_group(fusion)
    assert lowering is not None
    assert lowering.inputs[0] is Form.PLAIN
    assert lowering.text == "kernels.conv(F.conv2d, $0, $1, $2)"


@pytest.mark.parametrize("padding", ["same", (2, 2)])
def test_numbers_mean_the_same_in_all_directions(padding):
    """Graphs that are written by hand say ``padding=2`` where a layer keeps ``(2, 2)``."""
    layer = nn.Conv2d(4, 4, 3, padding=padding, dilation=2, padding_mode="reflect")
    pair = call_of_module(layer, [torch.randn(2, 4, 8, 8)])
    number = {"dilation": 2, "padding": padding if padding == "same" else 2}
    texts = []
    for call in (pair, replace(pair, attrs=pair.attrs.merged(number))):
        lowering = lower_group(Fusion(call, 2, (False,) * 3, (Form.MEMBERS,) * 3))
        assert lowering is not None
        texts.append(lowering.text.replace("dilation=2", "dilation=(2, 2)"))
    assert texts[0] == texts[1]
    assert "(2, 2, 2, 2)" in texts[0]


def test_images_are_channels_last():
    layer = nn.Conv2d(4, 8, 3, padding=1)
    call = call_of_module(layer, [torch.randn(2, 4, 8, 8)])
    rows = [[torch.randn(2, 4, 8, 8), *layer.parameters()] for _ in range(3)]
    _, results = fused(call, rows, [False] * 3)
    assert results[0][0].stride()[1] == 1


def test_what_is_not_known_is_not_fused():
    call = call_of_module(nn.Conv2d(4, 8, 3), [torch.randn(2, 4, 8, 8)])
    odd = replace(call, attrs=call.attrs.merged({"lanes": 2}))
    forms = (Form.MEMBERS,) * 3
    assert lower_group(Fusion(odd, 2, (False,) * 3, forms)) is None


@INCOMING
@pytest.mark.parametrize("size", [1, 2])
def test_folding(form, size):
    x = image(4, 2)
    check_module(lambda: nn.Unfold(3, 1, 1, 2), x, form=form, size=size)
    check_module(lambda: nn.Unfold((2, 3)), image(4, 2, None), size=size)
    columns = torch.randn(2, 4 * 4, 12, dtype=torch.float64)
    check_module(lambda: nn.Fold((4, 5), 2), columns, form=form, size=size)
    check_module(lambda: nn.Fold((4, 5), 2), columns[0], size=size)
    check_function(F.unfold, x, 3, padding=1, form=form, size=size)
    check_function(F.fold, columns, (4, 5), kernel_size=2, form=form, size=size)


@pytest.mark.parametrize("channels", [3, 4, 8, 16, 32])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("groups", ["one", "each"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_isolation(channels, shared, groups, kernel):
    groups = channels if groups == "each" else 1
    layer = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=groups)
    check_module_isolation(layer, torch.randn(2, channels, 8, 8), shared=shared)


@pytest.mark.parametrize("shared", [False, True])
def test_isolation_of_signals_and_volumes(shared):
    check_module_isolation(nn.Conv1d(4, 8, 3, groups=2), torch.randn(2, 4, 9), shared=shared)
    check_module_isolation(nn.Conv3d(4, 8, 3), torch.randn(2, 4, 5, 5, 5), shared=shared)
    layer = nn.Conv2d(6, 8, 3, 2, 2, 2, groups=2, padding_mode="circular")
    check_module_isolation(layer, torch.randn(2, 6, 9, 9), shared=shared)


def test_isolation_of_transposed_layers():
    check_module_isolation(nn.ConvTranspose2d(4, 8, 3, 2), torch.randn(2, 4, 5, 5))
    check_module_isolation(nn.ConvTranspose2d(4, 8, 3, 2), torch.randn(2, 4, 5, 5), shared=True)
    check_module_isolation(nn.ConvTranspose1d(4, 8, 3, 2), torch.randn(2, 4, 5))


def test_complex():
    x, weight = image(4, 2).to(torch.complex128), torch.randn(6, 4, 3, 3).to(torch.complex128)
    check_function(F.conv2d, x, weight)
