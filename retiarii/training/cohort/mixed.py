"""Models whose optimizers are of different classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retiarii.training.cohort.flat_optimizer import CohortOptimizer, FlatOptimizer, Rates
from retiarii.training.cohort.stacks import FlatGradient, FlatParameters
from retiarii.training.optimizers import Optimizer


class MixedOptimizer(CohortOptimizer):
    """One flat optimizer for each class, each stepping over the models of the others.

    Args:
        flat: the parameters.
        descriptions: each model's optimizer.
        flat_of: the flat optimizer of each class.
        captured: as for :class:`FlatOptimizer`.
    """

    def __init__(
        self,
        flat: FlatParameters,
        descriptions: Sequence[Optimizer],
        flat_of: Mapping[type[Optimizer], type[FlatOptimizer]],
        captured: bool,
    ) -> None:
        device = flat.blocks[0].data.device if flat.blocks else None
        self._of = [type(d) for d in descriptions]
        self._kinds: dict[type[Optimizer], tuple[FlatOptimizer, Tensor]] = {}
        for kind in dict.fromkeys(self._of):
            first = descriptions[self._of.index(kind)]
            # The others' places are filled with what costs nothing: a description that is there.
            own = [d if type(d) is kind else first for d in descriptions]
            others = torch.tensor([k is not kind for k in self._of], device=device)
            self._kinds[kind] = (flat_of[kind](flat, own, captured), others)

    def step(self, grad: FlatGradient, lr: Rates, skip: Tensor | None = None) -> None:
        for optimizer, others in self._kinds.values():
            skipped = others if skip is None else others | skip.to(others.device)
            optimizer.step(grad, lr, skipped)

    def state_of(self, model: int) -> dict[int, dict[str, Any]]:
        return self._kinds[self._of[model]][0].state_of(model)

    def load_state_of(self, model: int, state: Mapping[int, Mapping[str, Any]]) -> None:
        self._kinds[self._of[model]][0].load_state_of(model, state)

    def tensors(self) -> Iterable[Tensor]:
        return [t for optimizer, _ in self._kinds.values() for t in optimizer.tensors()]
