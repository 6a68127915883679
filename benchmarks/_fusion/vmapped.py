"""Equal models by ``torch.vmap``: eager, and compiled."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F

from _fusion.contestant import Contestant, SkippedError, time_limit
from _fusion.stacked_sgd import StackedSGD
from _fusion.workloads import Cohort


class Vmapped(Contestant):
    """Gradients of all models by one call; what is frozen is not stacked.

    Raises:
        SkippedError: the models differ.
    """

    def __init__(self, cohort: Cohort) -> None:
        if cohort.equal is None:
            raise SkippedError("vmap needs equal models")
        models = cohort.build()
        self._x, self._y = cohort.x, cohort.y
        learn = [name for name, p in models[0].named_parameters() if p.requires_grad]
        named = [dict(model.named_parameters()) for model in models]
        self._params = {n: torch.stack([own[n].detach() for own in named]) for n in learn}
        frozen = {n: p.detach() for n, p in models[0].named_parameters() if n not in learn}
        buffers = [dict(model.named_buffers()) for model in models]
        alone = {
            f"{name}.{key}"
            for name, module in models[0].named_modules()
            if not module.training
            for key, _ in module.named_buffers()
        }
        self._rest: dict[str, Tensor] = frozen | {
            n: t if n in alone else torch.stack([own[n] for own in buffers])
            for n, t in buffers[0].items()
        }
        places = {n: None if n in frozen or n in alone else 0 for n in self._rest}
        self._sgd = StackedSGD(list(self._params.values()), cohort.rates)
        base = models[0]

        def loss(params: Any, rest: Any, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(base, (params, rest), (x,)), y)

        self._gradients = vmap(
            grad_and_value(loss), in_dims=(0, places, None, None), randomness="different"
        )

    def step(self) -> Tensor:
        grads, losses = self._gradients(self._params, self._rest, self._x, self._y)
        self._sgd.step([grads[name] for name in self._params])
        return losses

    def tensors(self) -> Iterable[Tensor]:
        return [*self._params.values(), *self._rest.values(), *self._sgd.buffers]


class VmapCompiled(Vmapped):
    """The gradients' call compiled whole.

    Args:
        cohort: what to train.
        limit: seconds that compiling may take.

    Raises:
        SkippedError: the models differ, or it took longer.
    """

    watchable: ClassVar[bool] = False

    def __init__(self, cohort: Cohort, limit: float) -> None:
        super().__init__(cohort)
        torch.compiler.reset()
        self._gradients = torch.compile(self._gradients)
        begin = time.perf_counter()
        with time_limit(limit, "compiling"):
            self.first = self.step()
        self.setup = time.perf_counter() - begin
