"""Activations: layers and functions, elementwise and along a dimension."""

from __future__ import annotations

from typing import Any, Final

from torch import nn

from retiarii.ir.op_rows.spec import Row, Spelling, always, function, module, twin
from retiarii.ir.types import Attrs

_INPLACE = "inplace=False"


def _zero_within(attrs: Attrs) -> bool:
    return bool(attrs.get("min_val", -1.0) <= 0 <= attrs.get("max_val", 1.0))


def _threshold_keeps_zero(attrs: Attrs) -> bool:
    return bool(attrs["threshold"] < 0 or attrs["value"] == 0)


def _both(
    layer: type[nn.Module], op: str, parameters: str, call: str = "", *more: Any, **facts: Any
) -> tuple[Row, Row]:
    """The rows of an elementwise layer and of the function with its parameters."""
    signature = f"input: T, {parameters}".removesuffix(", ")
    facts = {"elementwise": True, "fuse": "elementwise", **facts}
    return (
        module(layer, parameters, alias=twin(op, signature), **facts),
        function(op, signature, call or f"F.{op}", *more, **facts),
    )


ACTIVATION: Final[tuple[Row, ...]] = (
    *_both(nn.ReLU, "relu", _INPLACE, zero_preserving=always),
    *_both(nn.ReLU6, "relu6", _INPLACE, zero_preserving=always),
    *_both(nn.LeakyReLU, "leaky_relu", f"negative_slope=0.01, {_INPLACE}", zero_preserving=always),
    *_both(nn.ELU, "elu", f"alpha=1.0, {_INPLACE}", zero_preserving=always),
    *_both(nn.CELU, "celu", f"alpha=1.0, {_INPLACE}", zero_preserving=always),
    *_both(nn.SELU, "selu", _INPLACE, zero_preserving=always),
    *_both(nn.GELU, "gelu", "approximate='none'", zero_preserving=always),
    *_both(nn.SiLU, "silu", _INPLACE, zero_preserving=always),
    *_both(nn.Mish, "mish", _INPLACE, zero_preserving=always),
    *_both(nn.Hardswish, "hardswish", _INPLACE, zero_preserving=always),
    *_both(nn.Hardsigmoid, "hardsigmoid", _INPLACE),
    *_both(
        nn.Hardtanh,
        "hardtanh",
        f"min_val=-1.0, max_val=1.0, {_INPLACE}",
        zero_preserving=_zero_within,
    ),
    *_both(nn.Hardshrink, "hardshrink", "lambd=0.5", zero_preserving=always),
    *_both(nn.Softshrink, "softshrink", "lambd=0.5", zero_preserving=always),
    *_both(nn.Tanhshrink, "tanhshrink", "", zero_preserving=always),
    *_both(nn.Softsign, "softsign", "", zero_preserving=always),
    *_both(nn.Softplus, "softplus", "beta=1.0, threshold=20.0"),
    *_both(nn.LogSigmoid, "logsigmoid", ""),
    *_both(
        nn.Threshold,
        "threshold",
        f"threshold, value, {_INPLACE}",
        zero_preserving=_threshold_keeps_zero,
    ),
    *_both(nn.Sigmoid, "sigmoid", "", "torch.sigmoid", "torch.special.expit"),
    *_both(nn.Tanh, "tanh", "", "torch.tanh", zero_preserving=always),
    module(
        nn.PReLU,
        "num_parameters=1",
        placed=True,
        zero_preserving=always,
        resize="prelu",
        fuse="elementwise",
    ),
    function("prelu", "input: T, weight: T", "F.prelu", zero_preserving=always, fuse="prelu"),
    module(
        nn.GLU,
        "dim=-1",
        zero_preserving=always,
        alias=twin("glu", "input: T, dim=-1"),
        fuse="reduce",
    ),
    function("glu", "input: T, dim=-1", "F.glu", zero_preserving=always, fuse="reduce"),
    module(nn.Softmax, "dim=None", alias=twin("softmax", "input: T, dim=None"), fuse="reduce"),
    module(
        nn.LogSoftmax, "dim=None", alias=twin("log_softmax", "input: T, dim=None"), fuse="reduce"
    ),
    module(nn.Softmin, "dim=None", alias=twin("softmin", "input: T, dim=None"), fuse="reduce"),
    module(nn.Softmax2d, alias=twin("softmax", "input: T", fixed={"dim": -3}), fuse="reduce"),
    *(
        function(
            op,
            "input: T, dim=None, _stacklevel=3, dtype=None",
            f"F.{op}",
            *(
                Spelling(f"{root}.{op}", "input: T, dim, dtype=None")
                for root in ("torch", "Tensor", "torch.special")
            ),
            fuse="reduce",
        )
        for op in ("softmax", "log_softmax", "softmin")
    ),
)
