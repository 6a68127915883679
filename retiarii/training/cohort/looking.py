"""Finds the models whose loss has become NaN or infinite, without waiting at each step."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Looking:
    """Looks at losses, so many steps at a time.

    Args:
        interval: steps between two looks: a GPU is waited for at each.
    """

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._waiting: list[Tensor] = []
        self.steps = 0

    def begin(self) -> None:
        """An epoch begins: steps are counted anew."""
        self._waiting.clear()
        self.steps = 0

    def add(self, losses: Tensor) -> list[tuple[int, float, int]]:
        """Take in one step's losses ``[K]``; answers what `look` does, where it is time to."""
        self._waiting.append(losses)
        self.steps += 1
        return self.look() if len(self._waiting) >= self._interval else []

    def look(self) -> list[tuple[int, float, int]]:
        """``(model, loss, step)`` of what is not finite among the losses since the last look."""
        if not self._waiting:
            return []
        values = torch.stack(self._waiting)
        first = self.steps - len(self._waiting)
        self._waiting.clear()
        if bool(torch.isfinite(values).all()):
            return []
        return [
            (model, value, first + offset)
            for offset, row in enumerate(values.tolist())
            for model, value in enumerate(row)
            if not math.isfinite(value)
        ]
