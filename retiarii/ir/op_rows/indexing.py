"""Reading and writing at places: subscripts, gathers, scatters and masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from retiarii.ir.op_rows import helpers
from retiarii.ir.op_rows.spec import Row, Spelling, always, function

_AT = "input: T, dim, index: T"


def _value_by_name(
    args: tuple[Any, ...], kwargs: dict[str, Any], is_tensor: Callable[[Any], bool]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``scatter(dim, index, 1.0)`` writes a number, ``scatter(dim, index, src)`` a tensor."""
    if len(args) == 4 and not is_tensor(args[3]):
        return args[:3], {**kwargs, "value": args[3]}
    return args, kwargs


def _without_waiting(
    args: tuple[Any, ...], kwargs: dict[str, Any], _is_tensor: Callable[[Any], bool]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``copy_(src, non_blocking)``: when it happens is not what it does."""
    return args[:2], kwargs


def _at(op: str, signature: str, first: str, *more: str | Spelling, **facts: Any) -> Row:
    """A row that reads or writes at places."""
    return function(op, signature, first, *more, **{"fuse": "index", **facts})


INDEXING: Final[tuple[Row, ...]] = (
    _at(
        "getitem",
        "input: T, index: P",
        "operator.getitem",
        "Tensor.__getitem__",
        search=False,
        call="[]",
        zero_preserving=always,
    ),
    _at(
        "setitem",
        "input: T, index: P, value: T",
        "setitem",
        Spelling("Tensor.__setitem__", inplace=True),
        Spelling("operator.setitem", inplace=True),
        search=False,
        target=helpers.setitem,
        helper=helpers.text_of(helpers.setitem),
    ),
    _at(
        "copy",
        "input: T, src: T",
        "copy",
        Spelling("Tensor.copy_", "input: T, src", inplace=True),
        fuse="copy",
        search=False,
        target=helpers.copy,
        normalise=_without_waiting,
        zero_preserving=always,
        helper=helpers.text_of(helpers.copy),
    ),
    # Generated code computes only what the mode at hand needs: see `modes`.
    _at(
        "by_mode",
        "input: T, other: T, training",
        "by_mode",
        search=False,
        fuse=None,
        target=helpers.by_mode,
        zero_preserving=always,
        helper=helpers.text_of(helpers.by_mode),
    ),
    _at("select", "input: T, dim, index", "torch.select", zero_preserving=always),
    _at("narrow", "input: T, dim, start, length", "torch.narrow", zero_preserving=always),
    _at("index_select", _AT, "torch.index_select", zero_preserving=always),
    _at("gather", f"{_AT}, *, sparse_grad=False", "torch.gather", zero_preserving=always),
    _at("take", "input: T, index: T", "torch.take", zero_preserving=always),
    _at(
        "take_along_dim",
        "input: T, indices: T, dim=None",
        "torch.take_along_dim",
        zero_preserving=always,
    ),
    _at(
        "scatter",
        f"{_AT}, src: T = None, *, value=None, reduce=None",
        "torch.scatter",
        normalise=_value_by_name,
    ),
    _at("scatter_add", f"{_AT}, src: T", "torch.scatter_add", zero_preserving=always),
    _at(
        "scatter_reduce",
        f"{_AT}, src: T, reduce, *, include_self=True",
        "torch.scatter_reduce",
    ),
    _at("index_add", f"{_AT}, source: T, *, alpha=1", "torch.index_add", zero_preserving=always),
    _at("index_copy", f"{_AT}, source: T", "torch.index_copy", zero_preserving=always),
    _at("index_fill", f"{_AT}, value: T", "torch.index_fill"),
    _at("index_put", "input: T, indices: P, values: T, accumulate=False", "torch.index_put"),
    _at("select_scatter", "input: T, src: T, dim, index", "torch.select_scatter"),
    _at(
        "slice_scatter",
        "input: T, src: T, dim=0, start=None, end=None, step=1",
        "torch.slice_scatter",
    ),
    _at("masked_fill", "input: T, mask: T, value: T", "torch.masked_fill", fuse="masked_fill"),
    _at("masked_scatter", "input: T, mask: T, source: T", "torch.masked_scatter"),
    _at(
        "where",
        "condition: T, input: T, other: T",
        "torch.where",
        Spelling("Tensor.where", swapped=True),
        search=False,
        fuse="elementwise",
    ),
)
