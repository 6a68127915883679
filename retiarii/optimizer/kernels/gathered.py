"""Elementwise operations on members that lie in pieces: gathering them costs no pass of its own.

``torch.add(torch.cat(a), torch.cat(b))`` writes and reads everything twice more than needed. Here
each run of members is computed straight into its place in the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor

from retiarii.optimizer.kernels.routing import Bounds, add_up, layout_of

Pieces = Sequence[Tensor]
# Bytes that stay in the second-level cache of a core from one pass to the next.
_CACHED: Final = 1 << 20


def gathered_sum(dim: int, bounds: Bounds, pieces: Pieces) -> Tensor:
    """The sum of pieces, each in its own place.

    Args:
        dim: along which members are stacked.
        bounds: (first, last + 1) member of the result that each piece is added to. The first of
            them, without gaps, cover all members.
        pieces: what is added, in this order.
    """
    if not _alike(pieces):
        return _promoted_sum(dim, bounds, pieces)
    made: Tensor = _Sum.apply(dim, bounds, *pieces)  # type: ignore[no-untyped-call]
    return made


def gathered_relu(dim: int, pieces: Pieces) -> Tensor:
    """``torch.relu(torch.cat(pieces, dim))``."""
    if not _alike(pieces):
        return torch.relu(_joined(pieces, dim))
    if len(pieces) > 1 and _is_small(pieces):
        return _joined(pieces, dim).relu_()
    made: Tensor = _Relu.apply(dim, *pieces)  # type: ignore[no-untyped-call]
    return made


def gathered_scale(dim: int, pieces: Pieces, factor: float) -> Tensor:
    """``torch.cat(pieces, dim) * factor``."""
    if not _alike(pieces):
        return torch.mul(_joined(pieces, dim), factor)
    if len(pieces) > 1 and _is_small(pieces):
        return _joined(pieces, dim).mul_(factor)
    made: Tensor = _Scale.apply(dim, factor, *pieces)  # type: ignore[no-untyped-call]
    return made


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dim: int, bounds: Bounds, *pieces: Tensor) -> Tensor:
        runs = _runs(bounds)
        size = runs[0][1]
        width = pieces[0].shape[dim] // (bounds[0][1] - bounds[0][0])
        ctx.dim, ctx.places = dim, [(a * width, (b - a) * width) for a, b in bounds]
        if _is_small(pieces[: runs[0][3]]):
            (_, _, _, i), *more = runs
            out = torch.cat(pieces[:i], dim) if i > 1 else pieces[0].clone()
            for start, stop, i, j in more:
                place = out.narrow(dim, start * width, (stop - start) * width)
                place.add_(torch.cat(pieces[i:j], dim) if j > i + 1 else pieces[i])
            return out
        shape = list(pieces[0].shape)
        shape[dim] = size * width
        out = torch.empty(
            shape,
            dtype=pieces[0].dtype,
            device=pieces[0].device,
            memory_format=layout_of(pieces[0]),
        )
        found = [(a, a + n, p) for (a, n), p in zip(ctx.places, pieces, strict=True)]
        add_up(found, out, dim)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return None, None, *(grad.narrow(ctx.dim, a, n) for a, n in ctx.places)


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


def _cut(grad: Tensor, dim: int, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    return (grad,) if len(sizes) == 1 else torch.split(grad, list(sizes), dim)


@lru_cache(maxsize=4096)
def _runs(bounds: Bounds) -> list[tuple[int, int, int, int]]:
    """Runs without gaps: (first member, last + 1, first piece, last + 1)."""
    runs: list[tuple[int, int, int, int]] = []
    for i, (start, stop) in enumerate(bounds):
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], stop, runs[-1][2], i + 1)
        else:
            runs.append((start, stop, i, i + 1))
    return runs


def _promoted_sum(dim: int, bounds: Bounds, pieces: Pieces) -> Tensor:
    """Where dtypes differ: member by member, as torch adds them."""
    sums: dict[int, Tensor] = {}
    for (a, b), piece in zip(bounds, pieces, strict=True):
        for member, own in enumerate(torch.tensor_split(piece, b - a, dim), a):
            sums[member] = own if member not in sums else sums[member] + own
    return torch.cat([sums[m] for m in sorted(sums)], dim)


def _is_small(pieces: Pieces) -> bool:
    """Whether calls cost more than further passes over the data: on GPUs, and in a CPU's cache."""
    on_cpu = pieces[0].device.type == "cpu"
    return not on_cpu or sum(p.numel() * p.element_size() for p in pieces) <= _CACHED
