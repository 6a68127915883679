"""Which samples make up which batch of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from retiarii.errors import EvaluatorError
from retiarii.training.rng import Stream


@dataclass(frozen=True, slots=True)
class Plan:
    """The batches of one epoch.

    Attributes:
        order: indices of samples, int64 [n]; ``None`` stands for 0, 1, 2 ...
        sizes: how many of them each batch takes.
    """

    order: Tensor | None
    sizes: tuple[int, ...]

    def indices(self) -> list[list[int]]:
        """The indices of each batch."""
        count = sum(self.sizes)
        order = list(range(count)) if self.order is None else self.order.tolist()
        starts = [0]
        for size in self.sizes:
            starts.append(starts[-1] + size)
        return [order[a:b] for a, b in pairwise(starts)]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a data source is cut into batches.

    Attributes:
        length: number of samples.
        batch_size: a DataLoader's own; ``None`` takes the evaluator's.
        drop_last: whether the smaller rest is left out.
        shuffles: False for a DataLoader that keeps the order.
        sampler: a DataLoader's own sampler, other than random and sequential.
        batch_sampler: a DataLoader's own batch sampler.
    """

    length: int
    batch_size: int | None = None
    drop_last: bool = False
    shuffles: bool = True
    sampler: Any = None
    batch_sampler: Any = None

    def plan(self, batch_size: int, seed: int | None, epoch: int = 0, *, training: bool) -> Plan:
        """The batches of one epoch, a function of the arguments alone.

        In training a last batch of a single sample is joined to the one before it: BatchNorm
        cannot train on one sample. So the last batch may hold one more than ``batch_size``.

        Args:
            batch_size: samples a batch, where the source has no size of its own.
            seed: of the epoch's order; ``None`` keeps the order.
            epoch: handed to samplers that know epochs (``set_epoch``).
            training: whether the batches are trained on.
        """
        if self.batch_sampler is not None:
            batches = _draw(self.batch_sampler, seed, epoch)
            sizes = [len(b) for b in batches]
            drawn = torch.tensor([i for b in batches for i in b], dtype=torch.int64)
            return Plan(drawn, _joined(sizes) if training else tuple(sizes))
        order: Tensor | None = None
        if self.sampler is not None:
            order = torch.tensor(_draw(self.sampler, seed, epoch), dtype=torch.int64)
        elif seed is not None and self.shuffles:
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(self.length, generator=generator)
        count = self.length if order is None else len(order)
        size = self.batch_size or batch_size
        full, rest = divmod(count, size)
        sizes = [size] * full + ([rest] if rest and not self.drop_last else [])
        if order is not None:
            order = order[: sum(sizes)]
        return Plan(order, _joined(sizes) if training else tuple(sizes))


def _joined(sizes: list[int]) -> tuple[int, ...]:
    if len(sizes) > 1 and sizes[-1] == 1 and sizes[-2] > 1:
        return (*sizes[:-2], sizes[-2] + 1)
    return tuple(sizes)


def _draw(sampler: Any, seed: int | None, epoch: int) -> list[Any]:
    """What a user's sampler yields, drawn from our own stream whatever generator it holds."""
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    with Stream(seed or 0), _own_generator(sampler, seed or 0):
        return list(sampler)


@contextmanager
def _own_generator(sampler: Any, seed: int) -> Iterator[None]:
    holder: Any = sampler if hasattr(sampler, "generator") else getattr(sampler, "sampler", None)
    before = getattr(holder, "generator", None)
    if before is None:
        yield
        return
    holder.generator = torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        holder.generator = before


def loader_sampling(loader: DataLoader[Any], length: int, where: str) -> Sampling:
    """How a user's DataLoader is cut into batches.

    Raises:
        EvaluatorError: it makes no batches.
    """
    batches: Any = loader.batch_sampler
    if batches is None:
        raise EvaluatorError(
            "a DataLoader with batch_size=None makes no batches",
            where=where,
            fix="give the DataLoader a batch_size, or pass the dataset itself",
        )
    if type(batches) is not BatchSampler:
        return Sampling(length, batch_sampler=batches)
    sampler = batches.sampler
    plain_random = (
        type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == length
    )
    in_order = type(sampler) is SequentialSampler
    return Sampling(
        length,
        batch_size=batches.batch_size,
        drop_last=batches.drop_last,
        shuffles=plain_random,
        sampler=None if plain_random or in_order else sampler,
    )
