"""Exponential moving averages of the weights, for each model by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from retiarii.training.cohort.blocks import Region
from retiarii.training.cohort.counts import Counts
from retiarii.training.cohort.stacks import FlatParameters, expanded


class FlatAverages:
    """The averages of all models' weights, as :class:`retiarii.training.averaging.Average` alone.

    Args:
        flat: the parameters.
        decays: each model's decay; ``None`` for a model without an average, which keeps its own
            weights.
        captured: keep on the device whatever changes from step to step.
    """

    def __init__(
        self, flat: FlatParameters, decays: Sequence[float | None], captured: bool = False
    ) -> None:
        self._flat = flat
        # A model without an average has one that is never applied.
        self._fresh = flat.vector([1.0 if d is None else 1 - d for d in decays])
        self._values = [block.data.clone() for block in flat.blocks]
        device = flat.blocks[0].data.device if flat.blocks else torch.device("cpu")
        self._counts = Counts(flat.models, device, captured)
        averaged = torch.tensor([d is not None for d in decays], device=device)
        self._averaged = averaged if None in decays else None

    @torch.no_grad()
    def update(self, skip: Tensor | None = None) -> None:
        """Take in the weights after an optimizer step.

        Args:
            skip: bool ``[K]``: models whose averages do not change, as they made no step.
        """
        all_fresh = self._counts.common == 0
        fresh = self._counts.values == 0
        self._counts.advance(None if skip is None else ~skip)
        some_fresh = fresh if self._counts.common is None else None
        for region, (data, value) in self._pieces():
            new = data
            if not all_fresh:
                new = value.lerp(data, expanded(region, self._fresh, data))
                if some_fresh is not None:
                    # The first average is the weights themselves.
                    new = torch.where(region.expand(some_fresh), data, new)
            if skip is None:
                value.copy_(new)
            else:
                torch.where(region.expand(skip), value, new, out=value)

    def _pieces(self) -> Iterator[tuple[Region, list[Tensor]]]:
        return self._flat.pieces([block.data for block in self._flat.blocks], self._values)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the models' weights are the averages."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for region, (data, value) in self._pieces():
            held = data.clone()
            if self._averaged is None:
                data.copy_(value)
                value.copy_(held)
            else:
                mask = region.expand(self._averaged)
                torch.where(mask, value, data, out=data)
                torch.where(mask, held, value, out=value)

    def state_of(self, model: int) -> tuple[list[Tensor], int]:
        """Copies of a model's averages in its own order, and how many steps they have taken in.

        Waits for the device.
        """
        values = self._flat.member_of(self._values, model)
        return [v.clone() for v in values], int(self._counts.get(model))

    @torch.no_grad()
    def load_state_of(self, model: int, values: Sequence[Tensor], count: int) -> None:
        """Take over a model's averages, as :meth:`state_of` gives them."""
        for ours, value in zip(self._flat.member_of(self._values, model), values, strict=True):
            ours.copy_(value)
        self._counts.set({model: count})
