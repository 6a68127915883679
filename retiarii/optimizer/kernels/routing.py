"""From the tensors that groups make to those that groups read: slices, joins, changes of form.

Autograd's own backward of a slice fills a whole tensor with zeros for every reader; the backward of
`parts` lays the readers' gradients side by side, and adds only where they overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from retiarii.optimizer.kernels.shape import join_channels

Bounds = tuple[tuple[int, int], ...]


def parts(value: Tensor, dim: int, members: int, ranges: Bounds) -> tuple[Tensor, ...]:
    """The slices of a stacked tensor that its readers take.

    Args:
        value: stacked along ``dim``.
        dim: 0 for the form of members, 1 for that of channels.
        members: how many it stacks.
        ranges: (first, last + 1) member of each slice.
    """
    width = value.shape[dim] // members
    bounds = tuple((a * width, b * width) for a, b in ranges)
    if not (value.requires_grad and torch.is_grad_enabled()):
        return tuple(value.narrow(dim, a, b - a) for a, b in bounds)
    if _tiles(ranges, members):
        return torch.split(value, [b - a for a, b in bounds], dim)
    return tuple(_Parts.apply(value, dim, bounds))  # type: ignore[no-untyped-call]


def _tiles(ranges: Bounds, members: int) -> bool:
    end = 0
    for start, stop in ranges:
        if start != end:
            return False
        end = stop
    return end == members


class _Parts(torch.autograd.Function):
    """Overlapping slices; the sum of their gradients is written once, segment by segment."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, dim: int, bounds: Bounds) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dim, ctx.bounds, ctx.shape = dim, bounds, value.shape
        ctx.layout = layout_of(value)
        return tuple(value.narrow(dim, a, b - a) for a, b in bounds)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None]:
        found = [(a, b, g) for (a, b), g in zip(ctx.bounds, grads, strict=True) if g is not None]
        if not found:
            return None, None, None
        if torch.is_grad_enabled():
            # A graph of the backward pass is asked for: nothing may be written in place.
            return _summed(found, ctx.shape, ctx.dim), None, None
        like = found[0][2]
        total = torch.empty(
            ctx.shape, dtype=like.dtype, device=like.device, memory_format=ctx.layout
        )
        dim: int = ctx.dim
        for start, stop, readers in _segments(found, total.shape[dim]):
            place = total.narrow(dim, start, stop - start)
            pieces = [g.narrow(dim, start - a, stop - start) for a, g in readers]
            if not pieces:
                place.zero_()
            elif len(pieces) == 1:
                place.copy_(pieces[0])
            else:
                torch.add(pieces[0], pieces[1], out=place)
                for piece in pieces[2:]:
                    place.add_(piece)
        return total, None, None


def _summed(found: Sequence[tuple[int, int, Tensor]], shape: torch.Size, dim: int) -> Tensor:
    total = torch.zeros(shape, dtype=found[0][2].dtype, device=found[0][2].device)
    for a, b, g in found:
        index = torch.arange(a, b, device=g.device)
        total = total.index_add(dim, index, g)
    return total


def _segments(
    found: Sequence[tuple[int, int, Tensor]], length: int
) -> Iterator[tuple[int, int, list[tuple[int, Tensor]]]]:
    """(start, stop, what lies there) for each stretch with the same readers."""
    cuts = sorted({0, length, *(a for a, _, _ in found), *(b for _, b, _ in found)})
    for start, stop in pairwise(cuts):
        yield start, stop, [(a, g) for a, b, g in found if a <= start and stop <= b]


def layout_of(value: Tensor) -> torch.memory_format:
    """Channels-last for four-dimensional tensors whose channels lie side by side."""
    last = value.ndim == 4 and value.stride(1) == 1 and value.shape[1] > 1
    return torch.channels_last if last else torch.contiguous_format


def to_channels(value: Tensor) -> Tensor:
    """[G, B, C, ...] as [B, G * C, ...]."""
    return join_channels(value.transpose(0, 1))


def to_members(value: Tensor, members: int) -> Tensor:
    """[B, G * C, ...] as [G, B, C, ...], a view."""
    return torch.unflatten(value, 1, (members, value.shape[1] // members)).transpose(0, 1)


def spread(value: Tensor, members: int) -> Tensor:
    """A shared tensor [B, C, ...] as [B, G * C, ...], one copy for each member."""
    return join_channels(value.unsqueeze(1).expand(-1, members, *value.shape[1:]))


def expand(value: Tensor, members: int) -> Tensor:
    """A shared tensor as [G, ...], a view."""
    return value.unsqueeze(0).expand(members, *value.shape)


def write_back(value: Tensor, homes: Sequence[Tensor]) -> None:
    """Copies buffers that a call has written to where they came from, member by member.

    As torch's own batch normalisation, autograd is not told: calls of the same layer before this
    one keep these buffers for their backward pass, and do not read them there.
    """
    at = 0
    for home in homes:
        home.data.copy_(value[at : at + len(home)])
        at += len(home)


def touch(value: Tensor, parameter: Tensor) -> Tensor:
    """``value``; the parameter gets a gradient of zeros."""
    made: Tensor = _Touch.apply(value, parameter)  # type: ignore[no-untyped-call]
    return made


class _Touch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, parameter: Tensor) -> Tensor:
        ctx.like = parameter
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, torch.zeros_like(ctx.like)
