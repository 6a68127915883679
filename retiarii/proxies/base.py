"""What a proxy is, and what it is computed from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from retiarii.ir.graph import Graph
from retiarii.ir.types import Ref
from retiarii.training.structure import map_tensors, tensors


@dataclass(frozen=True, slots=True)
class Sample:
    """A batch, in float64.

    Attributes:
        args: what ``forward`` takes by position.
        named: what it takes by name.
        targets: of the samples; ``None`` where there are none.
        loss: of outputs and targets; ``None`` likewise.
    """

    args: tuple[Any, ...]
    named: Mapping[str, Any]
    targets: Any = None
    loss: Callable[[Any, Any], Tensor] | None = None

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Sample:
        """The same with other input tensors."""
        args = tuple(map_tensors(change, self.args))
        return Sample(args, map_tensors(change, dict(self.named)), self.targets, self.loss)


class Seen(NamedTuple):
    """What one model returned, and the tensors that were tapped on the way, by what they are."""

    outputs: Any
    taps: Mapping[str, Sequence[Tensor]]


class Weight(NamedTuple):
    """A parameter of one model and the gradient of the total; zero where nothing depends on it."""

    value: Tensor
    gradient: Tensor


class Pass(Protocol):
    """Models that are computed together; whether as one merged program is of no matter."""

    sample: Sample
    seed: int

    def forward(self, sample: Sample) -> list[Seen]:
        """What each model makes of a batch, with gradients to come."""

    def gradients(self, total: Tensor) -> list[dict[str, Weight]]:
        """For each model, the parameters by state key, with the gradients of ``total``."""


class Proxy(ABC):
    """Scores models that have not been trained; more is better.

    Attributes:
        name: as objectives name it.
        labelled: whether it needs targets and a loss.
        training: whether models run in training mode (BatchNorm by the batch) or evaluation mode.
    """

    name: ClassVar[str]
    labelled: ClassVar[bool] = False
    training: ClassVar[bool] = True

    def prepare(self, model: nn.Module, sample: Sample, seed: int) -> nn.Module:  # noqa: ARG002
        """The model that is run, in float64; it may be changed in place, or wrapped."""
        return model

    def batch(self, sample: Sample, seed: int) -> Sample:  # noqa: ARG002
        """The batch that models are run on."""
        return sample

    def taps(self, graph: Graph) -> Mapping[str, Sequence[Ref]]:  # noqa: ARG002
        """The tensors of a graph that `scores` looks at besides the outputs."""
        return MappingProxyType({})

    @abstractmethod
    def scores(self, run: Pass) -> list[float]:
        """One number for each model."""


def is_weight(value: Tensor) -> bool:
    """Whether a parameter is a weight: biases and what norms scale by are not."""
    return value.ndim >= 2


def total(outputs: Any) -> Tensor:
    """The sum of all numbers that a model returns."""
    parts = [t.sum() for t in tensors(outputs) if t.is_floating_point()]
    return torch.stack(parts).sum()


def loss_of(seen: Sequence[Seen], sample: Sample) -> Tensor:
    """The models' losses, summed; each depends on its own model alone."""
    assert sample.loss is not None
    return torch.stack([sample.loss(each.outputs, sample.targets) for each in seen]).sum()
