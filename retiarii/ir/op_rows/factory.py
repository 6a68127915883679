"""Tensors made from sizes and numbers, or in the likeness of a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from retiarii.ir.op_rows.spec import Row, Spelling, always, function

_MADE = "dtype=None, device=None, requires_grad=False"
_LIKE = f"*, {_MADE}, memory_format=None"


def _with_start(
    args: tuple[Any, ...], kwargs: dict[str, Any], _is_tensor: Callable[[Any], bool]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``arange(n)`` counts from zero; ``randint(n, size)`` draws from zero."""
    if len(args) + ("end" in kwargs) == 1 and "start" not in kwargs:
        return (0, *args), kwargs
    return args, kwargs


FACTORY: Final[tuple[Row, ...]] = (
    function("zeros", f"*size, {_MADE}", "torch.zeros", search=False),
    function("ones", f"*size, {_MADE}", "torch.ones", search=False),
    # What it holds is not defined.
    function("empty", f"*size, {_MADE}", "torch.empty", search=False, pure=False),
    function("full", f"size: P, fill_value: P, *, {_MADE}", "torch.full", search=False),
    function(
        "arange",
        f"start: P, end: P, step: P = 1, *, {_MADE}",
        "torch.arange",
        search=False,
        normalise=_with_start,
    ),
    function("linspace", f"start: P, end: P, steps: P, *, {_MADE}", "torch.linspace", search=False),
    function(
        "logspace",
        f"start: P, end: P, steps: P, base=10.0, *, {_MADE}",
        "torch.logspace",
        search=False,
    ),
    function("eye", f"n: P, m: P = None, *, {_MADE}", "torch.eye", search=False),
    *(
        function(
            op,
            f"row: P, col: P, offset: P = 0, *, {_MADE}",
            f"torch.{op}",
            search=False,
        )
        for op in ("tril_indices", "triu_indices")
    ),
    function(
        "zeros_like",
        f"input: T, {_LIKE}",
        "torch.zeros_like",
        Spelling("Tensor.zero_", "input: T", inplace=True),
        zero_preserving=always,
        fuse="like",
    ),
    function("ones_like", f"input: T, {_LIKE}", "torch.ones_like", fuse="like"),
    function("empty_like", f"input: T, {_LIKE}", "torch.empty_like", pure=False),
    function(
        "full_like",
        f"input: T, fill_value: P, {_LIKE}",
        "torch.full_like",
        Spelling("Tensor.fill_", "input: T, fill_value", inplace=True),
        Spelling("torch.fill_", "input: T, fill_value", inplace=True),
        "torch.fill",
        fuse="like",
    ),
    *(
        function(
            f"new_{kind}",
            f"input: T, *size, {_MADE}",
            f"Tensor.new_{kind}",
            pure=kind != "empty",
            fuse=None if kind == "empty" else "like",
        )
        for kind in ("zeros", "ones", "empty")
    ),
    function(
        "new_full",
        f"input: T, size: P, fill_value: P, *, {_MADE}",
        "Tensor.new_full",
        fuse="like",
    ),
)
