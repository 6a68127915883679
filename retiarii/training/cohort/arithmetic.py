"""Elementwise steps whose factor is a plain number, or a number for each element.

With a plain number they are the very calls of ``torch.optim``; with a tensor they are as many
kernels or one more, in the same order of operations.
"""

from __future__ import annotations

from torch import Tensor


def add_scaled(x: Tensor, y: Tensor, factor: float | Tensor) -> Tensor:
    """``x + factor * y``."""
    if isinstance(factor, Tensor):
        return x.addcmul(factor, y)
    return x.add(y, alpha=factor)


def add_scaled_(x: Tensor, y: Tensor, factor: float | Tensor) -> Tensor:
    """``x += factor * y``."""
    if isinstance(factor, Tensor):
        return x.addcmul_(factor, y)
    return x.add_(y, alpha=factor)


def add_product_(x: Tensor, a: Tensor, b: Tensor, factor: float | Tensor) -> Tensor:
    """``x += factor * a * b``."""
    if isinstance(factor, Tensor):
        return x.addcmul_(factor * a, b)
    return x.addcmul_(a, b, value=factor)


def add_quotient_(x: Tensor, a: Tensor, b: Tensor, factor: float | Tensor) -> Tensor:
    """``x += factor * a / b``."""
    if isinstance(factor, Tensor):
        return x.addcdiv_(factor * a, b)
    return x.addcdiv_(a, b, value=factor)
