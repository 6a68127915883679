"""The losses of a cohort's models on one batch, and whose cannot be computed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from retiarii.training.cohort.failure import reraise_memory
from retiarii.training.cohort.loss_rows import ROWS
from retiarii.training.cohort.losses import stacked_loss
from retiarii.training.cohort.outputs import Outputs
from retiarii.training.cohort.placing import Placer
from retiarii.training.losses import Loss

Failures = dict[int, Exception]


class Criterion:
    """One loss a model.

    A loss of ``torch.nn`` is computed for all models at once. A user's own is called once for each
    model, under its random numbers, and where it is a module each model has its own copy.

    Args:
        loss: as given.
        models: how many there are.
        place: of the device where the losses are computed.
        dtype: of the models.
        run: ``(model, call)``: runs a user's code under the model's random numbers.

    Attributes:
        ours: whether it is one of ``torch.nn``.
    """

    def __init__(
        self,
        loss: Loss,
        models: int,
        place: Placer,
        dtype: torch.dtype | None,
        run: Callable[[int, Callable[[], Any]], Any],
    ) -> None:
        self.ours = type(loss.given) in ROWS
        self._place = place
        count = 1 if self.ours or not isinstance(loss.given, nn.Module) else models
        self._losses = [loss.on(place.device, dtype) for _ in range(count)]
        self._models = models
        self._run = run

    @property
    def summed(self) -> bool:
        """Whether a batch's loss is the sum over its samples rather than the mean."""
        return self._losses[0].summed

    def check_labels(self, outputs: Outputs, labels: Any, where: str) -> Exception | None:
        """What is wrong with labels for these models; see :meth:`Loss.check_labels`."""
        try:
            self._losses[0].check_labels(outputs.member(0), labels, where)
        except Exception as error:
            reraise_memory(error)
            return error
        return None

    def __call__(
        self, outputs: Sequence[Outputs], targets: Any, gone: Collection[int]
    ) -> tuple[Tensor, list[tuple[tuple[int, ...], Tensor]], Failures]:
        """The losses of one batch.

        Args:
            outputs: of all models.
            targets: of the batch.
            gone: models whose losses are not computed.

        Returns:
            Detached losses ``[K]``, 0 where there is none; the losses that gradients are taken of,
            each with its models; and the models whose loss cannot be computed, with the reason.
        """
        parts: list[tuple[tuple[int, ...], Tensor]] = []
        failed: Failures = {}
        for each in outputs:
            left = [p for p, model in enumerate(each.models) if model not in gone]
            if not left:
                continue
            part, wrong = self._of(each.only(left, self._place), targets)
            failed.update(wrong)
            if part is not None:
                parts.append(part)
        return self._vector(parts), parts, failed

    def _of(
        self, outputs: Outputs, targets: Any
    ) -> tuple[tuple[tuple[int, ...], Tensor] | None, Failures]:
        if self.ours:
            try:
                return (outputs.models, stacked_loss(self._losses[0], outputs.value, targets)), {}
            except Exception as error:
                # Outputs of one shape under one loss: what is wrong with one is with all.
                reraise_memory(error)
                return None, dict.fromkeys(outputs.models, error)
        values, models, failed = [], [], {}
        for place, model in enumerate(outputs.models):
            loss, own = self._losses[model % len(self._losses)], outputs.member(place)
            try:
                values.append(self._run(model, partial(loss, own, targets)))
                models.append(model)
            except Exception as error:
                reraise_memory(error)
                failed[model] = error
        return ((tuple(models), torch.stack(values)) if values else None), failed

    def _vector(self, parts: Sequence[tuple[tuple[int, ...], Tensor]]) -> Tensor:
        if not parts:
            return torch.zeros(self._models, device=self._place.device)
        values = torch.cat([losses.detach() for _, losses in parts])
        models = [model for part, _ in parts for model in part]
        if models == list(range(self._models)):
            return values
        return values.new_zeros(self._models).index_copy_(
            0, self._place(models, torch.int64), values
        )
