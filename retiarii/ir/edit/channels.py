"""Where the positions along one axis of a result come from: what channels are coupled by.

For most operations an axis of the result is an axis of an input, position by position or with
each position repeated (`flatten` of channels and pixels). `links` says so; what nothing is known of
gives None. Operations that move elements may also split an axis, into heads: `pushed` says where
the elements went.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from types import MappingProxyType
from typing import Any, Final

import torch

from retiarii.ir.edit import products
from retiarii.ir.edit.axis import Axis, Link, Types
from retiarii.ir.edit.widths import NORMALISING, OWNING, channel_axis, reads_axis
from retiarii.ir.node import NodeRecord
from retiarii.ir.ops import arrange_call, op_spec
from retiarii.ir.types import Attrs, BatchSize, Operand, map_leaves

# Larger tensors are not pushed through a shape operation to see where an axis goes.
_PROBED = 1 << 24
# `cat` takes it beside tensors of any shape: caches begin so.
_NOTHING: Final = (0,)


Rule = Callable[[NodeRecord, Types, Axis], "list[Link] | None"]


def links(record: NodeRecord, inputs: Types, at: Axis, batch: int) -> list[Link] | None:
    """Which axes of the results come from one axis of one input.

    Args:
        record: the node.
        inputs: the types of what it reads.
        at: the input's axis.
        batch: the batch size at which the types are given.

    Returns:
        ``[]`` where the axis is read up (a reduction over it); ``None`` where it is not known.
    """
    spec = op_spec(record.op)
    if spec.elementwise or record.op in _EACH:
        return _elementwise(record, inputs, at)
    if record.op in _MOVING | _AS.keys():
        return _moved(record, inputs, at, batch)
    rule = _RULES.get(record.op)
    if rule is not None:
        return rule(record, inputs, at)
    if spec.resize in OWNING:
        return _same(record, inputs, at)
    if spec.fuse in ("pool", "resample", "pad"):
        return _local(record, inputs, at)
    if spec.fuse == "dropout":
        return _same(record, inputs, at)
    return None


def links_back(record: NodeRecord, inputs: Types, result: Axis, batch: int) -> list[Link] | None:
    """The links that end at one axis of a result; ``None`` where something is not known."""
    found: list[Link] = []
    unknown = False
    for index, kind in enumerate(inputs):
        for axis in range(len(kind.shape)):
            if reads_axis(record, inputs, Axis(index, axis)):
                continue
            made = links(record, inputs, Axis(index, axis), batch)
            unknown = unknown or made is None
            found += [link for link in made or () if link.result == result]
    return None if unknown and not found else found


# --- rules ----------------------------------------------------------------------------------------


def _identity(at: Axis, result: int, axis: int, size: int) -> list[Link]:
    return [Link(at, Axis(result, axis), range(size))]


def _same(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
    """The axis stays where it is, in all results of the input's shape."""
    size = inputs[at.index].shape[at.axis]
    found = [
        Link(at, Axis(i, at.axis), range(size))
        for i, kind in enumerate(record.types)
        if at.axis < len(kind.shape) and kind.shape[at.axis] == size
    ]
    return found or None


