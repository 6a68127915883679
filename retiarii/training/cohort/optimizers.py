"""The optimizers over flat parameters: each does what ``torch.optim`` does, in its order.

References: Sutskever et al. 2013 (momentum), Kingma and Ba 2015 (Adam), Reddi et al. 2018
(AMSGrad), Loshchilov and Hutter 2019 (AdamW), Tieleman and Hinton 2012 (RMSprop), Duchi et al.
2011 (Adagrad).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from retiarii.training.cohort.arithmetic import (
    add_product_,
    add_quotient_,
    add_scaled,
    add_scaled_,
)
from retiarii.training.cohort.flat_optimizer import (
    CohortOptimizer,
    Flag,
    FlatOptimizer,
    Number,
    Part,
    Setting,
)
from retiarii.training.cohort.mixed import MixedOptimizer
from retiarii.training.cohort.stacks import FlatParameters, expanded
from retiarii.training.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop


class FlatSGD(FlatOptimizer):
    """SGD with momentum, dampening and Nesterov's momentum."""

    COUNTED: ClassVar[bool] = False

    def _prepare(self) -> None:
        momentum, dampening = self._field("momentum"), self._field("dampening")
        self._momentum = Setting(self._flat, momentum)
        self._dampened = any(d != 0 for d in dampening)
        self._fresh = Setting(self._flat, [1 - d for d in dampening])
        self._rolls = Flag(m != 0 for m in momentum)
        self._nesterov = Flag(self._field("nesterov"))

    def _state_names(self) -> list[str]:
        return ["momentum_buffer"] if self._rolls.any else []

    def _holds(self, name: str, model: int) -> bool:
        del name
        return self._rolls.values[model]

    def _update(self, part: Part, grad: Tensor, lr: Number, key: Any) -> None:
        grad = self._decayed(part, self._ascending(part, grad))
        if self._rolls.any:
            grad = self._rolls.choose(part, self._rolled(part, grad), grad)
        add_scaled_(part.data, grad, self._descent(part, lr, key))

    def _rolled(self, part: Part, grad: Tensor) -> Tensor:
        buffer = part.states["momentum_buffer"]
        count = part.counts.common
        if count == 1:
            buffer.copy_(grad)
        else:
            add_scaled_(buffer.mul_(self._momentum.on(part)), grad, self._fresh.on(part))
            if count is None and self._dampened:
                # The first gradient of a parameter is not dampened.
                first = part.region.expand_segments(part.counts.values == 1)
                torch.where(first, grad, buffer, out=buffer)
        if not self._nesterov.any:
            return buffer
        return self._nesterov.choose(
            part, add_scaled(grad, buffer, self._momentum.on(part)), buffer
        )


class FlatAdam(FlatOptimizer):
    """Adam; the decay of the weights is added to the gradient."""

    def _prepare(self) -> None:
        betas = self._field("betas")
        self._beta1 = Setting(self._flat, [b[0] for b in betas])
        self._beta2 = Setting(self._flat, [b[1] for b in betas])
        self._fresh1 = Setting(self._flat, [1 - b[0] for b in betas])
        self._fresh2 = Setting(self._flat, [1 - b[1] for b in betas])
        self._eps = self._setting("eps")
        self._amsgrad = Flag(self._field("amsgrad"))

    def _state_names(self) -> list[str]:
        highest = ["max_exp_avg_sq"] if self._amsgrad.any else []
        return ["exp_avg", "exp_avg_sq", *highest]

    def _holds(self, name: str, model: int) -> bool:
        return name != "max_exp_avg_sq" or self._amsgrad.values[model]

    def _update(self, part: Part, grad: Tensor, lr: Number, key: Any) -> None:
        grad = self._with_decay(part, self._ascending(part, grad), lr, key)
        mean, square = part.states["exp_avg"], part.states["exp_avg_sq"]
        mean.lerp_(grad, self._fresh1.on(part))
        add_product_(square.mul_(self._beta2.on(part)), grad, grad, self._fresh2.on(part))
        if self._amsgrad.any:
            highest = part.states["max_exp_avg_sq"]
            torch.maximum(highest, square, out=highest)
            square = self._amsgrad.choose(part, highest, square)
        beta1, beta2, rate = part.level(self._beta1.vector, self._beta2.vector, lr)
        size = part.spread(rate / (1 - beta1**part.count) * -1)
        root = part.spread((1 - beta2**part.count) ** 0.5)
        scale = square.sqrt().div_(root).add_(self._eps.on(part))
        add_quotient_(part.data, mean, scale, size)

    def _with_decay(self, part: Part, grad: Tensor, lr: Number, key: Any) -> Tensor:
        del lr, key
        return self._decayed(part, grad)


