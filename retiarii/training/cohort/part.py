"""One model of a cohort, and what cohorts are trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from retiarii.ir.graph import Graph
from retiarii.optimizer.merged import MergedModel
from retiarii.training.checkpoint import Checkpoint
from retiarii.training.loop import Settings, Task


@dataclass(frozen=True, slots=True)
class Part:
    """One model of a cohort.

    Attributes:
        graph: what it computes.
        module: a module of that graph that holds its weights; it is only read.
        settings: how it is trained.
        state: what its training goes on from; ``None`` begins it.
    """

    graph: Graph
    module: nn.Module
    settings: Settings
    state: Checkpoint | None = None


@dataclass(frozen=True, slots=True)
class Attached:
    """What a cohort trains on.

    Attributes:
        task: whose sources may give what a frozen part has made of the samples.
        rest: for the modes of such sources (the training flag), what computes the output stacks
            of what they give.
    """

    task: Task
    rest: Mapping[bool, Callable[[Sequence[Tensor]], list[Tensor]]] = field(default_factory=dict)


# What a cohort's merged model, one of its parts, and its task are trained with.
Attach = Callable[[MergedModel, Part, Task], Attached]
