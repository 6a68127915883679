"""Embeddings of many members: one table of all their rows."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def embedding(
    indices: Tensor,
    weight: Tensor,
    *,
    padding_idx: int | None = None,
    scale_grad_by_freq: bool = False,
) -> Tensor:
    """Each member's rows of its own table.

    Args:
        indices: ``[G, *]``, or ``[1, *]`` where all look up the same.
        weight: ``[G, V, E]``.
        padding_idx: the row that gets no gradient.
        scale_grad_by_freq: divides the gradient of a row by how often a member looks it up.

    Returns:
        ``[G, *, E]``.

    Raises:
        IndexError: an index is not in ``[0, V)`` (on CPU).
    """
    rows = _rows(indices, weight)
    out = F.embedding(rows, weight.flatten(0, 1), scale_grad_by_freq=scale_grad_by_freq)
    if padding_idx is None:
        return out
    padding = (indices == padding_idx % weight.shape[1]).unsqueeze(-1)
    return torch.where(padding, out.detach(), out)


def _rows(indices: Tensor, weight: Tensor) -> Tensor:
    """Rows of ``weight.flatten(0, 1)``; what is no row of a member stays none of the whole."""
    size, count, _ = weight.shape
    inside = (indices >= 0) & (indices < count)
    shape = (size, *[1] * (indices.ndim - 1))
    first = torch.arange(0, size * count, count, dtype=indices.dtype, device=indices.device)
    return torch.where(inside, indices, -size * count) + first.view(shape)


def embedding_bag(
    indices: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    per_sample_weights: Tensor | None = None,
    *,
    mode: Literal["sum", "mean", "max"] = "mean",
    padding_idx: int | None = None,
) -> Tensor:
    """Each member's bags of rows.

    Args:
        indices: ``[G, B, N]``; ``[G, N]`` with ``offsets``.
        weight: ``[G, V, E]``, or ``[V, E]`` where all look up in one table.
        offsets: ``[G, B]``, where bags begin; the first of each member is 0.
        per_sample_weights: of the shape of ``indices``.
        mode: how a bag is reduced.
        padding_idx: the row that is left out.

    Returns:
        ``[G, B, E]``.

    Raises:
        IndexError: an index is not in ``[0, V)`` (on CPU).
        RuntimeError: a member's first offset is not 0.
    """
    table = weight.flatten(0, -2)
    rows = indices if weight.ndim == 2 else _rows(indices, weight)
    if padding_idx is not None:
        padding_idx %= weight.shape[-2]
        # The first member's padding stands for that of all: nothing is read there.
        rows = torch.where(indices == padding_idx, padding_idx, rows)
    size, count = rows.shape[0], rows.shape[-1]
    if offsets is not None:
        torch._assert_async((offsets[:, 0] == 0).all(), "offsets[0] has to be 0")
        first = torch.arange(size, dtype=offsets.dtype, device=offsets.device)
        offsets = (offsets + first.unsqueeze(1) * count).flatten()
    weights = per_sample_weights
    if weights is not None:
        weights = weights.flatten() if offsets is not None else weights.flatten(0, 1)
    out = F.embedding_bag(
        rows.flatten() if offsets is not None else rows.flatten(0, 1),
        table,
        offsets,
        mode=mode,
        per_sample_weights=weights,
        padding_idx=padding_idx,
    )
    return out.view(size, -1, weight.shape[-1])
