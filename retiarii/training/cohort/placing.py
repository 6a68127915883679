"""Small tensors on a device, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def placed(values: Sequence[float], dtype: torch.dtype, device: torch.device | None) -> Tensor:
    """``[len(values)]``. Made on the device itself, it would wait for all that is queued there."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)
