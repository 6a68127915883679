"""Gradients gathered over several batches, for each model as many as it wants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retiarii.training.cohort.stacks import FlatGradient, FlatParameters


class GradientSum:
    """Adds up gradients until a model's step is due.

    The losses are weighted before (:func:`retiarii.training.accumulation.shares`), so that this
    only adds. Models may have their steps at different batches.

    Args:
        flat: the parameters.
    """

    def __init__(self, flat: FlatParameters) -> None:
        self._flat = flat
        self._sums: list[Tensor] | None = None
        self._all_present = [(True,) * block.segments for block in flat.blocks]
        self._present = [[False] * block.segments for block in flat.blocks]

    @torch.no_grad()
    def add(self, grad: FlatGradient) -> None:
        """Add the gradient of one batch; its tensors may be kept and changed."""
        present = self._all_present if grad.present is None else grad.present
        if self._sums is None:
            self._sums = list(grad.tensors)
        else:
            for total, tensor in zip(self._sums, grad.tensors, strict=True):
                total.add_(tensor)
        self._present = [
            [a or b for a, b in zip(known, new, strict=True)]
            for known, new in zip(self._present, present, strict=True)
        ]

    @torch.no_grad()
    def take(self, due: Sequence[bool]) -> FlatGradient:
        """The sum so far, for the step of the models that are due; theirs begins anew.

        Args:
            due: one a model. The gradient of the others is in it as well: step with ``skip``.
        """
        assert self._sums is not None, "nothing was added"
        present = tuple(map(tuple, self._present))
        whole = all(all(row) for row in present)
        taken = FlatGradient(tuple(self._sums), None if whole else present)
        if all(due):
            self._sums = None
            self._present = [[False] * block.segments for block in self._flat.blocks]
            return taken
        self._sums = [t.clone() for t in self._sums]
        for region, (tensor,) in self._flat.pieces(self._sums):
            # Not by a factor of 0, which would leave NaN.
            tensor.masked_fill_(region.expand(torch.tensor(due, device=tensor.device)), 0.0)
        self._present = [
            [flag and not due[owner] for flag, owner in zip(row, block.owners, strict=True)]
            for row, block in zip(self._present, self._flat.blocks, strict=True)
        ]
        return taken
