"""Convolutions, transposed convolutions, and the sliding windows that they are made of."""

from __future__ import annotations

from typing import Final

from torch import nn

from retiarii.ir.op_rows import flops
from retiarii.ir.op_rows.spec import Row, always, function, module, twin
from retiarii.ir.types import Attrs

_LAYER = (
    "in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, "
    "bias=True, padding_mode='zeros'"
)
_TRANSPOSED_LAYER = (
    "in_channels, out_channels, kernel_size, stride=1, padding=0, output_padding=0, groups=1, "
    "bias=True, dilation=1, padding_mode='zeros'"
)
_CONV = "input: T, weight: T, bias: T = None, stride=1, padding=0, dilation=1, groups=1"
_TRANSPOSED = (
    "input: T, weight: T, bias: T = None, stride=1, padding=0, output_padding=0, groups=1, "
    "dilation=1"
)
_FOLD = "input: T, output_size, kernel_size, dilation=1, padding=0, stride=1"
_UNFOLD = "input: T, kernel_size, dilation=1, padding=0, stride=1"


def without_bias(attrs: Attrs) -> bool:
    """Linear in its input, and nothing added."""
    return attrs["bias"] is False


CONVOLUTION: Final[tuple[Row, ...]] = (
    *(
        module(
            layer,
            _LAYER,
            inferred="in_channels:groups",
            placed=True,
            zero_preserving=without_bias,
            flops=flops.conv_layer,
            resize="conv",
            fuse="conv",
        )
        for layer in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    ),
    *(
        module(
            layer,
            _TRANSPOSED_LAYER,
            "input: T, output_size=None",
            inferred="in_channels:groups",
            placed=True,
            zero_preserving=without_bias,
            flops=flops.conv_transpose_layer,
            resize="conv",
            fuse="conv_transpose",
        )
        for layer in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    ),
    *(
        function(f"conv{n}d", _CONV, f"F.conv{n}d", flops=flops.conv, fuse="conv")
        for n in (1, 2, 3)
    ),
    *(
        function(
            f"conv_transpose{n}d",
            _TRANSPOSED,
            f"F.conv_transpose{n}d",
            flops=flops.conv_transpose,
            fuse="conv_transpose",
        )
        for n in (1, 2, 3)
    ),
    module(
        nn.Fold,
        _FOLD.removeprefix("input: T, "),
        zero_preserving=always,
        alias=twin("fold", _FOLD),
        fuse="window",
    ),
    module(
        nn.Unfold,
        _UNFOLD.removeprefix("input: T, "),
        zero_preserving=always,
        alias=twin("unfold", _UNFOLD),
        fuse="window",
    ),
    function("fold", _FOLD, "F.fold", search=False, zero_preserving=always, fuse="window"),
    function("unfold", _UNFOLD, "F.unfold", search=False, zero_preserving=always, fuse="window"),
)
