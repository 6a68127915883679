"""Optimizers as descriptions: frozen, checked, with fields that may be choices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import nn

from retiarii.errors import EvaluatorError
from retiarii.training.fields import (
    BELOW_ONE,
    BETAS,
    FLAG,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    Fields,
    Rule,
    possible,
)


class Optimizer(Fields):
    """Base of the optimizers: fields are named as in ``torch.optim``, each may be a choice."""

    TORCH: ClassVar[Callable[..., torch.optim.Optimizer]]

    def build(
        self, params: Iterable[nn.Parameter], values: Mapping[str, Any] | None = None
    ) -> torch.optim.Optimizer:
        """The optimizer for one model.

        Args:
            params: the parameters to train.
            values: label to the value chosen, for the fields that are choices.

        Raises:
            EvaluatorError: a value is missing, or breaks a field's rule.
        """
        plain = self.resolved(values or {})
        settings = {f.name: getattr(plain, f.name) for f in fields(plain)}  # type: ignore[arg-type]
        return type(self).TORCH(list(params), foreach=True, **settings)


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, as ``torch.optim.SGD``.

    Raises:
        EvaluatorError: a field is out of its range, or can become so.
    """

    lr: Any = 1e-3
    momentum: Any = 0.0
    dampening: Any = 0.0
    weight_decay: Any = 0.0
    nesterov: Any = False
    maximize: Any = False

    TORCH = torch.optim.SGD
    RULES: ClassVar[Mapping[str, Rule]] = {
        "lr": POSITIVE,
        "momentum": BELOW_ONE,
        "dampening": FRACTION,
        "weight_decay": NOT_NEGATIVE,
        "nesterov": FLAG,
        "maximize": FLAG,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        plain = min(possible(self.momentum)) <= 0 or max(possible(self.dampening)) != 0
        if plain and any(possible(self.nesterov)):
            raise EvaluatorError(
                f"nesterov needs momentum above 0 and no dampening, not "
                f"momentum={self.momentum!r}, dampening={self.dampening!r}",
                where="SGD(nesterov=...)",
                fix="raise the lowest momentum, or leave nesterov out",
            )


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam, as ``torch.optim.Adam``: ``weight_decay`` is added to the gradient.

    Raises:
        EvaluatorError: a field is out of its range, or can become so.
    """

    lr: Any = 1e-3
    betas: Any = (0.9, 0.999)
    eps: Any = 1e-8
    weight_decay: Any = 0.0
    amsgrad: Any = False
    maximize: Any = False

    TORCH = torch.optim.Adam
    RULES: ClassVar[Mapping[str, Rule]] = {
        "lr": POSITIVE,
        "betas": BETAS,
        "eps": NOT_NEGATIVE,
        "weight_decay": NOT_NEGATIVE,
        "amsgrad": FLAG,
        "maximize": FLAG,
    }


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay, as ``torch.optim.AdamW``.

    Raises:
        EvaluatorError: a field is out of its range, or can become so.
    """

    lr: Any = 1e-3
    betas: Any = (0.9, 0.999)
    eps: Any = 1e-8
    weight_decay: Any = 1e-2
    amsgrad: Any = False
    maximize: Any = False

    TORCH = torch.optim.AdamW
    RULES: ClassVar[Mapping[str, Rule]] = Adam.RULES


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """RMSprop, as ``torch.optim.RMSprop``.

    Raises:
        EvaluatorError: a field is out of its range, or can become so.
    """

    lr: Any = 1e-2
    alpha: Any = 0.99
    eps: Any = 1e-8
    weight_decay: Any = 0.0
    momentum: Any = 0.0
    centered: Any = False
    maximize: Any = False

    TORCH = torch.optim.RMSprop
    RULES: ClassVar[Mapping[str, Rule]] = {
        "lr": POSITIVE,
        "alpha": FRACTION,
        "eps": NOT_NEGATIVE,
        "weight_decay": NOT_NEGATIVE,
        "momentum": BELOW_ONE,
        "centered": FLAG,
        "maximize": FLAG,
    }


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Adagrad, as ``torch.optim.Adagrad``.

    Raises:
        EvaluatorError: a field is out of its range, or can become so.
    """

    lr: Any = 1e-2
    lr_decay: Any = 0
    weight_decay: Any = 0
    initial_accumulator_value: Any = 0
    eps: Any = 1e-10
    maximize: Any = False

    TORCH = torch.optim.Adagrad
    RULES: ClassVar[Mapping[str, Rule]] = {
        "lr": POSITIVE,
        "lr_decay": NOT_NEGATIVE,
        "weight_decay": NOT_NEGATIVE,
        "initial_accumulator_value": NOT_NEGATIVE,
        "eps": NOT_NEGATIVE,
        "maximize": FLAG,
    }
