"""Reading and writing at places: subscripts, gathers and scatters."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import torch

from retiarii.ir.calls import thaw
from retiarii.ir.types import BatchSize, FrozenList, Operand
from retiarii.optimizer.rules.base import Form, Fusion, Lowering, Rule
from retiarii.optimizer.rules.dims import Along, from_end, members, ones
from retiarii.optimizer.rules.writing import argument, mentioned, names, printed, rules, written

_INTEGERS: Final = (torch.int64, torch.int32)


def _items(fusion: Fusion) -> tuple[Any, ...] | None:
    """The items of a subscript that means the same after a slice of all members."""
    call = fusion.call
    index = call.attrs.get("index")
    items = index if type(index) is tuple else (index,)
    for item in items:
        if isinstance(item, Operand):
            # Each member's own places, and masks, are not those of one subscript.
            dtype = call.inputs[item.index].dtype
            if not fusion.shared[item.index] or dtype not in _INTEGERS:
                return None
        elif isinstance(item, FrozenList):
            if not item or any(type(i) is not int for i in item):
                return None
        elif isinstance(item, bool) or not _is_basic(item):
            return None
    tensors = [i for i, item in enumerate(items) if isinstance(item, Operand | FrozenList)]
    if tensors:
        # Integers count as tensors beside tensors; where such are apart, their dimensions come
        # first, before the members.
        picks = [i for i, v in enumerate(items) if i in tensors or type(v) in (int, BatchSize)]
        if picks[-1] - picks[0] + 1 != len(picks):
            return None
    return items


def _is_basic(item: Any) -> bool:
    if isinstance(item, slice):
        parts = (item.start, item.stop, item.step)
        return all(p is None or type(p) in (int, BatchSize) for p in parts)
    return item is None or item is Ellipsis or type(item) in (int, BatchSize)


def _brackets(items: tuple[Any, ...]) -> str:
    parts = []
    for item in items:
        if isinstance(item, slice):
            bounds = ["" if v is None else printed(v) for v in (item.start, item.stop)]
            step = "" if item.step is None else f":{printed(item.step)}"
            parts.append(f"{bounds[0]}:{bounds[1]}{step}")
        elif isinstance(item, Operand):
            parts.append(f"${item.index}")
        else:
            parts.append(printed(item))
    return ", ".join(parts)


def _getitem(fusion: Fusion) -> Lowering | None:
    items = _items(fusion)
    if items is None or 0 in mentioned(fusion.call) or len(fusion.call.results) != 1:
        return None
    plain = range(1, len(fusion.call.inputs))
    whole = slice(None)
    in_channels = not fusion.shared[0] and fusion.forms[0] is Form.CHANNELS
    if in_channels and _apart(items):
        text = f"$0[{_brackets(items)}]"
        return Lowering(text, (Form.CHANNELS,), (Form.CHANNELS,))
    return members(fusion, f"$0[{_brackets((whole, *items))}]", plain)


def _apart(items: tuple[Any, ...]) -> bool:
    """Whether batch and channels stay the first two dimensions, and all channels are kept."""
    if not isinstance(items[0], slice) or not all(_is_basic(i) for i in items):
        return False
    whole = len(items) == 1 or repr(items[1]) == repr(slice(None))
    return whole and Ellipsis not in items


def _setitem(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    items = _items(fusion)
    named = names(call)
    mask = call.attrs.get("index")
    if isinstance(mask, Operand) and call.inputs[mask.index].dtype is torch.bool:
        return _set_masked(fusion, mask.index)
    if items is None or named.get("input") != 0 or any(isinstance(i, Operand) for i in items):
        return None
    if any(isinstance(p, BatchSize) for i in items for p in _parts(i)):
        return None
    place = torch.empty(call.inputs[0].shape, device="meta")[thaw(items)]
    number = named.get("value")
    if number is None and "value" not in call.attrs:
        return None
    if number is None:
        value = printed(call.attrs.get("value"))
    else:
        missing = place.dim() - len(call.inputs[number].shape)
        if missing < 0:
            return None
        value = f"${number}" if fusion.shared[number] else f"${number}{ones(missing)}"
    plain = [] if number is None else [number]
    text = f"kernels.assigned($0, {printed((slice(None), *items))}, {value})"
    return members(fusion, text, plain)


def _set_masked(fusion: Fusion, mask: int) -> Lowering | None:
    call = fusion.call
    value = call.attrs.get("value")
    if not isinstance(value, int | float) or call.inputs[mask].shape != call.inputs[0].shape:
        return None
    return members(fusion, f"torch.masked_fill($0, ${mask}, {printed(value)})")


def _take(fusion: Fusion) -> Lowering | None:
    if names(fusion.call) != {"input": 0, "index": 1}:
        return None
    return members(fusion, "kernels.take($0, $1)")


def _parts(item: Any) -> tuple[Any, ...]:
    return (item.start, item.stop, item.step) if isinstance(item, slice) else (item,)


def _equal_ranks(fusion: Fusion) -> int:
    """The rank that all inputs have; 0 where they differ."""
    ranks = {len(t.shape) for t in fusion.call.inputs}
    return ranks.pop() if len(ranks) == 1 else 0


def _places(fusion: Fusion) -> Lowering | None:
    """Rows where an index has the rank of the input: members are one more dimension of all."""
    call = fusion.call
    rank = _equal_ranks(fusion)
    dim = argument(call, "dim")
    if not rank or type(dim) is not int or len(call.inputs) < 2:
        return None
    operands = [f"${i}" for i in range(len(call.inputs))]
    return members(fusion, written(call, operands, {"dim": from_end(dim, rank)}))


def _rows(fusion: Fusion) -> Lowering | None:
    """Rows with a list of places along a dimension, which all members share."""
    call = fusion.call
    named = names(call)
    dim, index = argument(call, "dim"), named.get("index")
    rank = len(call.inputs[0].shape)
    if type(dim) is not int or index is None or named.get("input") != 0 or not rank:
        return None
    if not fusion.shared[index] or len(call.inputs[index].shape) > 1:
        return None
    if call.op in ("index_add", "index_copy"):
        source = named.get("source")
        if source is None or len(call.inputs[source].shape) != rank:
            return None
    if call.op == "index_fill" and "value" in named:
        return None
    operands = [f"${i}" for i in range(len(call.inputs))]
    text = written(call, operands, {"dim": from_end(dim, rank)})
    return members(fusion, text, [index])


def _into(fusion: Fusion) -> Lowering | None:
    """``select_scatter`` and ``slice_scatter``."""
    call = fusion.call
    dim = argument(call, "dim")
    rank = len(call.inputs[0].shape)
    ranks = rank - (call.op == "select_scatter")
    if type(dim) is not int or names(call) != {"input": 0, "src": 1}:
        return None
    if len(call.inputs[1].shape) != ranks:
        return None
    return members(fusion, written(call, ["$0", "$1"], {"dim": from_end(dim, rank)}))


def _pick(fusion: Fusion) -> Lowering | None:
    """``select`` and ``narrow``."""
    call = fusion.call
    dim, rank = argument(call, "dim"), len(call.inputs[0].shape)
    if len(call.inputs) != 1 or type(dim) is not int:
        return None

    def write(operand: str, dim: Any) -> str:
        return written(call, [operand], {"dim": dim})

    return Along(fusion, write).lowered(dim, keeps_rank=call.op == "narrow") if rank else None


_OPS: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "getitem": _getitem,
        "setitem": _setitem,
        "select": _pick,
        "narrow": _pick,
        "gather": _places,
        "take_along_dim": _places,
        "scatter": _places,
        "scatter_add": _places,
        "scatter_reduce": _places,
        "take": _take,
        "index_select": _rows,
        "index_add": _rows,
        "index_copy": _rows,
        "index_fill": _rows,
        "select_scatter": _into,
        "slice_scatter": _into,
    }
)


def index(fusion: Fusion) -> Lowering | None:
    """Any row that reads or writes at places."""
    rule = _OPS.get(fusion.call.op)
    return None if rule is None else rule(fusion)


RULES: Final[Mapping[str, Rule]] = rules({"index": index})
