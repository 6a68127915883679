"""Dropout of many members: a mask from each one's stream, one multiplication for all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from retiarii.optimizer.kernels.randomness import Streams, drawn_from, filled, ordered

# As torch has it: the negative limit of SELU.
_ALPHA = 1.7580993408473766


def dropout(
    x: Tensor, p: float, streams: Streams, form: str, order: Sequence[int] | None = None
) -> Tensor:
    """``F.dropout`` in training.

    Args:
        x: the stack.
        p: how likely an element becomes zero.
        streams: one a member.
        form: ``"members"`` (``[G, *S]``), ``"channels"`` (``[B, G * C, ...]``), or ``"plain"``
            (``S``, of which each member drops its own part).
        order: that of a member's mask in memory; see `filled`.

    Returns:
        A stack of the same form; of members for ``"plain"``.
    """
    if p == 0 or x.numel() == 0:
        return _unchanged(x, len(streams), form)
    view = _view(x, len(streams), form)
    if p == 1:
        return _back(view * view.new_zeros(()), form, len(streams))
    shape = _member_shape(x, len(streams), form)
    noise = _noise(shape, p, streams, view, order, fused=True)
    return _times(view, noise, form)


def feature_dropout(
    x: Tensor, p: float, streams: Streams, form: str, batched: bool = True
) -> Tensor:
    """``F.dropout1d`` and its kin in training: whole channels of a sample become zero.

    Args:
        x: the stack; see `dropout`.
        p: how likely a channel becomes zero.
        streams: one a member.
        form: see `dropout`.
        batched: whether a member's first dimension is the batch; else it is the channels.
    """
    if p == 0 or x.numel() == 0:
        return _unchanged(x, len(streams), form)
    view = _view(x, len(streams), form)
    if p == 1:
        return _back(view * view.new_zeros(()), form, len(streams))
    shape = _channel_shape(_member_shape(x, len(streams), form), batched)
    return _times(view, _noise(shape, p, streams, view), form)


def alpha_dropout(
    x: Tensor,
    p: float,
    streams: Streams,
    form: str,
    features: bool = False,
    order: Sequence[int] | None = None,
) -> Tensor:
    """``F.alpha_dropout`` and ``F.feature_alpha_dropout`` in training.

    "Self-Normalizing Neural Networks" (Klambauer et al., 2017).

    Args:
        x: the stack; see `dropout`.
        p: how likely an element is dropped.
        streams: one a member.
        form: see `dropout`.
        features: whether whole channels of a sample are dropped.
        order: see `dropout`.
    """
    if p == 0 or x.numel() == 0:
        return _unchanged(x, len(streams), form)
    view = _view(x, len(streams), form)
    if p == 1:
        return _back(view * view.new_zeros(()), form, len(streams))
    shape = _member_shape(x, len(streams), form)
    shape = _channel_shape(shape, True) if features else shape
    noise = _kept(shape, p, streams, view, order)
    a = 1 / math.sqrt((_ALPHA * _ALPHA * p + 1) * (1 - p))
    shift = noise.add(-1).mul_(_ALPHA * a).add_(_ALPHA * a * p)
    noise.mul_(a)
    return _times(view, noise, form, shift)


def rrelu(x: Tensor, lower: float, upper: float, streams: Streams) -> Tensor:
    """``F.rrelu`` in training, of ``[G, *S]``: one call a member, for how many numbers are drawn
    depends on the signs."""

    def draw(row: Tensor, stream: torch.Generator) -> Tensor:
        noise = torch.empty_like(row)
        made = torch.ops.aten.rrelu_with_noise(row, noise, lower, upper, True, stream)
        assert isinstance(made, Tensor)
        return made

    return drawn_from(draw, streams, x)


def _noise(
    shape: Sequence[int],
    p: float,
    streams: Streams,
    like: Tensor,
    order: Sequence[int] | None = None,
    fused: bool = False,
) -> Tensor:
    """``[G, *shape]`` of zeros and ``1 / (1 - p)``."""
    if fused and like.is_cuda and streams[0].device == like.device:
        return _fused_noise(shape, p, streams, like, order)
    return _kept(shape, p, streams, like, order).div_(1 - p)


def _kept(
    shape: Sequence[int], p: float, streams: Streams, like: Tensor, order: Sequence[int] | None
) -> Tensor:
    """``[G, *shape]`` of zeros and ones."""

    def draw(part: Tensor, stream: torch.Generator) -> None:
        part.bernoulli_(1 - p, generator=stream)

    return filled(shape, streams, like, draw, order=order)


def _fused_noise(
    shape: Sequence[int], p: float, streams: Streams, like: Tensor, order: Sequence[int] | None
) -> Tensor:
    """The masks of CUDA's own dropout, which has no argument for the stream."""
    ones = ordered(torch.ones(shape, dtype=like.dtype, device=like.device), order)
    rows = []
    for stream in streams:
        with _as_default(stream):
            rows.append(torch.native_dropout(ones, p, True)[0])
    return torch.stack(rows)


@contextmanager
def _as_default(stream: torch.Generator) -> Iterator[None]:
    """The device's default generator draws from the stream, and so advances it."""
    default = torch.cuda.default_generators[stream.device.index or 0]
    own = default.graphsafe_get_state()
    default.graphsafe_set_state(stream.graphsafe_get_state())
    try:
        yield
    finally:
        default.graphsafe_set_state(own)


def _member_shape(x: Tensor, size: int, form: str) -> tuple[int, ...]:
    if form == "channels":
        return (x.shape[0], x.shape[1] // size, *x.shape[2:])
    return tuple(x.shape[1:] if form == "members" else x.shape)


def _channel_shape(shape: Sequence[int], batched: bool) -> tuple[int, ...]:
    kept = 2 if batched else 1
    return (*shape[:kept], *(1,) * (len(shape) - kept))


def _view(x: Tensor, size: int, form: str) -> Tensor:
    return torch.unflatten(x, 1, (size, -1)) if form == "channels" else x


def _times(view: Tensor, noise: Tensor, form: str, shift: Tensor | None = None) -> Tensor:
    if form == "channels":
        noise = noise.transpose(0, 1)
        shift = None if shift is None else shift.transpose(0, 1)
    made = view * noise
    made = made if shift is None else made + shift
    return made.flatten(1, 2) if form == "channels" else made


def _back(view: Tensor, form: str, size: int) -> Tensor:
    if form == "channels":
        return view.flatten(1, 2)
    return _unchanged(view, size, form)


def _unchanged(x: Tensor, size: int, form: str) -> Tensor:
    return x.expand(size, *x.shape) if form == "plain" else x
