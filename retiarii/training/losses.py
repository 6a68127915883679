"""A user's loss, with the mistakes found that would otherwise train something wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from retiarii.errors import EvaluatorError
from retiarii.training.structure import pairs

# Losses of torch whose targets are labels of classes, and dimension 1 of the output the classes.
INDEXED = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
# Losses of torch that compare numbers one by one; torch would broadcast unequal shapes.
PAIRED = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
BINARY = (nn.BCEWithLogitsLoss, nn.BCELoss)


class Loss:
    """A loss of one trial.

    Args:
        given: a module or a callable ``(outputs, targets) -> scalar tensor``.
    """

    def __init__(self, given: Callable[..., Any]) -> None:
        self.given = given
        self._indexed = isinstance(given, INDEXED)
        self._paired = isinstance(given, PAIRED + BINARY)
        self._torch = type(given).__module__ == "torch.nn.modules.loss"

    @property
    def summed(self) -> bool:
        """Whether a batch's loss is the sum over its samples rather than the mean."""
        return getattr(self.given, "reduction", "mean") == "sum"

    def on(self, device: torch.device, dtype: torch.dtype | None) -> Loss:
        """A copy of its own for a trial, its tensors (class weights) on a device."""
        if not isinstance(self.given, nn.Module):
            return self
        return Loss(copy.deepcopy(self.given).to(device=device, dtype=dtype))

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """The scalar loss of a batch.

        A loss of ``torch.nn`` on several outputs is the sum over them.

        Raises:
            EvaluatorError: shapes that torch would broadcast, or a result that is not a scalar.
        """
        if self.splits(outputs, targets):
            both = pairs(outputs, targets, f"{type(self.given).__name__}")
            return torch.stack([self._one(o, t) for o, t in both]).sum()
        return self._one(outputs, targets)

    def splits(self, outputs: Any, targets: Any) -> bool:
        """Whether it is one of torch's on several outputs, the sum over which is the loss."""
        return self._torch and not (isinstance(outputs, Tensor) and isinstance(targets, Tensor))

    def fitted(self, shape: tuple[int, ...], dtype: torch.dtype, targets: Tensor) -> Tensor:
        """Targets as torch's loss takes them.

        Args:
            shape: of one model's outputs.
            dtype: of the outputs.
            targets: of one model.

        Raises:
            EvaluatorError: torch would broadcast them.
        """
        if self._paired:
            if tuple(shape) != _shape(targets):
                raise EvaluatorError(
                    f"the outputs have shape {tuple(shape)} and the targets "
                    f"{_shape(targets)}; {type(self.given).__name__} needs them equal",
                    where="Supervised(loss=...)",
                    fix="reshape the targets (y.unsqueeze(1)), or the model's last layer",
                )
            return targets if targets.is_floating_point() else targets.to(dtype)
        if self._indexed and not targets.is_floating_point():
            # Labels are often int32 or uint8, which torch's losses refuse.
            return targets.long()
        return targets

    def _one(self, outputs: Any, targets: Any) -> Tensor:
        if self._paired or self._indexed:
            targets = self.fitted(outputs.shape, outputs.dtype, targets)
        value = self.given(outputs, targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            found = f"shape {_shape(value)}" if isinstance(value, Tensor) else type(value).__name__
            raise EvaluatorError(
                f"the loss is not a scalar tensor but has {found}"
                if isinstance(value, Tensor)
                else f"the loss is not a tensor but a {found}",
                where="Supervised(loss=...)",
                fix="return the mean over the batch: reduction='mean', or .mean()",
            )
        return value.reshape(())

    def check_labels(self, outputs: Any, targets: Any, where: str) -> None:
        """Find labels that are none of the model's classes, before torch does it with a crash.

        Args:
            outputs: of any batch; only their shape matters.
            targets: labels, of that batch or of more.
            where: names the data, for the error.

        Raises:
            EvaluatorError: the first such label, and the number of classes.
        """
        if not self._indexed:
            return
        for out, labels in pairs(outputs, targets, type(self.given).__name__):
            if labels.is_floating_point() or labels.numel() == 0 or out.ndim == 0:
                continue
            classes = out.shape[1] if out.ndim > 1 else out.shape[0]
            low, high = (int(v) for v in torch.aminmax(labels))
            if low >= 0 and high < classes:
                continue
            ignored = getattr(self.given, "ignore_index", -100)
            flat = labels.reshape(-1)
            wrong = flat[((flat < 0) | (flat >= classes)) & (flat != ignored)]
            if wrong.numel():
                raise EvaluatorError(
                    f"label {int(wrong[0])} is out of range: the model has {classes} outputs, "
                    f"so labels go from 0 to {classes - 1}",
                    where=where,
                    fix="give the last layer one output for each class, and count labels from 0",
                )


def check_loss(given: Any) -> None:
    """Raises EvaluatorError when ``given`` cannot be a loss."""
    if isinstance(given, type):
        raise EvaluatorError(
            f"loss is the class {given.__name__}, not a loss",
            where="Supervised(loss=...)",
            fix=f"make one: {given.__name__}()",
        )
    if not callable(given):
        raise EvaluatorError(
            f"loss is {given!r:.60}, which cannot be called",
            where="Supervised(loss=...)",
            fix="give a module such as nn.CrossEntropyLoss(), or a function of (outputs, targets)",
        )
    # KLDivLoss alone has a third reduction to a single number, the one that its name calls for.
    known = ("mean", "sum", "batchmean") if isinstance(given, nn.KLDivLoss) else ("mean", "sum")
    if getattr(given, "reduction", "mean") not in known:
        raise EvaluatorError(
            f"the loss has reduction={given.reduction!r}, which gives no single number",
            where="Supervised(loss=...)",
            fix="use reduction='mean'",
        )


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
