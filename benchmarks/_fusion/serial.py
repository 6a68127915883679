"""One model after the other, eager or compiled."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _fusion.contestant import Contestant, held_by, time_limit
from _fusion.workloads import MOMENTUM, Cohort


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


class Serial(Contestant):
    """As a user trains models today.

    Args:
        cohort: what to train.
        kind: the implementation of the optimizer: ``"foreach"`` or ``"fused"``.
        dtype: of weights and inputs.
    """

    def __init__(
        self, cohort: Cohort, kind: str = "foreach", dtype: torch.dtype = torch.float32
    ) -> None:
        self.models = cohort.build(dtype)
        self._x, self._y = cohort.x.to(dtype), cohort.y
        self._optimizers = [
            torch.optim.SGD(trained(model), lr=lr, momentum=MOMENTUM, **{kind: True})
            for model, lr in zip(self.models, cohort.rates, strict=True)
        ]
        self._called: list[nn.Module] = self.models

    def train_one(self, index: int) -> Tensor:
        """One step of one model."""
        optimizer = self._optimizers[index]
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self._called[index](self._x), self._y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def step(self) -> Tensor:
        return torch.stack([self.train_one(i) for i in range(len(self.models))])

    def tensors(self) -> Iterable[Tensor]:
        return held_by(self.models, self._optimizers)


class Compiled(Serial):
    """The same with ``torch.compile``; equal models share what was compiled.

    Args:
        cohort: what to train.
        limit: seconds that compiling may take.

    Raises:
        SkippedError: it took longer.
    """

    watchable: ClassVar[bool] = False

    def __init__(self, cohort: Cohort, limit: float) -> None:
        super().__init__(cohort, "foreach")
        torch.compiler.reset()
        self._called = [torch.compile(model) for model in self.models]  # type: ignore[misc]
        begin = time.perf_counter()
        with time_limit(limit, f"compiling {len(self.models)} models"):
            self.first = self.step()
        self.setup = time.perf_counter() - begin


class Features(Contestant):
    """A frozen backbone run once by hand, and its heads one after the other: the ideal saving."""

    def __init__(self, cohort: Cohort) -> None:
        self._models = cohort.build()
        self._x, self._y = cohort.x, cohort.y
        self._optimizers = [
            torch.optim.SGD(trained(model), lr=lr, momentum=MOMENTUM, foreach=True)
            for model, lr in zip(self._models, cohort.rates, strict=True)
        ]

    def step(self) -> Tensor:
        with torch.no_grad():
            features = self._models[0].backbone(self._x)  # type: ignore[operator]
        losses = []
        for model, optimizer in zip(self._models, self._optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model.head(features), self._y)  # type: ignore[operator]
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    def tensors(self) -> Iterable[Tensor]:
        return held_by(self._models, self._optimizers)
