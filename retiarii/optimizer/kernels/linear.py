"""Fully connected layers on stacked tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def cast_for_product(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the dtype in which autocast multiplies them; as they are where it is off."""
    kind = tensors[0].device.type if tensors else "cpu"
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(
        t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors
    )


class _Affine(torch.autograd.Function):
    """``x[g] @ w[g].T + b[g]``.

    Torch's own derivative of bmm makes the gradient of ``w`` transposed in memory, and the
    optimizer's accumulation then copies it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w)
        if b is None:
            return torch.bmm(x, w.mT)
        return torch.baddbmm(b.unsqueeze(1), x, w.mT)

    @staticmethod
    def backward(
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (g,) = gradients
        x, w = ctx.saved_tensors
        to_x, to_w, to_b = ctx.needs_input_grad
        return (
            torch.bmm(g, w) if to_x else None,
            torch.bmm(g.mT, x) if to_w else None,
            g.sum(1) if to_b else None,
        )


def affine(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """``x[g] @ w[g].T + b[g]`` for ``x [G, N, in]``, ``w [G, out, in]`` and ``b [G, out]``."""
    if b is None:
        x, w = cast_for_product(x, w)
    else:
        x, w, b = cast_for_product(x, w, b)
    out: Tensor = _Affine.apply(x, w, b)  # type: ignore[no-untyped-call]
    return out


def linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Each member's layer on its own input.

    Args:
        x: ``[G, *, in]``, of any strides.
        w: ``[G, out, in]``.
        b: ``[G, out]``.

    Returns:
        ``[G, *, out]``.
    """
    rows = x.unsqueeze(1) if x.ndim == 2 else x.flatten(1, -2)
    return affine(rows, w, b).view(*x.shape[:-1], w.shape[1])


def wide_linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """All members' layers on one input, as one layer with all their outputs.

    Args:
        x: ``[*, in]``.
        w: ``[G, out, in]``.
        b: ``[G, out]``.

    Returns:
        ``[*, G * out]``.
    """
    return F.linear(x, w.flatten(0, 1), None if b is None else b.flatten())


def wide_linear_members(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """`wide_linear` as ``[G, *, out]``, which is a view of what it makes."""
    return wide_linear(x, w, b).view(*x.shape[:-1], w.shape[0], w.shape[1]).movedim(-2, 0)


def shared_linear(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """One weight ``w [out, in]`` and a bias ``b [G, out]`` for each member's ``x [G, *, in]``."""
    out = F.linear(x, w)
    return out + b.view(b.shape[0], *[1] * (x.ndim - 2), b.shape[1])


def bilinear(x: Tensor, y: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Each member's bilinear layer.

    Args:
        x: ``[G, *, in1]``.
        y: ``[G, *, in2]``.
        w: ``[G, out, in1, in2]``.
        b: ``[G, out]``.

    Returns:
        ``[G, *, out]``.
    """
    size, out, in1, in2 = w.shape
    x, y, w = cast_for_product(x, y, w)
    left = x.reshape(size, -1, in1)
    right = y.reshape(size, -1, in2)
    # Over in2 first, as torch does it: [G, N, out * in1], then over in1 row by row.
    inner = affine(right, w.reshape(size, out * in1, in2))
    made = torch.matmul(inner.view(size, -1, out, in1), left.unsqueeze(-1)).squeeze(-1)
    if b is not None:
        made = made + b.unsqueeze(1)
    return made.view(*x.shape[:-1], out)
