"""How each loss of ``torch.nn`` is computed for many models at once, before it is reduced.

Outputs are ``[G, B, ...]`` and targets likewise; what comes back is ``[G, ...]``. Where torch's
function treats dimensions by their place, models and samples are folded into one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Row:
    """One loss.

    Attributes:
        each: ``(loss, outputs, targets)`` to the losses that torch would average or sum.
        fits: whether it can be used for these outputs and targets; other shapes go model by model.
        weights: what each target weighs in the mean; ``None``: all the same.
    """

    each: Callable[[Any, Tensor, Tensor], Tensor]
    fits: Callable[[Tensor, Tensor], bool]
    weights: Callable[[Any, Tensor], Tensor | None] | None = None


def _same(outputs: Tensor, targets: Tensor) -> bool:
    return outputs.shape == targets.shape


def _labels(outputs: Tensor, targets: Tensor) -> bool:
    """Labels of classes, which are dimension 1 of a model's outputs."""
    shape = outputs.shape
    return outputs.ndim >= 3 and targets.shape == (*shape[:2], *shape[3:])


def _labels_or_parts(outputs: Tensor, targets: Tensor) -> bool:
    parts = outputs.ndim >= 3 and _same(outputs, targets)
    return targets.is_floating_point() if parts else _labels(outputs, targets)


def _flat_labels(outputs: Tensor, targets: Tensor) -> bool:
    return outputs.ndim == 3 and targets.shape == outputs.shape[:2]


def _flat_same(outputs: Tensor, targets: Tensor) -> bool:
    return outputs.ndim == 3 and _same(outputs, targets)


def _folded(fn: Callable[..., Tensor], outputs: Tensor, targets: Tensor, **options: Any) -> Tensor:
    value = fn(outputs.flatten(0, 1), targets.flatten(0, 1), reduction="none", **options)
    return value.reshape(*outputs.shape[:2], *value.shape[1:])


def _plain(
    fn: Callable[..., Tensor], fields: tuple[str, ...], loss: Any, outputs: Tensor, targets: Tensor
) -> Tensor:
    """A loss without regard to places; ``fields`` of the module are its options."""
    options = {name: getattr(loss, name) for name in fields}
    return fn(outputs, targets, reduction="none", **options)


def _in_rows(
    fn: Callable[..., Tensor], fields: tuple[str, ...], loss: Any, outputs: Tensor, targets: Tensor
) -> Tensor:
    return _folded(fn, outputs, targets, **{name: getattr(loss, name) for name in fields})


def _label_weights(loss: Any, targets: Tensor) -> Tensor | None:
    if targets.is_floating_point():
        return None
    counts: Tensor = targets != loss.ignore_index
    if loss.weight is None:
        return counts
    weights: Tensor = loss.weight
    known = torch.where(counts, targets, torch.zeros_like(targets))
    return torch.where(counts, weights[known], torch.zeros_like(weights[known]))


def _binary(loss: Any, outputs: Tensor, targets: Tensor) -> Tensor:
    # torch ends the whole program, or raises, on what is no probability (NaN is none): the model
    # that made it gets NaN, and the others their losses.
    wrong = ~((outputs >= 0) & (outputs <= 1))
    sound = torch.where(wrong, torch.full_like(outputs, 0.5), outputs)
    value = F.binary_cross_entropy(sound, targets, weight=loss.weight, reduction="none")
    return torch.where(wrong, torch.full_like(value, float("nan")), value)


def _row(fn: Callable[..., Tensor], *fields: str) -> Row:
    return Row(partial(_plain, fn, fields), _same)


ROWS: Mapping[type[nn.Module], Row] = MappingProxyType(
    {
        nn.CrossEntropyLoss: Row(
            partial(_in_rows, F.cross_entropy, ("weight", "ignore_index", "label_smoothing")),
            _labels_or_parts,
            _label_weights,
        ),
        nn.NLLLoss: Row(
            partial(_in_rows, F.nll_loss, ("weight", "ignore_index")), _labels, _label_weights
        ),
        nn.MSELoss: _row(F.mse_loss),
        nn.L1Loss: _row(F.l1_loss),
        nn.SmoothL1Loss: _row(F.smooth_l1_loss, "beta"),
        nn.HuberLoss: _row(F.huber_loss, "delta"),
        nn.BCELoss: Row(_binary, _same),
        nn.BCEWithLogitsLoss: _row(F.binary_cross_entropy_with_logits, "weight", "pos_weight"),
        nn.KLDivLoss: _row(F.kl_div, "log_target"),
        nn.PoissonNLLLoss: _row(F.poisson_nll_loss, "log_input", "full", "eps"),
        nn.SoftMarginLoss: _row(F.soft_margin_loss),
        nn.HingeEmbeddingLoss: _row(F.hinge_embedding_loss, "margin"),
        nn.MultiLabelSoftMarginLoss: _row(F.multilabel_soft_margin_loss, "weight"),
        nn.MultiLabelMarginLoss: Row(partial(_in_rows, F.multilabel_margin_loss, ()), _flat_same),
        nn.MultiMarginLoss: Row(
            partial(_in_rows, F.multi_margin_loss, ("p", "margin", "weight")), _flat_labels
        ),
    }
)
