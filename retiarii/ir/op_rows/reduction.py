"""Sums, extrema, statistics, scans and orderings along dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from retiarii.ir.op_rows.spec import Row, always, function
from retiarii.ir.types import Attrs

_DIM = "input: T, dim=None, keepdim=False"
_SPREAD = _DIM.replace("keepdim", "unbiased=None, keepdim") + ", *, correction=None"


def _other_by_name(
    args: tuple[Any, ...], kwargs: dict[str, Any], is_tensor: Callable[[Any], bool]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``max(x, 1)`` is along a dimension, ``max(x, y)`` of two tensors."""
    if len(args) == 2 and is_tensor(args[1]):
        return args[:1], {**kwargs, "other": args[1]}
    return args, kwargs


def _unbiased_by_name(
    args: tuple[Any, ...], kwargs: dict[str, Any], _is_tensor: Callable[[Any], bool]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``var(x, False)`` is not along dimension ``False``."""
    if len(args) == 2 and isinstance(args[1], bool):
        return args[:1], {**kwargs, "unbiased": args[1]}
    return args, kwargs


def _as_elementwise(op: str) -> Callable[[Attrs], tuple[str, Attrs] | None]:
    return lambda attrs: (op, Attrs()) if "other" in attrs else None


def _along(op: str, signature: str, call: str, **facts: Any) -> Row:
    """A row that works along dimensions."""
    return function(op, signature, call, **{"fuse": "reduce", **facts})


REDUCTION: Final[tuple[Row, ...]] = (
    *(
        _along(op, f"{_DIM}, *, dtype=None", f"torch.{op}", zero_preserving=always)
        for op in ("sum", "mean", "nansum", "nanmean")
    ),
    _along("prod", f"{_DIM}, *, dtype=None", "torch.prod", zero_preserving=always),
    *(
        _along(
            op,
            "input: T, dim=(), keepdim=False",
            f"torch.{op}",
            zero_preserving=always,
        )
        for op in ("amax", "amin")
    ),
    *(
        _along(
            op,
            f"{_DIM}, *, other: T = None",
            f"torch.{op}",
            normalise=_other_by_name,
            alias=_as_elementwise(f"{op}imum"),
        )
        for op in ("max", "min")
    ),
    _along("aminmax", "input: T, *, dim=None, keepdim=False", "torch.aminmax"),
    *(_along(op, _DIM, f"torch.{op}") for op in ("argmax", "argmin", "all", "any")),
    *(_along(op, _DIM, f"torch.{op}") for op in ("median", "nanmedian")),
    *(
        _along(op, _SPREAD, f"torch.{op}", normalise=_unbiased_by_name)
        for op in ("var", "std", "var_mean", "std_mean")
    ),
    _along(
        "norm",
        "input: T, p='fro', dim=None, keepdim=False, dtype=None",
        "torch.norm",
        zero_preserving=always,
    ),
    _along(
        "vector_norm",
        "x: T, ord=2, dim=None, keepdim=False, *, dtype=None",
        "torch.linalg.vector_norm",
        search=False,
        zero_preserving=always,
    ),
    _along(
        "linalg_norm",
        "A: T, ord=None, dim=None, keepdim=False, *, dtype=None",
        "torch.linalg.norm",
        search=False,
        zero_preserving=always,
    ),
    _along("dist", "input: T, other: T, p=2", "torch.dist", zero_preserving=always),
    _along("logsumexp", "input: T, dim, keepdim=False", "torch.logsumexp"),
    _along("count_nonzero", "input: T, dim=None", "torch.count_nonzero"),
    _along("mode", "input: T, dim=-1, keepdim=False", "torch.mode"),
    _along("kthvalue", "input: T, k, dim=-1, keepdim=False", "torch.kthvalue"),
    _along(
        "quantile",
        "input: T, q: T, dim=None, keepdim=False, *, interpolation='linear'",
        "torch.quantile",
    ),
    _along("topk", "input: T, k, dim=-1, largest=True, sorted=True", "torch.topk"),
    _along("sort", "input: T, dim=-1, descending=False, *, stable=False", "torch.sort"),
    _along("argsort", "input: T, dim=-1, descending=False, *, stable=False", "torch.argsort"),
    *(
        _along(op, "input: T, dim, *, dtype=None", f"torch.{op}", zero_preserving=always)
        for op in ("cumsum", "cumprod")
    ),
    *(_along(op, "input: T, dim", f"torch.{op}") for op in ("cummax", "cummin", "logcumsumexp")),
    _along(
        "diff",
        "input: T, n=1, dim=-1, prepend: T = None, append: T = None",
        "torch.diff",
        zero_preserving=always,
    ),
    _along(
        "searchsorted",
        "sorted_sequence: T, input: T, *, out_int32=False, right=False, side=None, "
        "sorter: T = None",
        "torch.searchsorted",
    ),
    _along(
        "bucketize",
        "input: T, boundaries: T, *, out_int32=False, right=False",
        "torch.bucketize",
        fuse="bucketize",
    ),
)
