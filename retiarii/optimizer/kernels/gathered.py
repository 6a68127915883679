"""Elementwise operations on members that lie in pieces: gathering them costs no pass of its own.

``torch.add(torch.cat(a), torch.cat(b))`` writes and reads everything twice more than needed. Here
each run of members is computed straight into its place in the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from retiarii.optimizer.kernels.routing import layout_of

Pieces = Sequence[Tensor]


def gathered_add(dim: int, a: Pieces, b: Pieces) -> Tensor:
    """``torch.cat(a, dim) + torch.cat(b, dim)``."""
    if not _alike((*a, *b)):
        return torch.add(_joined(a, dim), _joined(b, dim))
    made: Tensor = _Add.apply(dim, len(a), *a, *b)  # type: ignore[no-untyped-call]
    return made


def gathered_relu(dim: int, pieces: Pieces) -> Tensor:
    """``torch.relu(torch.cat(pieces, dim))``."""
    if not _alike(pieces):
        return torch.relu(_joined(pieces, dim))
    made: Tensor = _Relu.apply(dim, *pieces)  # type: ignore[no-untyped-call]
    return made


def gathered_scale(dim: int, pieces: Pieces, factor: float) -> Tensor:
    """``torch.cat(pieces, dim) * factor``."""
    if not _alike(pieces):
        return torch.mul(_joined(pieces, dim), factor)
    made: Tensor = _Scale.apply(dim, factor, *pieces)  # type: ignore[no-untyped-call]
    return made


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dim: int, count: int, *pieces: Tensor) -> Tensor:
        a, b = pieces[:count], pieces[count:]
        ctx.dim, ctx.sizes = dim, [[p.shape[dim] for p in a], [p.shape[dim] for p in b]]
        out = _empty(a, dim)
        for start, length, i, at, j, bt in _segments(ctx.sizes[0], ctx.sizes[1]):
            torch.add(
                _part(a[i], dim, at, length),
                _part(b[j], dim, bt, length),
                out=out.narrow(dim, start, length),
            )
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        left, right = (_cut(grad, ctx.dim, sizes) for sizes in ctx.sizes)
        return None, None, *left, *right


class _Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dim: int, *pieces: Tensor) -> Tensor:
        ctx.dim, ctx.sizes = dim, [p.shape[dim] for p in pieces]
        out = _empty(pieces, dim)
        start = 0
        for piece, size in zip(pieces, ctx.sizes, strict=True):
            torch.clamp(piece, min=0, out=out.narrow(dim, start, size))
            start += size
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (out,) = ctx.saved_tensors
        passed = torch.ops.aten.threshold_backward(grad, out, 0)
        return None, *_cut(passed, ctx.dim, ctx.sizes)


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dim: int, factor: float, *pieces: Tensor) -> Tensor:
        ctx.dim, ctx.factor, ctx.sizes = dim, factor, [p.shape[dim] for p in pieces]
        out = _empty(pieces, dim)
        start = 0
        for piece, size in zip(pieces, ctx.sizes, strict=True):
            torch.mul(piece, factor, out=out.narrow(dim, start, size))
            start += size
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return None, None, *_cut(grad * ctx.factor, ctx.dim, ctx.sizes)


def _alike(pieces: Pieces) -> bool:
    first = pieces[0]
    return first.is_floating_point() and all(p.dtype == first.dtype for p in pieces)


def _joined(pieces: Pieces, dim: int) -> Tensor:
    return torch.cat(list(pieces), dim) if len(pieces) > 1 else pieces[0]


def _empty(pieces: Pieces, dim: int) -> Tensor:
    """Room for the joined pieces, channels-last where they are."""
    first = pieces[0]
    shape = list(first.shape)
    shape[dim] = sum(p.shape[dim] for p in pieces)
    return torch.empty(
        shape, dtype=first.dtype, device=first.device, memory_format=layout_of(first)
    )


def _part(piece: Tensor, dim: int, start: int, length: int) -> Tensor:
    return piece if length == piece.shape[dim] else piece.narrow(dim, start, length)


def _cut(grad: Tensor, dim: int, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    return (grad,) if len(sizes) == 1 else torch.split(grad, list(sizes), dim)


def _segments(
    left: Sequence[int], right: Sequence[int]
) -> Iterator[tuple[int, int, int, int, int, int]]:
    """The common refinement: (start, length, left piece, place in it, right piece, place in it)."""
    start = i = j = at = bt = 0
    while i < len(left) and j < len(right):
        length = min(left[i] - at, right[j] - bt)
        yield start, length, i, at, j, bt
        start, at, bt = start + length, at + length, bt + length
        if at == left[i]:
            i, at = i + 1, 0
        if bt == right[j]:
            j, bt = j + 1, 0
