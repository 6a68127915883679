"""Small tensors on a device, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Placer:
    """Makes tensors of the host's numbers, each once.

    Made on the device itself, they would wait for all that is queued there. Those that a step
    needs again are there already: in a step that is recorded, the host's memory, from which they
    are copied, would be read at every replay.

    Attributes:
        device: where they are wanted.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._made: dict[tuple[tuple[float, ...], torch.dtype], Tensor] = {}

    def __call__(self, values: Sequence[float], dtype: torch.dtype) -> Tensor:
        """``[len(values)]``; not to be written to."""
        key = tuple(values), dtype
        if key not in self._made:
            self._made[key] = torch.tensor(values, dtype=dtype).to(self.device, non_blocking=True)
        return self._made[key]
