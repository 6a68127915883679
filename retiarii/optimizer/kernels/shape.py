"""Concatenation of stacks whose members' channels lie beside each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor


def cat_channels(tensors: Sequence[Tensor], size: int, shared: Collection[int] = ()) -> Tensor:
    """Each member's channels of all tensors, one after the other, in one copy.

    Args:
        tensors: ``[B, G * C_i, ...]`` each; ``[B, C_i, ...]`` for those that all members share.
        size: the number of members, G.
        shared: which are shared.

    Returns:
        ``[B, G * sum(C_i), ...]``, channels last in memory where most of the input is.
    """
    rank = tensors[0].dim()
    last = rank > 2 and _channels_last(tensors)
    dim = rank - 1 if last else 1
    pieces = []
    for i, tensor in enumerate(tensors):
        moved = tensor.movedim(1, -1) if last else tensor
        if i in shared:
            sizes = [-1] * (rank + 1)
            sizes[dim] = size
            pieces.append(moved.unsqueeze(dim).expand(sizes))
        else:
            pieces.append(torch.unflatten(moved, dim, (size, -1)))
    whole = torch.cat(pieces, dim=dim + 1).flatten(dim, dim + 1)
    return whole.movedim(-1, 1) if last else whole


def _channels_last(tensors: Sequence[Tensor]) -> bool:
    by_last = sum(t.numel() for t in tensors if t.stride(1) == 1 and t.shape[1] > 1)
    return 2 * by_last > sum(t.numel() for t in tensors)


def join_channels(view: Tensor) -> Tensor:
    """``[B, G, C, ...]`` as ``[B, G * C, ...]``, channels last in memory where they were."""
    if view.dim() == 3 or view.stride(2) != 1 or view.shape[2] == 1:
        return view.flatten(1, 2)
    return view.movedim((1, 2), (-2, -1)).flatten(-2).movedim(-1, 1)


def meshgrid(tensors: Sequence[Tensor], indexing: str) -> list[Tensor]:
    """What ``torch.meshgrid`` makes of each member's tensors, ``[G, n]`` or ``[G]`` each."""
    axes = list(range(1, len(tensors) + 1))
    if indexing == "xy" and len(tensors) > 1:
        axes[:2] = [2, 1]
    grids = []
    for tensor, axis in zip(tensors, axes, strict=True):
        sizes = [len(tensor)] + [1] * len(tensors)
        sizes[axis] = tensor[0].numel()
        grids.append(tensor.reshape(sizes))
    sizes = [g.numel() // len(g) for g in grids]
    shape = [len(tensors[0])] + [1] * len(tensors)
    for axis, count in zip(axes, sizes, strict=True):
        shape[axis] = count
    return [g.expand(shape) for g in grids]


def assigned(stack: Tensor, index: tuple[Any, ...], value: Tensor | float) -> Tensor:
    """What the stack is after ``stack[index] = value``."""
    result = stack.clone()
    result[index] = value
    return result


def take(stack: Tensor, index: Tensor) -> Tensor:
    """``torch.take`` of each member: ``index`` [G, ...] counts its elements, from the end too."""
    rows, places = stack.reshape(len(stack), -1), index.reshape(len(index), -1)
    places = torch.where(places < 0, places + rows.shape[1], places)
    return rows.gather(1, places).reshape(index.shape)
