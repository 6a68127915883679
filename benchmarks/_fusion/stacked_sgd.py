"""SGD with momentum over stacks ``[K, ...]``, a rate for each model: for peers that have none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from _fusion.workloads import MOMENTUM


class StackedSGD:
    """One update for all models, by ``foreach`` operators.

    Args:
        params: the stacks.
        rates: each model's.
    """

    def __init__(self, params: Sequence[Tensor], rates: Sequence[float]) -> None:
        self._params = list(params)
        self.buffers = [torch.zeros_like(p) for p in params]
        self._rate = rates[0]
        self._rates: list[Tensor] | None = None
        if any(rate != rates[0] for rate in rates):
            self._rates = [-p.new_tensor(rates).view(-1, *[1] * (p.ndim - 1)) for p in self._params]

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor]) -> None:
        torch._foreach_mul_(self.buffers, MOMENTUM)
        torch._foreach_add_(self.buffers, list(grads))
        if self._rates is None:
            torch._foreach_add_(self._params, self.buffers, alpha=-self._rate)
        else:
            torch._foreach_addcmul_(self._params, self.buffers, self._rates)
