"""Merged: with the user's own loop around `rt.merge`, and with the loop of a search's cohorts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import retiarii as rt
from _fusion.contestant import Contestant, held_by
from _fusion.workloads import MOMENTUM, RATE, Cohort
from retiarii.optimizer.merged import MergedModel
from retiarii.training.accumulation import Share
from retiarii.training.cohort.criterion import Criterion
from retiarii.training.cohort.outputs import OutputReader
from retiarii.training.cohort.stepping import Stepping
from retiarii.training.cohort.trainer import Part
from retiarii.training.loop import Settings
from retiarii.training.losses import Loss


def merged_of(models: Sequence[nn.Module], cohort: Cohort, dtype: torch.dtype) -> MergedModel:
    return rt.merge(models, cohort.x.to(dtype), seeds=cohort.seeds)


class Merged(Contestant):
    """`rt.merge`, a loss that is summed over the models, and ``torch.optim.SGD``.

    An optimizer of torch has one rate for a stack of parameters. Models with rates of their own
    get them as weights of their losses, which for SGD with momentum is the same.
    """

    def __init__(self, cohort: Cohort, dtype: torch.dtype = torch.float32) -> None:
        models = cohort.build(dtype)
        begin = time.perf_counter()
        self.merged = merged_of(models, cohort, dtype)
        self.setup = time.perf_counter() - begin
        self._x, self._y = cohort.x.to(dtype), cohort.y
        weights = [rate / RATE for rate in cohort.rates]
        equal = all(w == 1.0 for w in weights)
        self._weights = None if equal else self._x.new_tensor(weights)
        self._optimizer = torch.optim.SGD(
            [p for p in self.merged.parameters() if p.requires_grad],
            lr=RATE,
            momentum=MOMENTUM,
            foreach=True,
        )

    def step(self) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        losses = torch.stack([F.cross_entropy(out, self._y) for out in self.merged(self._x)])
        (losses if self._weights is None else losses * self._weights).sum().backward()
        self._optimizer.step()
        return losses.detach()

    def tensors(self) -> Iterable[Tensor]:
        return held_by([self.merged], [self._optimizer])


class CohortLoop(Contestant):
    """The step of `CohortTrainer`: stacked losses, flat parameters, one optimizer for all."""

    def __init__(self, cohort: Cohort, dtype: torch.dtype = torch.float32) -> None:
        models = cohort.build(dtype)
        begin = time.perf_counter()
        self.merged = merged_of(models, cohort, dtype)
        self.setup = time.perf_counter() - begin
        self._x, self._y = cohort.x.to(dtype), cohort.y
        graph = rt.parse(models[0], self._x)  # a part has one; stepping does not look at it
        parts = [
            Part(graph, model, _settings(rate, seed, cohort.device))
            for model, rate, seed in zip(models, cohort.rates, cohort.seeds, strict=True)
        ]
        self._reader = OutputReader(self.merged)
        self._stepping = Stepping(self.merged, parts, cohort.device)
        self._criterion = Criterion(
            Loss(nn.CrossEntropyLoss()), len(parts), cohort.device, dtype, self._run_as
        )
        self._shares = [Share(1.0, True, True)] * len(parts)
        self._looks = cohort.device.type == "cpu"  # on a GPU only now and then, not to wait for it

    def _run_as(self, model: int, call: object) -> object:
        return self.merged.streams[model].run(call)  # type: ignore[arg-type]

    def step(self) -> Tensor:
        tensors = [tensor for _, tensor in self.merged.stacked(self._x)]
        values, parts, failed = self._criterion(self._reader.read(tensors), self._y, ())
        if failed:
            raise next(iter(failed.values()))
        if self._looks:
            bool(torch.isfinite(values).all())
        self._stepping.untouched(parts, tensors)
        self._stepping.step(parts, self._shares, ())
        return values

    def tensors(self) -> Iterable[Tensor]:
        yield from held_by([self.merged], [])
        yield from self._stepping._optimizer.tensors()  # one model's at a time is all it offers


def _settings(rate: float, seed: int, device: torch.device) -> Settings:
    return Settings(
        optimizer=rt.SGD(lr=rate, momentum=MOMENTUM),
        schedule=rt.Constant(),
        epochs=1,
        batch_size=1,
        grad_clip=None,
        accumulate=1,
        ema=None,
        device=device,
        amp=None,
        seed=seed,
        data_seed=0,
        shuffle=False,
    )
