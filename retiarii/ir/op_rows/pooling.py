"""Pooling layers and functions."""

from __future__ import annotations

from typing import Final

from torch import nn

from retiarii.ir.op_rows.spec import Row, Spelling, always, function, module, twin
from retiarii.ir.types import Attrs

_X = "input: T, "
_MAX_LAYER = (
    "kernel_size, stride=None, padding=0, dilation=1, return_indices=False, ceil_mode=False"
)
_MAX = _X + "kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False"
_AVG1 = _X + "kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True"
_AVG = _AVG1 + ", divisor_override=None"
_LP = _X + "norm_type, kernel_size, stride=None, ceil_mode=False"
_UNPOOL = "input: T, indices: T, kernel_size, stride=None, padding=0, output_size=None"
_FRACTIONAL = _X + "kernel_size, output_size=None, output_ratio=None, return_indices=False"
_ADAPTIVE_MAX = _X + "output_size, return_indices=False"
_AS_KERNEL = {"stride": "kernel_size"}


def _window_of_one(attrs: Attrs) -> bool:
    """Each window is one element, and all are kept."""
    return (
        all(
            value == 1 or (isinstance(value, tuple) and set(value) == {1})
            for value in (attrs["kernel_size"], attrs.get("stride") or 1)
        )
        and attrs.get("padding", 0) in (0, (0,), (0, 0), (0, 0, 0))
        and not attrs.get("return_indices", False)
        and attrs.get("divisor_override") is None
    )


def _one_result(attrs: Attrs) -> bool:
    return not attrs.get("return_indices", False)


def _of_rank(n: int) -> tuple[Row, ...]:
    average = _AVG1 if n == 1 else _AVG

    def layer(kind: str) -> type[nn.Module]:
        found: type[nn.Module] = getattr(nn, f"{kind}{n}d")
        return found

    return (
        module(
            layer("MaxPool"),
            _MAX_LAYER,
            identity=_window_of_one,
            zero_preserving=_one_result,
            alias=twin(f"max_pool{n}d", _MAX, same_as=_AS_KERNEL),
            fuse="pool",
        ),
        module(
            layer("AvgPool"),
            average.removeprefix(_X),
            identity=_window_of_one,
            zero_preserving=always,
            alias=twin(f"avg_pool{n}d", average, same_as=_AS_KERNEL),
            fuse="pool",
        ),
        module(
            layer("LPPool"),
            _LP.removeprefix(_X),
            zero_preserving=always,
            alias=twin(f"lp_pool{n}d", _LP),
            fuse="pool",
        ),
        module(
            layer("AdaptiveAvgPool"),
            "output_size",
            zero_preserving=always,
            alias=twin(f"adaptive_avg_pool{n}d", "input: T, output_size"),
            fuse="pool",
        ),
        module(
            layer("AdaptiveMaxPool"),
            "output_size, return_indices=False",
            zero_preserving=_one_result,
            alias=twin(f"adaptive_max_pool{n}d", _ADAPTIVE_MAX),
            fuse="pool",
        ),
        module(
            layer("MaxUnpool"),
            "kernel_size, stride=None, padding=0",
            "input: T, indices: T, output_size=None",
            zero_preserving=always,
            fuse="unpool",
        ),
        function(
            f"max_pool{n}d",
            _MAX,
            f"F.max_pool{n}d",
            Spelling(f"F.max_pool{n}d_with_indices", presets={"return_indices": True}),
            identity=_window_of_one,
            zero_preserving=_one_result,
            fuse="pool",
        ),
        function(
            f"avg_pool{n}d",
            average,
            f"F.avg_pool{n}d",
            identity=_window_of_one,
            zero_preserving=always,
            fuse="pool",
        ),
        function(f"lp_pool{n}d", _LP, f"F.lp_pool{n}d", zero_preserving=always, fuse="pool"),
        function(
            f"adaptive_avg_pool{n}d",
            "input: T, output_size",
            f"F.adaptive_avg_pool{n}d",
            zero_preserving=always,
            fuse="pool",
        ),
        # torch.adaptive_max_pool1d always returns the indices as well.
        function(
            f"adaptive_max_pool{n}d",
            _ADAPTIVE_MAX,
            f"F.adaptive_max_pool{n}d",
            Spelling(f"F.adaptive_max_pool{n}d_with_indices", presets={"return_indices": True}),
            search=False,
            zero_preserving=_one_result,
            fuse="pool",
        ),
        function(
            f"max_unpool{n}d", _UNPOOL, f"F.max_unpool{n}d", zero_preserving=always, fuse="unpool"
        ),
    )


def _fractional(n: int) -> tuple[Row, ...]:
    layer: type[nn.Module] = getattr(nn, f"FractionalMaxPool{n}d")
    return (
        module(layer, _FRACTIONAL.removeprefix(_X), pure=False, random=True, fuse="fractional"),
        function(
            f"fractional_max_pool{n}d",
            _FRACTIONAL + ", _random_samples: T = None",
            f"F.fractional_max_pool{n}d",
            Spelling(f"F.fractional_max_pool{n}d_with_indices", presets={"return_indices": True}),
            search=False,
            pure=False,
            random=True,
            fuse="fractional",
        ),
    )


POOLING: Final[tuple[Row, ...]] = (
    *_of_rank(1),
    *_of_rank(2),
    *_of_rank(3),
    *_fractional(2),
    *_fractional(3),
)
