"""Operations that move elements and do not change them, and conversions of dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn

from retiarii.ir.op_rows.spec import Row, Spelling, always, function, module, twin
from retiarii.ir.types import Attrs

_X = "input: T"
_DTYPES: Final = {
    "float": torch.float32,
    "double": torch.float64,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "long": torch.int64,
    "int": torch.int32,
    "short": torch.int16,
    "char": torch.int8,
    "byte": torch.uint8,
    "bool": torch.bool,
}
_CAT = "tensors: Ts, dim=0"


def _view_as_dtype(
    args: tuple[Any, ...], kwargs: dict[str, Any], _is_tensor: Callable[[Any], bool]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``x.view(torch.int32)`` and ``x.view(2, 3)`` share a name."""
    if len(args) == 2 and isinstance(args[1], torch.dtype):
        return args[:1], {**kwargs, "dtype": args[1]}
    return args, kwargs


def _to_by_name(
    args: tuple[Any, ...], kwargs: dict[str, Any], is_tensor: Callable[[Any], bool]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``to(dtype)``, ``to(device)``, ``to(device, dtype)`` and ``to(other)``."""
    if not args:
        return args, kwargs
    first, *rest = args
    found = {k: v for k, v in kwargs.items() if k != "non_blocking"}
    for name, value in zip(("non_blocking", "copy"), _after_target(rest), strict=False):
        if name == "copy":
            found["copy"] = value
    for value in rest[: len(rest) - len(_after_target(rest))]:
        if isinstance(value, torch.dtype):
            found["dtype"] = value
        elif is_tensor(value):
            found["other"] = value
        elif value is not None:
            found["device"] = value
    return (first,), found


def _after_target(rest: list[Any]) -> list[Any]:
    """The trailing flags of a call of ``to``."""
    flags = [i for i, value in enumerate(rest) if isinstance(value, bool)]
    return rest[flags[0] :] if flags else []


def _cast_alias(attrs: Attrs) -> tuple[str, Attrs] | None:
    return ("to", attrs) if isinstance(attrs.get("dtype"), torch.dtype) else None


def _moves(op: str, signature: str, call: str = "", *more: str | Spelling, **facts: Any) -> Row:
    """A row that only moves elements about."""
    facts = {"zero_preserving": always, "fuse": "shape", **facts}
    return function(op, signature, call or f"torch.{op}", *more, **facts)


SHAPE: Final[tuple[Row, ...]] = (
    module(
        nn.Flatten,
        "start_dim=1, end_dim=-1",
        zero_preserving=always,
        alias=twin("flatten", "input: T, start_dim=0, end_dim=-1"),
        fuse="shape",
    ),
    module(
        nn.Unflatten,
        "dim, unflattened_size",
        zero_preserving=always,
        alias=lambda a: ("unflatten", Attrs(dim=a["dim"], sizes=a["unflattened_size"])),
        resize="unflatten",
        fuse="shape",
    ),
    _moves(
        "view",
        "input: T, *size, dtype=None",
        "Tensor.view",
        normalise=_view_as_dtype,
        alias=lambda a: ("reshape", Attrs(shape=a["size"])) if "size" in a else None,
        resize="view",
    ),
    _moves("reshape", "input: T, *shape", resize="view"),
    _moves("view_as", "input: T, other: T", "Tensor.view_as"),
    _moves("reshape_as", "input: T, other: T", "Tensor.reshape_as"),
    _moves("flatten", "input: T, start_dim=0, end_dim=-1"),
    _moves("unflatten", "input: T, dim, sizes", resize="unflatten"),
    _moves("ravel", _X, alias=lambda _: ("flatten", Attrs())),
    _moves("permute", "input: T, *dims"),
    _moves(
        "transpose",
        "input: T, dim0, dim1",
        "torch.transpose",
        Spelling("Tensor.mT.__get__", presets={"dim0": -2, "dim1": -1}),
        *(
            Spelling(f"{root}.{name}", "input: T, dim0, dim1", inplace=name.endswith("_"))
            for root in ("torch", "Tensor")
            for name in ("swapaxes", "swapdims", "swapaxes_", "swapdims_")
        ),
    ),
    # x.T of more than two dimensions is deprecated, and t() refuses it.
    _moves("t", _X, "torch.t", "Tensor.T.__get__"),
    _moves("squeeze", "input: T, dim=None"),
    _moves("unsqueeze", "input: T, dim"),
    _moves("expand", "input: T, *size", "Tensor.expand", resize="expand"),
    _moves("expand_as", "input: T, other: T", "Tensor.expand_as"),
    _moves("broadcast_to", "input: T, size", resize="expand"),
    _moves("broadcast_tensors", "*tensors: T"),
    _moves("repeat", "input: T, *repeats", "Tensor.repeat"),
    _moves("tile", "input: T, *dims"),
    _moves("repeat_interleave", "input: T, repeats: T, dim=None, *, output_size=None"),
    _moves("chunk", "input: T, chunks, dim=0"),
    _moves(
        "split",
        "input: T, split_size_or_sections, dim=0",
        "torch.split",
        *(
            Spelling(f"{root}.split_with_sizes", "input: T, split_size_or_sections, dim=0")
            for root in ("torch", "Tensor")
        ),
        resize="split",
    ),
    _moves(
        "tensor_split",
        "input: T, indices_or_sections: P, dim=0",
    ),
    _moves("unbind", "input: T, dim=0"),
    _moves("stack", _CAT),
    _moves("cat", _CAT, "torch.cat", "torch.concat", "torch.concatenate"),
    *(_moves(op, "tensors: Ts") for op in ("hstack", "vstack", "dstack", "column_stack")),
    _moves("meshgrid", "*tensors: T, indexing=None"),
    _moves("roll", "input: T, shifts, dims=()"),
    _moves("flip", "input: T, *dims"),
    _moves("fliplr", _X),
    _moves("flipud", _X),
    _moves("rot90", "input: T, k=1, dims=(0, 1)"),
    _moves(
        "movedim",
        "input: T, source, destination",
        "torch.movedim",
        "torch.moveaxis",
        "Tensor.moveaxis",
    ),
    _moves("unfold_dim", "input: T, dimension, size, step", "Tensor.unfold", "Tensor.unfold"),
    _moves("diagonal", "input: T, offset=0, dim1=0, dim2=1"),
    _moves("diag", "input: T, diagonal=0"),
    _moves("diag_embed", "input: T, offset=0, dim1=-2, dim2=-1"),
    _moves("tril", "input: T, diagonal=0"),
    _moves("triu", "input: T, diagonal=0"),
    _moves("contiguous", "input: T, *, memory_format=None", "Tensor.contiguous", identity=always),
    _moves("clone", "input: T, *, memory_format=None", identity=always),
    _moves("detach", _X, "torch.detach", "Tensor.data.__get__"),
    _moves(
        "to",
        "input: T, other: T = None, *, device=None, dtype=None, copy=False, memory_format=None",
        "Tensor.to",
        "Tensor.to",
        *(Spelling(f"Tensor.{name}", presets={"dtype": d}) for name, d in _DTYPES.items()),
        Spelling("Tensor.cpu", presets={"device": "cpu"}),
        Spelling("Tensor.cuda", fallbacks={"device": "cuda"}),
        normalise=_to_by_name,
        fuse="convert",
    ),
    _moves(
        "type", "input: T, dtype", "Tensor.type", "Tensor.type", alias=_cast_alias, fuse="convert"
    ),
    _moves("type_as", "input: T, other: T", "Tensor.type_as", "Tensor.type_as", fuse="convert"),
)
