"""Merged: with the user's own loop around `rt.merge`, and with the loop of a search's cohorts."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import retiarii as rt
from _fusion.contestant import Contestant, held_by
from _fusion.workloads import MOMENTUM, RATE, Cohort
from retiarii.optimizer.merged import MergedModel
from retiarii.training.cohort.cuda_graphs import recorder_of
from retiarii.training.cohort.part import Part
from retiarii.training.cohort.trainer import CohortTrainer
from retiarii.training.loop import Settings
from retiarii.training.readers import Batch


def merged_of(cohort: Cohort, dtype: torch.dtype) -> tuple[MergedModel, float]:
    """The merged models, and the seconds that it took: of a space, candidates are merged."""
    models = [] if _as_candidates(cohort, dtype) else cohort.build(dtype)
    begin = time.perf_counter()
    if models:
        merged = rt.merge(models, cohort.x.to(dtype), seeds=cohort.seeds)
    else:
        merged = rt.merge(cohort.candidates, seeds=cohort.seeds).to(cohort.device)
    return merged, time.perf_counter() - begin


def _as_candidates(cohort: Cohort, dtype: torch.dtype) -> bool:
    return bool(cohort.candidates) and dtype == torch.float32


class Merged(Contestant):
    """`rt.merge`, a loss that is summed over the models, and ``torch.optim.SGD``.

    An optimizer of torch has one rate for a stack of parameters. Models with rates of their own
    get them as weights of their losses, which for SGD with momentum is the same.

    Args:
        cohort: what to train.
        kind: the implementation of the optimizer: ``"foreach"`` or ``"fused"``.
        dtype: of weights and inputs.
    """

    def __init__(
        self, cohort: Cohort, kind: str = "foreach", dtype: torch.dtype = torch.float32
    ) -> None:
        self.merged, self.setup = merged_of(cohort, dtype)
        self._x, self._y = cohort.x.to(dtype), cohort.y
        weights = [rate / RATE for rate in cohort.rates]
        equal = all(w == 1.0 for w in weights)
        self._weights = None if equal else self._x.new_tensor(weights)
        self._optimizer = torch.optim.SGD(
            [p for p in self.merged.parameters() if p.requires_grad],
            lr=RATE,
            momentum=MOMENTUM,
            **{kind: True},
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
    """The training step of `CohortTrainer`, by which a search trains.

    Args:
        cohort: what to train.
        dtype: of weights and inputs.
        graphs: whether a GPU's steps are recorded, as they are in a search.
    """

    def __init__(
        self, cohort: Cohort, dtype: torch.dtype = torch.float32, graphs: bool = False
    ) -> None:
        x, y = cohort.x.to(dtype), cohort.y
        models = cohort.build(dtype)
        task = rt.Supervised(
            (x, y), (x, y), loss=nn.CrossEntropyLoss(), optimizer=rt.SGD(lr=RATE), batch_size=len(y)
        ).task
        begin = time.perf_counter()
        if _as_candidates(cohort, dtype):
            graphs = [candidate.graph for candidate in cohort.candidates]
        else:
            graphs = [rt.parse(model, x) for model in models]
        parts = [
            Part(graph, model, _settings(rate, seed, cohort))
            for graph, model, rate, seed in zip(
                graphs, models, cohort.rates, cohort.seeds, strict=True
            )
        ]
        record = recorder_of if graphs else _nothing
        self.trainer = CohortTrainer(parts, task, record=record)
        self.setup = time.perf_counter() - begin
        self.merged = self.trainer.merged
        self.merged.seed(cohort.seeds)
        self._batch = Batch(x, y, len(y), None)

    def step(self) -> Tensor:
        losses = self.trainer.train_step(self._batch)
        for error in self.trainer.failed.values():
            raise error
        return losses

    def tensors(self) -> Iterable[Tensor]:
        yield from held_by([self.merged], [])
        yield from self.trainer.stepping.state_tensors()


def _nothing(_: torch.device) -> None:
    return None


def _settings(rate: float, seed: int, cohort: Cohort) -> Settings:
    return Settings(
        optimizer=rt.SGD(lr=rate, momentum=MOMENTUM),
        schedule=rt.Constant(),
        epochs=1,
        batch_size=len(cohort.y),
        grad_clip=None,
        accumulate=1,
        ema=None,
        device=cohort.device,
        amp=None,
        seed=seed,
        data_seed=0,
        shuffle=False,
    )
