"""Products of stacked matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def folded_matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a [G, *, N, K] @ b [G, K, M]``: all rows of a member in one product.

    `torch.matmul` would copy ``b`` for each index of ``*``.
    """
    return torch.bmm(a.flatten(1, -2), b).view(*a.shape[:-1], b.shape[-1])


def batched_baddbmm(
    c: Tensor, a: Tensor, b: Tensor, *, beta: complex = 1, alpha: complex = 1
) -> Tensor:
    """``beta * c + alpha * a @ b`` for ``a [G, B, N, K]``, ``b [G, B, K, M]``.

    ``c`` is broadcast to ``[G, B, N, M]``.
    """
    shape = (*a.shape[:-1], b.shape[-1])
    flat = (t.flatten(0, 1) for t in (c.expand(shape), a, b))
    return torch.baddbmm(*flat, beta=beta, alpha=alpha).view(shape)


def batched_addbmm(
    c: Tensor, a: Tensor, b: Tensor, *, beta: complex = 1, alpha: complex = 1
) -> Tensor:
    """``beta * c + alpha * (the sum of a @ b over B)``, for the shapes of `batched_baddbmm`.

    ``c`` is broadcast to ``[G, N, M]``. The sum is one product over ``B * K``.
    """
    left, right = a.transpose(1, 2).flatten(2), b.flatten(1, 2)
    return torch.baddbmm(c, left, right, beta=beta, alpha=alpha)
