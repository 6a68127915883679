"""Loss scaling for fp16, a scale for each model (Micikevicius et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from retiarii.training.cohort.stacks import FlatGradient, FlatParameters, expanded


class LossScales:
    """``torch.amp.GradScaler`` for every model of a cohort at once, with nothing read back.

    In each step: multiply the losses (:meth:`scale`), take the gradient, divide it
    (:meth:`unscale`), clip, step with what :meth:`unscale` found as ``skip``, and :meth:`update`.

    Args:
        flat: the parameters.
        device: where losses and gradients are.
        initial: each model's first scale.
        growth: a scale is multiplied by it after ``interval`` steps in a row with finite gradients.
        backoff: and by this after a step with one that is not finite, which is skipped.
        interval: see ``growth``.
    """

    def __init__(
        self,
        flat: FlatParameters,
        device: torch.device,
        initial: float = 2.0**16,
        growth: float = 2.0,
        backoff: float = 0.5,
        interval: int = 2000,
    ) -> None:
        self._flat = flat
        self._growth, self._backoff, self._interval = growth, backoff, interval
        self.scales = torch.full((flat.models,), initial, device=device)
        self._streaks = torch.zeros(flat.models, dtype=torch.int32, device=device)

    def scale(self, losses: Tensor) -> Tensor:
        """The losses ``[K]`` times their scales; their sum is what the gradient is taken of."""
        return losses * self.scales.to(losses.device)

    @torch.no_grad()
    def unscale(self, grad: FlatGradient) -> Tensor:
        """Divide the gradient by the scales, in place.

        Returns:
            bool ``[K]``: the models whose gradient holds an infinity or NaN.
        """
        # An element minus itself is 0 when it is finite, and NaN when it is not.
        overflown = self._flat.sums([g - g for g in grad.tensors]) != 0
        inverse = self.scales.double().reciprocal().float()
        for region, (tensor,) in self._flat.pieces(grad.tensors):
            tensor.mul_(expanded(region, inverse, tensor))
        return overflown

    @torch.no_grad()
    def update(self, overflown: Tensor, skip: Tensor | None = None) -> None:
        """Adjust the scales after a step.

        Args:
            overflown: what :meth:`unscale` returned.
            skip: bool ``[K]``: models that made no step, whose scales stay.
        """
        streaks = torch.where(overflown, 0, self._streaks + 1)
        due = streaks == self._interval
        grown = self.scales * self._growth
        grown = torch.where(due & grown.isfinite(), grown, self.scales)
        scales = torch.where(overflown, self.scales * self._backoff, grown)
        streaks = torch.where(due, 0, streaks)
        if skip is not None:
            scales = torch.where(skip, self.scales, scales)
            streaks = torch.where(skip, self._streaks, streaks)
        self.scales.copy_(scales)
        self._streaks.copy_(streaks)

    def state_of(self, model: int) -> dict[str, Any]:
        """As ``GradScaler.state_dict`` has it. Waits for the device."""
        return {
            "scale": float(self.scales[model]),
            "growth_factor": self._growth,
            "backoff_factor": self._backoff,
            "growth_interval": self._interval,
            "_growth_tracker": int(self._streaks[model]),
        }

    def load_state_of(self, model: int, state: Mapping[str, Any]) -> None:
        """Take over a model's scale, as :meth:`state_of` or a ``GradScaler`` gives it."""
        if state:
            self.scales[model] = state["scale"]
            self._streaks[model] = state["_growth_tracker"]