class FlatAdamW(FlatAdam):
    """Adam; the weights decay by themselves."""

    def _with_decay(self, part: Part, grad: Tensor, lr: Number, key: Any) -> Tensor:
        if self._decays.any:
            factor = part.remember(
                "decay", key, lambda: expanded(part.region, 1 - lr * self._decay.vector, part.data)
            )
            part.data.mul_(factor)
        return grad


class FlatRMSprop(FlatOptimizer):
    """RMSprop, centered or not, with momentum."""

    def _prepare(self) -> None:
        alpha, momentum = self._field("alpha"), self._field("momentum")
        self._alpha = Setting(self._flat, alpha)
        self._fresh = Setting(self._flat, [1 - a for a in alpha])
        self._eps = self._setting("eps")
        self._momentum = Setting(self._flat, momentum)
        self._rolls = Flag(m > 0 for m in momentum)
        self._centered = Flag(self._field("centered"))

    def _state_names(self) -> list[str]:
        optional = {"momentum_buffer": self._rolls, "grad_avg": self._centered}
        return ["square_avg", *(name for name, flag in optional.items() if flag.any)]

    def _holds(self, name: str, model: int) -> bool:
        flags = {"momentum_buffer": self._rolls, "grad_avg": self._centered}
        return name not in flags or flags[name].values[model]

    def _update(self, part: Part, grad: Tensor, lr: Number, key: Any) -> None:
        grad = self._decayed(part, self._ascending(part, grad))
        square = part.states["square_avg"]
        add_product_(square.mul_(self._alpha.on(part)), grad, grad, self._fresh.on(part))
        spread = square
        if self._centered.any:
            mean = part.states["grad_avg"]
            mean.lerp_(grad, self._fresh.on(part))
            spread = self._centered.choose(part, square.addcmul(mean, mean, value=-1), square)
        scale = spread.sqrt().add_(self._eps.on(part))
        weights, descent = part.data, self._descent(part, lr, key)
        if not self._rolls.any:
            add_quotient_(weights, grad, scale, descent)
            return
        buffer = part.states["momentum_buffer"]
        buffer.mul_(self._momentum.on(part)).addcdiv_(grad, scale)
        change = self._rolls.choose(part, buffer, grad / scale) if self._rolls.mixed else buffer
        add_scaled_(weights, change, descent)


class FlatAdagrad(FlatOptimizer):
    """Adagrad."""

    EAGER: ClassVar[bool] = True

    def _prepare(self) -> None:
        self._lr_decay = self._setting("lr_decay")
        self._eps = self._setting("eps")

    def _state_names(self) -> list[str]:
        return ["sum"]

    def _holds(self, name: str, model: int) -> bool:
        del name, model
        return True

    def _initial(self, name: str) -> list[float] | None:
        del name
        return [float(v) for v in self._field("initial_accumulator_value")]

    def _update(self, part: Part, grad: Tensor, lr: Number, key: Any) -> None:
        del key
        grad = self._decayed(part, self._ascending(part, grad))
        total = part.states["sum"].addcmul_(grad, grad, value=1)
        decay, rate = part.level(self._lr_decay.vector, lr)
        size = part.spread(-rate / (1 + (part.count - 1) * decay))
        part.data.addcdiv_(grad * size, total.sqrt().add_(self._eps.on(part)))


FLAT: Mapping[type[Optimizer], type[FlatOptimizer]] = MappingProxyType(
    {
        SGD: FlatSGD,
        Adam: FlatAdam,
        AdamW: FlatAdamW,
        RMSprop: FlatRMSprop,
        Adagrad: FlatAdagrad,
    }
)


def build_optimizer(
    flat: FlatParameters, descriptions: Sequence[Optimizer], captured: bool = False
) -> CohortOptimizer:
    """One optimizer for all models of a cohort.

    Args:
        flat: the parameters.
        descriptions: each model's optimizer, every choice in it made. Fields may differ from model
            to model at little cost; classes may differ at the cost of one pass a class.
        captured: keep on the device whatever changes from step to step, as a CUDA graph needs it;
            the learning rates are to be given as a tensor then.

    Raises:
        ValueError: not one description for each model.
    """
    if len(descriptions) != flat.models:
        raise ValueError(f"{len(descriptions)} optimizers for {flat.models} models")
    kinds = dict.fromkeys(type(d) for d in descriptions)
    if len(kinds) > 1:
        return MixedOptimizer(flat, descriptions, FLAT, captured)
    return FLAT[next(iter(kinds))](flat, descriptions, captured)
