"""Pooling of images, and results of more than one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def by_member(results: Sequence[Tensor], members: int) -> list[Tensor]:
    """Results ``[members * B, *S]`` as ``[members, B, *S]``."""
    return [torch.unflatten(result, 0, (members, -1)) for result in results]


def global_average(x: Tensor) -> Tensor:
    """``F.adaptive_avg_pool2d(x, 1)``."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return F.adaptive_avg_pool2d(x, 1)
    # The gradient of a mean is written out, and in the usual order whatever order the images have;
    # that of a sum is a view without an order, and what comes before keeps its own.
    return x.sum((-2, -1), keepdim=True) / (x.shape[-2] * x.shape[-1])
