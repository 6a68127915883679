"""Views and moves of one tensor: the same on the stack, with dimensions where they are there."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from retiarii.ir.types import BatchSize
from retiarii.optimizer.rules import joining
from retiarii.optimizer.rules.base import Form, Fusion, Lowering, Rule
from retiarii.optimizer.rules.dims import (
    Along,
    all_from_end,
    are_dims,
    each,
    from_end,
    from_start,
    members,
    ones,
)
from retiarii.optimizer.rules.writing import argument, names, printed, rules, written


def _rank(fusion: Fusion, index: int = 0) -> int:
    return len(fusion.call.inputs[index].shape)


def _is_channels(fusion: Fusion) -> bool:
    return not fusion.shared[0] and fusion.forms[0] is Form.CHANNELS


def _in_channels(fusion: Fusion, text: str) -> Lowering:
    form = Form.CHANNELS
    return Lowering(text, (form,), (form,) * len(fusion.call.results))


# --- sizes ---------------------------------------------------------------------------------------


def _is_batch(size: Any) -> bool:
    return isinstance(size, BatchSize) and size == BatchSize()


def _reshape(fusion: Fusion) -> Lowering | None:
    sizes = fusion.call.attrs.get("shape")
    return None if type(sizes) is not tuple else _reshaped(fusion, sizes)


def _reshaped(fusion: Fusion, sizes: tuple[Any, ...]) -> Lowering:
    call = fusion.call
    before, after = call.inputs[0].shape, call.results[0].shape
    kept = len(before) >= 2 and len(after) >= 2 and before[:2] == after[:2]
    # Where batch and channels keep their places, members' channels stay beside each other.
    if kept and _is_channels(fusion) and _is_batch(sizes[0]):
        width = sizes[1] if sizes[1] == -1 else fusion.size * after[1]
        if type(sizes[1]) is int and not any(isinstance(s, BatchSize) for s in sizes[2:]):
            return _in_channels(fusion, f"$0.reshape({printed((sizes[0], width, *sizes[2:]))})")
    return members(fusion, f"$0.reshape({printed((fusion.size, *sizes))})")


def _reshape_as(fusion: Fusion) -> Lowering | None:
    if names(fusion.call) != {"input": 0, "other": 1}:
        return None
    return members(fusion, "$0.reshape($1.shape)")


def _flatten(fusion: Fusion) -> Lowering | None:
    rank = _rank(fusion)
    start, end = (argument(fusion.call, n) for n in ("start_dim", "end_dim"))
    if not (are_dims(start) and are_dims(end)):
        return None
    if rank == 0:
        return members(fusion, "$0.unsqueeze(1)")
    start, end = from_start(start, rank), from_start(end, rank)
    if start >= 2 and _is_channels(fusion):
        return _in_channels(fusion, f"$0.flatten({start}, {end})")
    return members(fusion, f"$0.flatten({start + 1}, {end + 1})")


def _unflatten(fusion: Fusion) -> Lowering | None:
    dim, sizes = (argument(fusion.call, n) for n in ("dim", "sizes"))
    sizes = (sizes,) if type(sizes) is int else sizes
    if type(dim) is not int or type(sizes) is not tuple:
        return None
    if any(isinstance(s, tuple) for s in sizes):
        return None  # named dimensions
    place = from_start(dim, _rank(fusion))
    if place >= 2 and _is_channels(fusion):
        return _in_channels(fusion, f"$0.unflatten({place}, {printed(sizes)})")
    return members(fusion, f"$0.unflatten({place + 1}, {printed(sizes)})")


def _expand(fusion: Fusion, name: str) -> Lowering | None:
    sizes = argument(fusion.call, name)
    if type(sizes) is not tuple or len(fusion.call.inputs) != 1:
        return None
    before, after = fusion.call.inputs[0].shape, fusion.call.results[0].shape
    same = len(before) == len(after) >= 2 and before[1] == after[1] and type(sizes[1]) is int
    if _is_channels(fusion) and same:
        width = sizes[1] if sizes[1] == -1 else fusion.size * after[1]
        return _in_channels(fusion, f"$0.expand({printed((sizes[0], width, *sizes[2:]))})")
    index = ones(len(after) - len(before))
    return members(fusion, f"$0{index}.expand({printed((fusion.size, *sizes))})")


def _expand_as(fusion: Fusion) -> Lowering | None:
    if names(fusion.call) != {"input": 0, "other": 1}:
        return None
    index = ones(_rank(fusion, 1) - _rank(fusion))
    return members(fusion, f"$0{index}.expand($1.shape)")


def _repeat(fusion: Fusion, name: str) -> Lowering | None:
    counts = argument(fusion.call, name)
    if type(counts) is not tuple or len(fusion.call.inputs) != 1:
        return None
    rank = _rank(fusion)
    counts = (*(1,) * (rank - len(counts)), *counts)
    index = ones(len(counts) - rank)
    return members(fusion, f"$0{index}.repeat({printed((1, *counts))})")


def _repeat_interleave(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    repeats, dim = argument(call, "repeats"), argument(call, "dim")
    if type(repeats) is not int or len(call.inputs) != 1 or not call.inputs[0].shape:
        return None
    if dim is None:
        return members(fusion, f"torch.repeat_interleave($0.flatten(1), {repeats}, dim=-1)")
    if type(dim) is not int:
        return None
    return _along(fusion, "dim")


# --- places of dimensions ------------------------------------------------------------------------


def _along(fusion: Fusion, *dims: str, keeps_rank: bool = False) -> Lowering | None:
    """A call whose attributes of these names are dimensions."""
    call = fusion.call
    given = [argument(call, name) for name in dims]
    if len(call.inputs) != 1 or not call.inputs[0].shape or not all(map(are_dims, given)):
        return None
    flat = tuple(d for g in given for d in each(g))

    def write(operand: str, moved: Any) -> str:
        left = list(moved)
        changes = {}
        for name, value in zip(dims, given, strict=True):
            taken = [left.pop(0) for _ in each(value)]
            changes[name] = taken[0] if isinstance(value, int) else tuple(taken)
        return written(call, [operand], changes)

    return Along(fusion, write).lowered(flat, keeps_rank=keeps_rank)


def _permute(fusion: Fusion) -> Lowering | None:
    dims = argument(fusion.call, "dims")
    if type(dims) is not tuple or not are_dims(dims):
        return None
    rank = _rank(fusion)
    places = tuple(from_start(d, rank) for d in dims)
    if _is_channels(fusion) and places[:2] == (0, 1):
        return _in_channels(fusion, f"$0.permute({places})")
    return members(fusion, f"$0.permute({(0, *(p + 1 for p in places))})")


def _t(fusion: Fusion) -> Lowering | None:
    return members(fusion, "$0.transpose(1, 2)" if _rank(fusion) == 2 else "$0")


def _squeeze(fusion: Fusion) -> Lowering | None:
    dim = argument(fusion.call, "dim")
    shape = fusion.call.inputs[0].shape
    rank = len(shape)
    if dim is None:
        # Which are of one, the types say: the stack of one member has one more.
        dim = tuple(d for d, size in enumerate(shape) if size == 1)
    if not are_dims(dim):
        return None
    places = tuple(from_start(d, rank) for d in each(dim))
    places = tuple(sorted({p for p in places if rank and shape[p] == 1}))
    if not places:
        return _as_it_lies(fusion, "$0")
    if _is_channels(fusion) and min(places) >= 2:
        return _in_channels(fusion, f"$0.squeeze({printed(places)})")
    return members(fusion, f"$0.squeeze({printed(all_from_end(places, rank))})")


def _unsqueeze(fusion: Fusion) -> Lowering | None:
    dim = argument(fusion.call, "dim")
    if type(dim) is not int:
        return None
    place = from_start(dim, _rank(fusion) + 1)
    if place >= 2 and _is_channels(fusion):
        return _in_channels(fusion, f"$0.unsqueeze({place})")
    return members(fusion, f"$0.unsqueeze({place + 1})")


def _flip(fusion: Fusion, dims: tuple[int, ...] | None = None) -> Lowering | None:
    dims = argument(fusion.call, "dims") if dims is None else dims
    if type(dims) is not tuple or not dims or not are_dims(dims) or not _rank(fusion):
        return None
    return Along(fusion, lambda x, moved: f"{x}.flip({printed(moved)})").lowered(
        dims, keeps_rank=True
    )


def _roll(fusion: Fusion) -> Lowering | None:
    shifts, dims = (argument(fusion.call, n) for n in ("shifts", "dims"))
    if not _rank(fusion) or not are_dims(dims):
        return None
    if dims == ():
        return members(
            fusion, f"torch.roll($0.flatten(1), {printed(shifts)}, -1).reshape($0.shape)"
        )
    return _along(fusion, "dims", keeps_rank=True)


def _diag(fusion: Fusion) -> Lowering | None:
    offset = argument(fusion.call, "diagonal")
    if _rank(fusion) == 1:
        return members(fusion, f"torch.diag_embed($0, offset={printed(offset)})")
    return members(fusion, f"$0.diagonal({printed(offset)}, -2, -1).clone()")


def _diag_embed(fusion: Fusion) -> Lowering | None:
    dims = tuple(argument(fusion.call, n) for n in ("dim1", "dim2"))
    if not are_dims(dims):
        return None
    first, second = (from_end(d, _rank(fusion) + 1) for d in dims)
    offset = printed(argument(fusion.call, "offset"))
    return members(fusion, f"torch.diag_embed($0, {offset}, {first}, {second})")


def _triangle(fusion: Fusion) -> Lowering | None:
    if _rank(fusion) < 2:
        return None
    form = Form.CHANNELS if _is_channels(fusion) and _rank(fusion) >= 4 else Form.MEMBERS
    return Lowering(written(fusion.call, ["$0"]), (form,), (form,))


# --- copies --------------------------------------------------------------------------------------


def _as_it_lies(fusion: Fusion, text: str) -> Lowering:
    form = Form.MEMBERS if fusion.shared[0] else fusion.forms[0]
    return Lowering(text, (form,), (form,))


def _method(fusion: Fusion, method: str) -> Lowering | None:
    # Memory formats are of a member's tensor; the stack keeps its own.
    return _as_it_lies(fusion, f"$0{method}") if len(fusion.call.inputs) == 1 else None


def _dims(*dims: str, keeps_rank: bool = False) -> Rule:
    return lambda fusion: _along(fusion, *dims, keeps_rank=keeps_rank)


_OPS: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "Identity": partial(_method, method=""),
        "reshape": _reshape,
        "view_as": _reshape_as,
        "reshape_as": _reshape_as,
        "flatten": _flatten,
        "unflatten": _unflatten,
        "permute": _permute,
        "transpose": _dims("dim0", "dim1"),
        "movedim": _dims("source", "destination"),
        "t": _t,
        "squeeze": _squeeze,
        "unsqueeze": _unsqueeze,
        "expand": partial(_expand, name="size"),
        "broadcast_to": partial(_expand, name="size"),
        "expand_as": _expand_as,
        "repeat": partial(_repeat, name="repeats"),
        "tile": partial(_repeat, name="dims"),
        "repeat_interleave": _repeat_interleave,
        "chunk": _dims("dim"),
        "split": _dims("dim"),
        "tensor_split": _dims("dim"),
        "unbind": _dims("dim"),
        "roll": _roll,
        "flip": _flip,
        "fliplr": partial(_flip, dims=(1,)),
        "flipud": partial(_flip, dims=(0,)),
        "rot90": _dims("dims"),
        "unfold_dim": _dims("dimension"),
        "diagonal": _dims("dim1", "dim2"),
        "diag": _diag,
        "diag_embed": _diag_embed,
        "tril": _triangle,
        "triu": _triangle,
        "contiguous": partial(_method, method=""),
        "clone": partial(_method, method=".clone()"),
        "detach": partial(_method, method=".detach()"),
    }
)


def shape(fusion: Fusion) -> Lowering | None:
    """Any row that moves the elements of one tensor."""
    rule = _OPS.get(fusion.call.op, joining.join)
    return rule(fusion)


RULES: Final[Mapping[str, Rule]] = rules({"shape": shape})
