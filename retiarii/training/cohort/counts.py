"""How often something was done, counted apart for each of several things."""

from __future__ import annotations

import torch
from torch import Tensor


class Counts:
    """Counters that are one plain number as long as all agree, and a tensor after that.

    Which ones advance may be known to the device alone, so that nothing waits for it.

    Args:
        size: how many counters.
        device: where the tensor is kept.
        captured: a tensor from the beginning, as a CUDA graph needs it.
    """

    def __init__(self, size: int, device: torch.device, captured: bool = False) -> None:
        self._device = device
        self._captured = captured
        self._common: int | None = None if captured else 0
        self._values: Tensor | None = None
        if captured:
            self._values = torch.zeros(size, dtype=torch.float64, device=device)
        self._size = size

    @property
    def common(self) -> int | None:
        """The number, if all are known to agree."""
        return self._common

    @property
    def values(self) -> Tensor:
        """All of them: float64 ``[size]``."""
        if self._values is None:
            assert self._common is not None
            return torch.full(
                (self._size,), float(self._common), dtype=torch.float64, device=self._device
            )
        return self._values

    def advance(self, active: Tensor | None = None) -> None:
        """One more, for those that are ``active`` (bool ``[size]``; ``None`` is all)."""
        if active is None and self._common is not None:
            self._common += 1
            return
        values = self.values
        self._common = None
        self._values = values.add_(1 if active is None else active)

    def get(self, index: int) -> float:
        """One counter. Waits for the device."""
        return float(self._common) if self._common is not None else float(self.values[index])

    def set(self, values: dict[int, float]) -> None:
        """Set some of them. Waits for the device."""
        if not values:
            return
        current = self.values
        where = torch.tensor(list(values), device=self._device)
        current[where] = torch.tensor(
            list(values.values()), dtype=torch.float64, device=self._device
        )
        self._values = current
        first = float(current[0])
        if not self._captured and bool((current == first).all()):
            self._common, self._values = int(first), None
        else:
            self._common = None
