"""From the tensors that groups make to those that groups read: slices, joins, changes of form.

Autograd's own backward of a slice fills a whole tensor with zeros for every reader; the backward of
`parts` lays the readers' gradients side by side, and adds only where they overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

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
        total = torch.empty(
            ctx.shape,
            dtype=found[0][2].dtype,
            device=found[0][2].device,
            memory_format=ctx.layout,
        )
        add_up(found, total, ctx.dim)
        return total, None, None


def add_up(found: Sequence[tuple[int, int, Tensor]], total: Tensor, dim: int) -> None:
    """Writes the sum of what the readers hand back, each element once."""
    plan = _segments(tuple((a, b) for a, b, _ in found), total.shape[dim])
    places = torch.split(total, plan.lengths, dim)
    pieces = [
        torch.split(g, lengths, dim) if len(lengths) > 1 else (g,)
        for (_, _, g), lengths in zip(found, plan.cuts, strict=True)
    ]
    if plan.single:
        torch._foreach_copy_(
            [places[s] for s, _, _ in plan.single], [pieces[r][i] for _, r, i in plan.single]
        )
    for s, readers in plan.several:
        (r, i), (q, j), *more = readers
        torch.add(pieces[r][i], pieces[q][j], out=places[s])
        for q, j in more:
            places[s].add_(pieces[q][j])
    for s in plan.unread:
        places[s].zero_()


def _summed(found: Sequence[tuple[int, int, Tensor]], shape: torch.Size, dim: int) -> Tensor:
    total = torch.zeros(shape, dtype=found[0][2].dtype, device=found[0][2].device)
    for a, b, g in found:
        index = torch.arange(a, b, device=g.device)
        total = total.index_add(dim, index, g)
    return total


class _Segments(NamedTuple):
    """Stretches with the same readers.

    Attributes:
        lengths: of the stretches, in order.
        cuts: for each reader, the lengths of those that it reads.
        single: (stretch, reader, which of the reader's) for those with one reader.
        several: (stretch, (reader, which of the reader's), ...) for those with more.
        unread: the others.
    """

    lengths: list[int]
    cuts: list[list[int]]
    single: list[tuple[int, int, int]]
    several: list[tuple[int, list[tuple[int, int]]]]
    unread: list[int]


@lru_cache(maxsize=4096)
def _segments(bounds: Bounds, length: int) -> _Segments:
    ends = sorted({0, length, *(a for a, _ in bounds), *(b for _, b in bounds)})
    made = _Segments([], [[] for _ in bounds], [], [], [])
    for s, (start, stop) in enumerate(pairwise(ends)):
        made.lengths.append(stop - start)
        readers = []
        for r, (a, b) in enumerate(bounds):
            if a <= start and stop <= b:
                readers.append((r, len(made.cuts[r])))
                made.cuts[r].append(stop - start)
        if not readers:
            made.unread.append(s)
        elif len(readers) == 1:
            made.single.append((s, *readers[0]))
        else:
            made.several.append((s, readers))
    return made


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
