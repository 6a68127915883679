"""The largest norm of the gradient, for each model by itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retiarii.training.cohort.stacks import FlatGradient, FlatParameters, expanded

# As torch.nn.utils.clip_grad_norm_ has it, against a norm of 0.
_SMALL = 1e-6


class Clipping:
    """Clips every model's gradient as ``nn.utils.clip_grad_norm_`` does for one model alone.

    The norm is over all of a model's parameters. A model whose norm is not finite gets a gradient
    that is not, as it would alone; the others notice nothing.

    Args:
        flat: the parameters.
        limits: each model's largest norm; ``None`` leaves it as it is.
    """

    def __init__(self, flat: FlatParameters, limits: Sequence[float | None]) -> None:
        self._flat = flat
        self._active = any(limit is not None for limit in limits)
        device = flat.blocks[0].data.device if flat.blocks else None
        unlimited = [limit is None for limit in limits]
        self._unlimited = torch.tensor(unlimited, device=device) if any(unlimited) else None
        plain = [1.0 if limit is None else float(limit) for limit in limits]
        self._limits = torch.tensor(plain, dtype=torch.float64, device=device)

    @torch.no_grad()
    def apply(self, grad: FlatGradient) -> Tensor | None:
        """Scale ``grad`` in place.

        Returns:
            The norms before: ``[K]``; ``None`` when no model has a limit.
        """
        if not self._active:
            return None
        norms = self._flat.squared_norms(grad).sqrt()
        factors = (self._limits.to(norms.dtype) / (norms + _SMALL)).clamp(max=1.0)
        if self._unlimited is not None:
            factors = torch.where(self._unlimited, torch.ones_like(factors), factors)
        for region, (tensor,) in self._flat.pieces(grad.tensors):
            tensor.mul_(expanded(region, factors, tensor))
        return norms
