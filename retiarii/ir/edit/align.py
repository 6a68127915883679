"""`Graph.align`: the projection that makes one tensor's shape another's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from retiarii.errors import ShapeError
from retiarii.ir.edit.editing import own_ref
from retiarii.ir.edit.insertion import insert
from retiarii.ir.node import Node, Value
from retiarii.ir.types import Ref, TensorType

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)


def align(
    graph: Graph, a: Node | Value, b: Node | Value, channel_axis: int | None, name: str | None
) -> Value:
    """See `Graph.align`."""
    like, ref = own_ref(graph, a), own_ref(graph, b)
    graph.settle()
    for side in (like, ref):
        graph.reads.note("types", side.node)
    wanted, given = _type(graph, like), _type(graph, ref)
    if wanted == given:
        return Value(graph, *ref)
    shape, now = wanted.shape, given.shape
    if wanted.dtype != given.dtype or not given.dtype.is_floating_point:
        raise _cannot(graph, like, ref, "their dtypes are no equal floating-point ones")
    if len(shape) != len(now) or len(shape) < 2:
        raise _cannot(graph, like, ref, "they have different numbers of dimensions")
    rank = len(shape)
    channel = _channel(shape, now, channel_axis)
    differs = {axis for axis in range(rank) if shape[axis] != now[axis]}
    base = name or f"{ref.node}_aligned"
    if channel == rank - 1:
        if differs - {channel}:
            raise _cannot(graph, like, ref, "they differ in more than their last dimension")
        return _linear(graph, ref, wanted, base)
    if channel != 1 or 0 in differs or rank > 5:
        raise _cannot(graph, like, ref, "they differ in their batch")
    spatial = tuple(range(2, rank))
    value = Value(graph, *ref)
    strides = tuple(_stride(now[axis], shape[axis]) for axis in spatial)
    if channel in differs and all(strides):
        return _project(graph, value, wanted, tuple(s or 1 for s in strides), base)
    if differs & set(spatial):
        size = tuple(shape[axis] for axis in spatial)
        pooled = insert(
            graph,
            _POOLS[rank - 3],
            (value,),
            f"{base}_pool" if channel in differs else base,
            {"output_size": size if rank > 3 else size[0]},
        )
        value = pooled[0]
    if channel in differs:
        value = _project(graph, value, wanted, (1,) * len(spatial), base)
    return value


def _channel(shape: tuple[int, ...], now: tuple[int, ...], given: int | None) -> int:
    rank = len(shape)
    if given is not None:
        return given % rank
    # Of tokens (batch, length, width), only the width differs; of signals, the channels do.
    tokens = rank == 3 and shape[:2] == now[:2]
    return rank - 1 if rank == 2 or tokens else 1


def _stride(now: int, wanted: int) -> int | None:
    """The stride of a 1x1 convolution that makes ``wanted`` positions of ``now``."""
    if not 0 < wanted <= now:
        return None
    stride = -(-now // wanted)
    return stride if -(-now // stride) == wanted else None


def _project(
    graph: Graph, value: Value, wanted: TensorType, stride: tuple[int, ...], name: str
) -> Value:
    attrs = {
        "out_channels": wanted.shape[1],
        "kernel_size": 1,
        "stride": stride,
        "bias": False,
        **_dtype(wanted),
    }
    return insert(graph, _CONVS[len(stride) - 1], (value,), name, attrs)[0]


def _linear(graph: Graph, ref: Ref, wanted: TensorType, name: str) -> Value:
    attrs = {"out_features": wanted.shape[-1], "bias": False, **_dtype(wanted)}
    return insert(graph, nn.Linear, (Value(graph, *ref),), name, attrs)[0]


def _dtype(kind: TensorType) -> dict[str, torch.dtype]:
    return {} if kind.dtype == torch.get_default_dtype() else {"dtype": kind.dtype}


def _type(graph: Graph, ref: Ref) -> TensorType:
    return graph.record(ref.node).types[ref.index]


def _cannot(graph: Graph, like: Ref, ref: Ref, why: str) -> ShapeError:
    return ShapeError(
        f"{ref.node!r} {_type(graph, ref)} cannot be given the shape of "
        f"{like.node!r} {_type(graph, like)}: {why}",
        where=f"align({like.node!r}, {ref.node!r})",
        fix="reshape one of the two first; channel_axis= says which dimension holds the channels",
    )