def _local(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
    """Works along some axes (windows, padding); the others stay."""
    shape = inputs[at.index].shape
    digits = [c for c in record.op if c.isdigit()]
    fixed = len(shape) - int(digits[0]) if digits else 2
    made = record.types[0].shape
    if record.op == "pad":
        given = record.attrs["pad"]
        pairs = zip(given[::2], given[1::2], strict=True)  # of the last axis first
        padded = [i for i, pair in enumerate(pairs) if pair != (0, 0)]
        if any(len(shape) - 1 - i == at.axis for i in padded):
            return None
        fixed = len(shape)
    if at.axis >= fixed or at.index or len(made) != len(shape):
        return None
    return _same(record, inputs, at)


def _elementwise(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
    shape = inputs[at.index].shape
    size = shape[at.axis]
    found: list[Link] = []
    for i, kind in enumerate(record.types):
        axis = at.axis + len(kind.shape) - len(shape)
        if axis < 0 or (kind.shape[axis] != size and size != 1):
            return None
        if kind.shape[axis] == size:
            found.append(Link(at, Axis(i, axis), range(size)))
    return found


def _conv(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
    rank = len(inputs[0].shape)
    channel = channel_axis(record, rank)
    if at.index or at.axis > channel:
        return None
    if at.axis < channel:
        return _identity(at, 0, at.axis, inputs[0].shape[at.axis])
    times = record.attrs["out_channels"] // record.attrs["in_channels"]
    width = record.attrs["out_channels"]
    source = range(width) if times == 1 else tuple(p // times for p in range(width))
    return [Link(at, Axis(0, channel), source)]


def _linear(_record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
    return _identity(at, 0, at.axis, inputs[0].shape[at.axis])


def _cat(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
    made = record.types[0].shape
    along = record.attrs.get("dim", 0) % len(made)
    size = inputs[at.index].shape[at.axis]
    if at.axis != along:
        return _identity(at, 0, at.axis, size)
    if inputs[at.index].shape == _NOTHING:
        return []
    before = sum(k.shape[along] for k in inputs[: at.index] if k.shape != _NOTHING)
    source = [-1] * made[along]
    source[before : before + size] = range(size)
    return [Link(at, Axis(0, along), tuple(source))]


def _parts(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
    """`chunk` and `split`: the results are pieces of the input."""
    along = record.attrs.get("dim", 0) % len(inputs[0].shape)
    found: list[Link] = []
    start = 0
    for i, kind in enumerate(record.types):
        size = kind.shape[at.axis]
        begin = start if at.axis == along else 0
        source = range(begin, begin + size)
        found.append(Link(at, Axis(i, at.axis), range(size) if not begin else tuple(source)))
        start += size
    return found


def _reduce(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
    if "other" in record.attrs:
        return _elementwise(record, inputs, at)
    rank = len(inputs[0].shape)
    given = record.attrs.get("dim")
    if at.index or given == ():
        return None
    dims = range(rank) if given is None else (given if isinstance(given, tuple) else (given,))
    gone = {d % rank for d in dims}
    if at.axis in gone:
        return []
    kept = record.attrs.get("keepdim", False)
    axis = at.axis if kept else at.axis - sum(d < at.axis for d in gone)
    size = inputs[0].shape[at.axis]
    return [Link(at, Axis(i, axis), range(size)) for i in range(len(record.types))]


def _getitem(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
    """Slices and numbers on other axes; the axis itself is taken whole."""
    given = record.attrs["index"]
    items = list(given) if isinstance(given, tuple) else [given]
    if any(not (isinstance(i, slice | int) or i is None or i is ...) for i in items):
        return None
    if any(isinstance(i, bool) for i in items):
        return None
    rank = len(inputs[0].shape)
    used = sum(i is not None and i is not ... for i in items)
    if ... in items:
        place = items.index(...)
        items[place : place + 1] = [slice(None)] * (rank - used)
    else:
        items += [slice(None)] * (rank - used)
    axis = source = 0
    for item in items:
        if item is None:
            axis += 1
            continue
        if source == at.axis:
            if item != slice(None):
                return None
            return _identity(at, 0, axis, inputs[0].shape[at.axis])
        source += 1
        axis += not isinstance(item, int)
    return None


def pushed(record: NodeRecord, inputs: Types, at: Axis, batch: int) -> torch.Tensor | None:
    """The position along an input's axis that each element of the result comes from.

    Returns:
        ``None`` for operations that do more than to move elements.
    """
    shape = inputs[at.index].shape
    if (
        record.op not in _MOVING | _AS.keys()
        or at.index
        or prod(shape) > _PROBED
        or len(record.types) != 1
    ):
        return None
    numbers = torch.arange(shape[at.axis], device="cpu").view(
        [-1 if axis == at.axis else 1 for axis in range(len(shape))]
    )
    numbers = numbers.expand(shape).contiguous()
    if record.op in _AS:
        made = getattr(numbers, _AS[record.op])(record.types[0].shape)
    else:
        made = _call(record, numbers, batch)
    if not isinstance(made, torch.Tensor) or tuple(made.shape) != record.types[0].shape:
        return None
    return made


def _moved(record: NodeRecord, inputs: Types, at: Axis, batch: int) -> list[Link] | None:
    """Operations that move elements: numbered positions are pushed through, to see where."""
    made = pushed(record, inputs, at, batch)
    if made is None:
        return None
    size = inputs[at.index].shape[at.axis]
    for axis in range(made.dim()):
        if made.shape[axis] == 1 and size > 1:
            continue
        line = made.movedim(axis, 0).reshape(made.shape[axis], -1)
        if bool((line == line[:, :1]).all()):
            source = line[:, 0].tolist()
            plain = source == list(range(size))
            return [Link(at, Axis(0, axis), range(size) if plain else tuple(source))]
    return None


def _call(record: NodeRecord, numbers: torch.Tensor, batch: int) -> Any:
    spec = op_spec(record.op)

    def concrete(value: Any) -> Any:
        return value.at(batch) if isinstance(value, BatchSize) else value

    if any(isinstance(leaf, Operand) for leaf in record.attrs.values()):
        return None
    attrs = Attrs({k: map_leaves(concrete, v) for k, v in record.attrs.items()})
    positional, named = arrange_call(spec, attrs, [numbers])
    try:
        with torch._C.DisableTorchFunction():
            if spec.kind == "module":
                return spec.target(**dict(attrs))(*positional, **named)
            if spec.method is not None:
                return getattr(positional[0], spec.method)(*positional[1:], **named)
            return spec.target(*positional, **named)
    except (RuntimeError, TypeError, IndexError):
        return None


# Operations of each element that the table does not call elementwise.
_EACH: Final = frozenset(
    {
        "by_mode",
        "zeros_like",
        "ones_like",
        "full_like",
        "where",
        "masked_fill",
        "to",
        "clone",
        "contiguous",
        "detach",
        "type_as",
        "alias",
    }
)
_MOVING: Final = frozenset(
    {"Flatten", "flatten", "view", "reshape", "Unflatten", "unflatten", "squeeze", "unsqueeze"}
    | {"permute", "transpose", "t", "movedim", "expand", "ravel", "repeat", "repeat_interleave"}
)
# The shape is that of a second input.
_AS: Final[Mapping[str, str]] = MappingProxyType(
    {"reshape_as": "reshape", "view_as": "reshape", "expand_as": "expand"}
)
_REDUCING: Final = ("sum", "mean", "amax", "amin", "max", "min", "var", "std", "logsumexp", "norm")
_RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        **dict.fromkeys((f"Conv{t}{n}d" for t in ("", "Transpose") for n in (1, 2, 3)), _conv),
        **dict.fromkeys(("Linear", "Embedding"), _linear),
        **products.RULES,
        **dict.fromkeys(("cat", "concat"), _cat),
        **dict.fromkeys(("chunk", "split"), _parts),
        **dict.fromkeys(_REDUCING, _reduce),
        **dict.fromkeys(NORMALISING, _same),
        "getitem": _getitem,
    }
)
