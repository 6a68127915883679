"""Where the positions along one axis of a result come from: what channels are coupled by.

For most operations an axis of the result is an axis of an input, position by position or with
each position repeated (`flatten` of channels and pixels). `links` says so. Layers read an axis
into their weights (`reads_axis`) or make one (`makes_axis`). What nothing is known of gives None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import torch

from retiarii.ir.node import NodeRecord
from retiarii.ir.ops import arrange_call, op_spec
from retiarii.ir.types import Attrs, BatchSize, Operand, TensorType, map_leaves

Types = tuple[TensorType, ...]

# Larger tensors are not pushed through a shape operation to see where an axis goes.
_PROBED = 1 << 24


class Axis(NamedTuple):
    """One axis of input (or result) number ``index``."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    axis: int


class Link(NamedTuple):
    """Position p along axis ``result`` is position ``source[p]`` along axis ``input``.

    A source of -1 is a position that comes from elsewhere.
    """

    input: Axis
    result: Axis
    source: Sequence[int]

    @property
    def plain(self) -> bool:
        """Whether each position is the same position of the input."""
        return self.source == range(len(self.source))


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
    if record.op in _MOVING:
        return _moved(record, inputs, at, batch)
    rule = _RULES.get(record.op)
    if rule is not None:
        return rule(record, inputs, at)
    if spec.resize in _OWN:
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


# --- layers ---------------------------------------------------------------------------------------


def reads_axis(record: NodeRecord, inputs: Types, at: Axis) -> bool:
    """Whether a layer multiplies its weights with that axis of that input."""
    if at.index != 0:
        return False
    rank = len(inputs[0].shape)
    rule = op_spec(record.op).resize
    if rule == "conv":
        return at.axis == _channel_axis(record, rank) and not is_depthwise(record)
    return rule in ("linear", "recurrent") and at.axis == rank - 1


def makes_axis(record: NodeRecord, result: Axis) -> bool:
    """Whether that axis of the result is a layer's own width (or a raw parameter's)."""
    if record.op in ("parameter", "buffer"):
        return True
    rank = len(record.types[result.index].shape)
    if op_spec(record.op).resize == "conv":
        return result.axis == _channel_axis(record, rank) and not is_depthwise(record)
    return record.op in ("Linear", "Embedding") and result.axis == rank - 1


def owns_axis(record: NodeRecord) -> bool:
    """Whether a layer has one weight for each position of an axis that it lets through."""
    spec = op_spec(record.op)
    return spec.kind == "module" and (spec.resize in _OWN or is_depthwise(record))


def is_depthwise(record: NodeRecord) -> bool:
    """Whether a convolution has filters of its own for each channel."""
    groups = record.attrs.get("groups", 1)
    return bool(
        op_spec(record.op).resize == "conv" and groups > 1 and groups == record.attrs["in_channels"]
    )


def width_name(record: NodeRecord) -> str | None:
    """The attribute that says how wide a layer's result is."""
    if op_spec(record.op).resize == "conv":
        return "out_channels"
    return {"Linear": "out_features", "Embedding": "embedding_dim"}.get(record.op)


def width_axis(record: NodeRecord) -> int | None:
    """The axis of the result that a layer's width is the size of."""
    rank = len(record.types[0].shape)
    if op_spec(record.op).resize == "conv":
        return _channel_axis(record, rank)
    return rank - 1 if width_name(record) else None


def _channel_axis(record: NodeRecord, rank: int) -> int:
    return rank - int(record.op[-2]) - 1


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
        fixed = len(shape) - len(record.attrs["pad"]) // 2
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
    channel = _channel_axis(record, rank)
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
    before = sum(kind.shape[along] for kind in inputs[: at.index])
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


def _moved(record: NodeRecord, inputs: Types, at: Axis, batch: int) -> list[Link] | None:
    """Operations that move elements: numbered positions are pushed through, to see where."""
    shape = inputs[at.index].shape
    if at.index or prod(shape) > _PROBED or len(record.types) != 1:
        return None
    size = shape[at.axis]
    numbers = torch.arange(size, device="cpu").view(
        [size if axis == at.axis else 1 for axis in range(len(shape))]
    )
    made = _call(record, numbers.expand(shape).contiguous(), batch)
    if not isinstance(made, torch.Tensor) or tuple(made.shape) != record.types[0].shape:
        return None
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


# Layers with one weight for each position along an axis.
_OWN: Final = frozenset(
    {"channels", "instance_channels", "group_norm", "normalized_shape", "prelu"}
)
# Operations of each element that the table does not call elementwise.
_EACH: Final = frozenset(
    {"where", "masked_fill", "to", "clone", "contiguous", "detach", "type_as", "alias"}
)
# Their result at one position depends on all positions: exact only where the axis is another one.
MIXING: Final = frozenset(
    {"LayerNorm", "layer_norm", "RMSNorm", "rms_norm", "GroupNorm", "group_norm", "normalize"}
    | {"LocalResponseNorm", "local_response_norm", "Softmax", "softmax", "LogSoftmax"}
    | {"log_softmax", "Softmin", "softmin", "Softmax2d"}
)
_MOVING: Final = frozenset(
    {"Flatten", "flatten", "view", "reshape", "Unflatten", "unflatten", "squeeze", "unsqueeze"}
    | {"permute", "transpose", "t", "movedim", "expand", "ravel"}
)
_REDUCING: Final = ("sum", "mean", "amax", "amin", "max", "min", "var", "std", "logsumexp", "norm")
_NORMALISING: Final = (
    *("Softmax", "softmax", "LogSoftmax", "log_softmax", "Softmin", "softmin"),
    *("normalize", "LocalResponseNorm", "local_response_norm"),
)
_RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        **dict.fromkeys((f"Conv{t}{n}d" for t in ("", "Transpose") for n in (1, 2, 3)), _conv),
        **dict.fromkeys(("Linear", "Embedding"), _linear),
        **dict.fromkeys(("cat", "concat"), _cat),
        **dict.fromkeys(("chunk", "split"), _parts),
        **dict.fromkeys(_REDUCING, _reduce),
        **dict.fromkeys(_NORMALISING, _same),
        "getitem": _getitem,
    }
)
