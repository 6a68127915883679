"""Products of two tensors, and norms with raw weights: which axes go together.

Two axes that are multiplied and summed over are partners (`partner`): a position of one goes with
the same position of the other. The other axes are in the result (`PRODUCTS`, `AFFINE`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from retiarii.ir.edit.axis import Axis, Link, Types
from retiarii.ir.node import NodeRecord

Rule = Callable[[NodeRecord, Types, Axis], "list[Link] | None"]

_MATMULS: Final = ("matmul", "bmm", "mm")
_CONVS: Final = ("conv1d", "conv2d", "conv3d")


def partner(record: NodeRecord, inputs: Types, at: Axis) -> Axis | None:
    """The axis that the products along ``at`` are summed over with; ``None`` for other axes."""
    pair = _pair(record, inputs)
    if pair is None or at not in pair:
        return None
    return pair[1] if at == pair[0] else pair[0]


def _pair(record: NodeRecord, inputs: Types) -> tuple[Axis, Axis] | None:
    op = record.op
    if op == "addmm":
        return Axis(1, 1), Axis(2, 0)
    if op not in (*_MATMULS, *_CONVS, "linear") or len(inputs) < 2:
        return None
    first, second = (len(kind.shape) for kind in inputs[:2])
    if op == "linear":
        return Axis(0, first - 1), Axis(1, second - 1)
    if op in _CONVS:
        return (Axis(0, first - second + 1), Axis(1, 1)) if _ungrouped(record) else None
    return Axis(0, first - 1), Axis(1, max(second - 2, 0))


def _ungrouped(record: NodeRecord) -> bool:
    return bool(record.attrs.get("groups", 1) == 1)


def _to(record: NodeRecord, inputs: Types, at: Axis, axis: int) -> list[Link]:
    """The axis is ``axis`` of the result, counted as Python does."""
    made = record.types[0].shape
    size = inputs[at.index].shape[at.axis]
    axis %= len(made)
    return [Link(at, Axis(0, axis), range(size))] if made[axis] == size else []


def _matmul(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
    ranks = [len(kind.shape) for kind in inputs]
    if min(ranks) < 2 or partner(record, inputs, at):
        return None
    return _to(record, inputs, at, at.axis - ranks[at.index])


def _addmm(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
    if partner(record, inputs, at):
        return None
    return _to(record, inputs, at, at.axis - len(inputs[at.index].shape))


def _linear(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
    if partner(record, inputs, at):
        return None
    return _to(record, inputs, at, -1 if at.index else at.axis)


def _conv(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
    channel = len(inputs[0].shape) - len(inputs[1].shape) + 1
    if not _ungrouped(record) or partner(record, inputs, at):
        return None
    if at.index and at.axis == 0:
        return _to(record, inputs, at, channel)
    return _to(record, inputs, at, at.axis) if not at.index and at.axis < channel else None


def _attention(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
    """`scaled_dot_product_attention`: heads and batches, the queries, the width of the values."""
    made, shape = record.types[0].shape, inputs[at.index].shape
    end = at.axis - len(shape)
    if end >= -2:
        stays = (at.index, end) in ((0, -2), (2, -1))
        return _to(record, inputs, at, end) if stays else None
    size = shape[at.axis]
    if end == -3 and record.attrs.get("enable_gqa") and at.index in (1, 2):
        times = made[end] // size  # each head of the keys serves several of the queries
        return [Link(at, Axis(0, len(made) + end), tuple(p // times for p in range(made[end])))]
    return _to(record, inputs, at, end)


def _glu(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
    """One half gates the other."""
    along = record.attrs.get("dim", -1) % len(inputs[0].shape)
    if at.axis != along:
        return _to(record, inputs, at, at.axis)
    half = inputs[0].shape[along] // 2
    return [Link(at, Axis(0, along), range(start, start + half)) for start in (0, half)]


def _unbind(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
    along = record.attrs.get("dim", 0) % len(inputs[0].shape)
    if at.axis == along:
        return None
    axis, size = at.axis - (at.axis > along), inputs[0].shape[at.axis]
    return [Link(at, Axis(i, axis), range(size)) for i in range(len(record.types))]


def _stack(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
    along = record.attrs.get("dim", 0) % len(record.types[0].shape)
    return _to(record, inputs, at, at.axis + (at.axis >= along))


def _along(name: str) -> Rule:
    """Positions along the axes ``name`` depend on each other or on their number; others stay."""

    def rule(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
        given, rank = record.attrs.get(name, ()), len(inputs[0].shape)
        dims = given if isinstance(given, tuple) else (given,)
        if at.index or not dims or at.axis in {dim % rank for dim in dims}:
            return None
        return _to(record, inputs, at, at.axis)

    return rule


def _affine(axis: int) -> Rule:
    """A function that holds one number for each position along ``axis``, in further inputs."""

    def rule(record: NodeRecord, inputs: Types, at: Axis) -> list[Link] | None:
        if at.index and len(inputs[at.index].shape) != 1:
            return None
        return _to(record, inputs, at, axis if at.index else at.axis)

    return rule


RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        **dict.fromkeys(_MATMULS, _matmul),
        **dict.fromkeys(_CONVS, _conv),
        "addmm": _addmm,
        "linear": _linear,
        "scaled_dot_product_attention": _attention,
        **dict.fromkeys(("GLU", "glu"), _glu),
        **dict.fromkeys(("unbind", "unstack"), _unbind),
        "stack": _stack,
        **dict.fromkeys(("roll", "flip"), _along("dims")),
        **dict.fromkeys(("cumsum", "cumprod"), _along("dim")),
        **dict.fromkeys(("batch_norm", "instance_norm", "prelu"), _affine(1)),
        **dict.fromkeys(("layer_norm", "rms_norm"), _affine(-1)),
    }
)
