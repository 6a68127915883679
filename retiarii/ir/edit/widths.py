"""Which axes are a layer's own width, which it reads into its weights, which it lets through."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from retiarii.ir.edit.axis import Axis, Types
from retiarii.ir.node import NodeRecord
from retiarii.ir.ops import op_spec

# Layers with one weight for each position along an axis.
OWNING: Final = frozenset(
    {"channels", "instance_channels", "group_norm", "normalized_shape", "prelu"}
)
_WIDTHS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Linear": "out_features",
        "Bilinear": "out_features",
        "Embedding": "embedding_dim",
        "EmbeddingBag": "embedding_dim",
        **dict.fromkeys(("RNN", "LSTM", "GRU"), "hidden_size"),
        **dict.fromkeys(("RNNCell", "LSTMCell", "GRUCell"), "hidden_size"),
    }
)
# Tensors of one value everywhere, made from a size.
FILLED: Final = frozenset({"zeros", "ones", "full", "new_zeros", "new_ones", "new_full"})
# Of their second input they read the shape, or the type.
_LIKE_OTHER: Final = frozenset({"reshape_as", "view_as", "expand_as", "type_as"})
# Their result at one position depends on all positions along these axes.
_NORMALISED_DIM: Final[Mapping[str, int | None]] = MappingProxyType(
    {
        **dict.fromkeys(("Softmax", "softmax", "LogSoftmax", "log_softmax"), None),
        **dict.fromkeys(("Softmin", "softmin"), None),
        "Softmax2d": -3,
        "normalize": 1,
        **dict.fromkeys(("LocalResponseNorm", "local_response_norm"), 1),
    }
)
NORMALISING: Final = tuple(_NORMALISED_DIM)


def reads_axis(record: NodeRecord, inputs: Types, at: Axis) -> bool:
    """Whether a layer multiplies its weights with that axis of that input."""
    if at.index != 0:
        return False
    rank = len(inputs[0].shape)
    rule = op_spec(record.op).resize
    if rule == "conv":
        return at.axis == channel_axis(record, rank) and not is_depthwise(record)
    return rule in ("linear", "recurrent") and at.axis == rank - 1


def makes_axis(record: NodeRecord, result: Axis) -> bool:
    """Whether that axis of the result is a layer's own width (or a raw parameter's)."""
    if record.op in ("parameter", "buffer"):
        return True
    rank = len(record.types[result.index].shape)
    if op_spec(record.op).resize == "conv":
        return result.axis == channel_axis(record, rank) and not is_depthwise(record)
    return width_name(record) is not None and result.axis == rank - 1


def owns_axis(record: NodeRecord) -> bool:
    """Whether a layer has one weight for each position of an axis that it lets through."""
    spec = op_spec(record.op)
    if spec.resize == "prelu" and record.attrs["num_parameters"] == 1:
        return False
    return spec.kind == "module" and (spec.resize in OWNING or is_depthwise(record))


def counts_from_front(record: NodeRecord) -> bool:
    """Whether the axis that a layer owns has one number in inputs of any rank."""
    return op_spec(record.op).resize in ("channels", "group_norm", "prelu")


def mixes_axis(record: NodeRecord, axis: int) -> bool:
    """Whether the result at one position depends on all positions along that axis."""
    attrs, rank = record.attrs, len(record.types[0].shape)
    rule = op_spec(record.op).resize
    if rule == "normalized_shape":
        sizes = attrs["normalized_shape"]
        return axis >= rank - (len(sizes) if isinstance(sizes, tuple) else 1)
    if rule == "group_norm" or record.op == "group_norm":
        return axis > 0
    if record.op not in _NORMALISED_DIM:
        return False
    dim = attrs.get("dim", _NORMALISED_DIM[record.op])
    dims = dim if isinstance(dim, tuple) else (dim,)
    return any(d is None or d % rank == axis for d in dims)


def is_depthwise(record: NodeRecord) -> bool:
    """Whether a convolution has filters of its own for each channel."""
    groups = record.attrs.get("groups", 1)
    return bool(
        op_spec(record.op).resize == "conv" and groups > 1 and groups == record.attrs["in_channels"]
    )


def lends_shape(record: NodeRecord, index: int) -> bool:
    """Whether a node does not read the values of that input."""
    if record.op in _LIKE_OTHER:
        return index > 0
    return record.op in FILLED or record.op == "new_empty"


def is_recurrent(record: NodeRecord) -> bool:
    """Whether a layer's width is that of its own states."""
    return op_spec(record.op).resize == "recurrent"


def width_name(record: NodeRecord) -> str | None:
    """The attribute that says how wide a layer's result is."""
    if op_spec(record.op).resize == "conv":
        return "out_channels"
    if record.attrs.get("proj_size", 0):
        return None  # two widths, of the states and of what is made of them
    return _WIDTHS.get(record.op)


def width_axis(record: NodeRecord) -> int | None:
    """The axis of the result that a layer's width is the size of."""
    rank = len(record.types[0].shape)
    if op_spec(record.op).resize == "conv":
        return channel_axis(record, rank)
    return rank - 1 if width_name(record) else None


def width_places(record: NodeRecord, inputs: Types) -> tuple[list[Axis], list[Axis]]:
    """The axes of the results and of the inputs that have a layer's width, all together."""
    if is_recurrent(record):
        made = [Axis(i, len(kind.shape) - 1) for i, kind in enumerate(record.types)]
        return made, [Axis(i, len(kind.shape) - 1) for i, kind in enumerate(inputs) if i]
    axis = width_axis(record)
    assert axis is not None
    return [Axis(0, axis)], []


def channel_axis(record: NodeRecord, rank: int) -> int:
    return rank - int(record.op[-2]) - 1
