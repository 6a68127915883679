"""The losses of many models whose outputs are stacked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from retiarii.training.cohort.loss_rows import ROWS, Row
from retiarii.training.losses import Loss
from retiarii.training.structure import map_tensors, pairs, tensors


def stacked_loss(
    loss: Loss | Callable[..., Any], outputs: Any, targets: Any, own_targets: bool = False
) -> Tensor:
    """Each model's loss, as ``loss(outputs[g], targets)`` gives it, and its gradient likewise.

    A loss of ``torch.nn`` is computed for all models by the kernels that one takes. Anything else,
    a user's function or a subclass, is called once for each model. A NaN among one model's outputs
    reaches no other model's loss or gradient.

    Args:
        loss: a :class:`Loss`, or what one is made of.
        outputs: ``[G, B, ...]``, or tuples or dicts of such.
        targets: ``[B, ...]``, the same for all models.
        own_targets: each model has its own: ``[G, B, ...]``.

    Returns:
        ``[G]``

    Raises:
        EvaluatorError: as :meth:`Loss.__call__` for one model.
    """
    given = loss if isinstance(loss, Loss) else Loss(loss)
    if given.splits(outputs, targets):
        both = pairs(outputs, targets, type(given.given).__name__)
        return torch.stack([stacked_loss(given, o, t, own_targets) for o, t in both]).sum(0)
    kind: type[Any] = type(given.given)
    row = ROWS.get(kind)
    if row is not None and outputs.ndim > 1:
        targets = _fitted(given, outputs, targets, own_targets)
        spread = targets if own_targets else targets.expand(outputs.shape[0], *targets.shape)
        if row.fits(outputs, spread):
            return _reduced(given.given, row, outputs, spread, own_targets)
    return _one_by_one(given, outputs, targets, own_targets)


def _fitted(loss: Loss, outputs: Tensor, targets: Tensor, own: bool) -> Tensor:
    if not own:
        return loss.fitted(outputs.shape[1:], outputs.dtype, targets)
    return loss.fitted(outputs.shape, outputs.dtype, targets)


def _reduced(loss: Any, row: Row, outputs: Tensor, targets: Tensor, own: bool) -> Tensor:
    each = row.each(loss, outputs, targets).flatten(1)
    if loss.reduction == "sum":
        return each.sum(1)
    if loss.reduction == "batchmean":
        return each.sum(1) / outputs.shape[1]
    # Targets that all models share are weighed once.
    weights = None if row.weights is None else row.weights(loss, targets if own else targets[:1])
    if weights is None:
        return each.mean(1)
    return each.sum(1) / weights.flatten(1).sum(1)


def _one_by_one(loss: Loss, outputs: Any, targets: Any, own: bool) -> Tensor:
    count = tensors(outputs)[0].shape[0]
    return torch.stack(
        [loss(_member(outputs, g), _member(targets, g) if own else targets) for g in range(count)]
    )


def _member(value: Any, index: int) -> Any:
    return map_tensors(lambda t: t[index], value)
