"""Padding, resampling and the rearrangement of channels and pixels."""

from __future__ import annotations

from typing import Any, Final

from torch import nn

from retiarii.ir.op_rows.spec import Alias, Row, always, function, module, twin
from retiarii.ir.types import Attrs

_PAD = "input: T, pad, mode='constant', value=None"
_INTERPOLATE = (
    "input: T, size=None, scale_factor=None, mode='nearest', align_corners=None, "
    "recompute_scale_factor=None, antialias=False"
)


def _pads_nothing(attrs: Attrs) -> bool:
    sizes = attrs.get("padding", attrs.get("pad"))
    return isinstance(sizes, tuple) and all(type(s) is int and s == 0 for s in sizes)


def _pads_zeros(attrs: Attrs) -> bool:
    return attrs.get("mode", "constant") != "constant" or not attrs.get("value")


def _as_pad(mode: str, rank: int, value: float | None = None) -> Alias:
    def alias(attrs: Attrs) -> tuple[str, Attrs]:
        padding = attrs["padding"]
        given: dict[str, Any] = {
            "pad": (padding,) * (2 * rank) if isinstance(padding, int) else padding
        }
        if mode != "constant":
            given["mode"] = mode
        number = attrs.get("value", value)
        if number:
            given["value"] = number
        return "pad", Attrs(given)

    return alias


def _padding_layers() -> tuple[Row, ...]:
    rows: list[Row] = []
    kinds = (
        ("ZeroPad", "constant"),
        ("ConstantPad", "constant"),
        ("ReflectionPad", "reflect"),
        ("ReplicationPad", "replicate"),
        ("CircularPad", "circular"),
    )
    for kind, mode in kinds:
        for rank in (1, 2, 3):
            rows.append(
                module(
                    getattr(nn, f"{kind}{rank}d"),
                    "padding, value" if kind == "ConstantPad" else "padding",
                    identity=_pads_nothing,
                    zero_preserving=_pads_zeros,
                    alias=_as_pad(mode, rank),
                    fuse="pad",
                )
            )
    return tuple(rows)


SPATIAL: Final[tuple[Row, ...]] = (
    *_padding_layers(),
    function("pad", _PAD, "F.pad", identity=_pads_nothing, zero_preserving=_pads_zeros, fuse="pad"),
    module(
        nn.Upsample,
        "size=None, scale_factor=None, mode='nearest', align_corners=None, "
        "recompute_scale_factor=None",
        zero_preserving=always,
        alias=twin("interpolate", _INTERPOLATE),
        fuse="resample",
    ),
    module(
        nn.UpsamplingNearest2d,
        "size=None, scale_factor=None",
        zero_preserving=always,
        alias=twin("interpolate", _INTERPOLATE),
        fuse="resample",
    ),
    module(
        nn.UpsamplingBilinear2d,
        "size=None, scale_factor=None",
        zero_preserving=always,
        alias=twin("interpolate", _INTERPOLATE, fixed={"mode": "bilinear", "align_corners": True}),
        fuse="resample",
    ),
    function("interpolate", _INTERPOLATE, "F.interpolate", zero_preserving=always, fuse="resample"),
    function(
        "grid_sample",
        "input: T, grid: T, mode='bilinear', padding_mode='zeros', align_corners=None",
        "F.grid_sample",
        # torch.grid_sampler takes enumerations.
        search=False,
        zero_preserving=always,
        fuse="grid_sample",
    ),
    function(
        "affine_grid",
        "theta: T, size, align_corners=None",
        "F.affine_grid",
        fuse="affine_grid",
    ),
    module(
        nn.PixelShuffle,
        "upscale_factor",
        zero_preserving=always,
        alias=twin("pixel_shuffle", "input: T, upscale_factor"),
        fuse="shuffle",
    ),
    module(
        nn.PixelUnshuffle,
        "downscale_factor",
        zero_preserving=always,
        alias=twin("pixel_unshuffle", "input: T, downscale_factor"),
        fuse="shuffle",
    ),
    module(
        nn.ChannelShuffle,
        "groups",
        zero_preserving=always,
        alias=twin("channel_shuffle", "input: T, groups"),
        fuse="channel_shuffle",
    ),
    function(
        "pixel_shuffle",
        "input: T, upscale_factor",
        "F.pixel_shuffle",
        zero_preserving=always,
        fuse="shuffle",
    ),
    function(
        "pixel_unshuffle",
        "input: T, downscale_factor",
        "F.pixel_unshuffle",
        zero_preserving=always,
        fuse="shuffle",
    ),
    function(
        "channel_shuffle",
        "input: T, groups",
        "F.channel_shuffle",
        zero_preserving=always,
        fuse="channel_shuffle",
    ),
)
