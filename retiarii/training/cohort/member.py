"""A trial on its way into a cohort, and which trials can be in one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from retiarii.ir.graph import Graph
from retiarii.optimizer.arguments import taken
from retiarii.training.checkpoint import Checkpoint
from retiarii.training.cohort.part import Part
from retiarii.training.cohort.state import scored_weights
from retiarii.training.loop import Settings
from retiarii.training.record import Record
from retiarii.training.structure import float_dtype
from retiarii.training.trial import Trial


@dataclass(eq=False)
class Member:
    """One trial, with its model and what its training goes on from.

    Attributes:
        record: its history and checkpoints.
        settings: how it is trained.
        graph: what its model computes; ``None`` where that is not known.
        module: the model; holds the weights that it began this process with.
        state: what training goes on from; ``None`` begins it. While the member trains in a
            cohort, the cohort's trainer knows better.
        epoch: epochs done.
    """

    record: Record
    settings: Settings
    graph: Graph | None
    module: nn.Module
    state: Checkpoint | None = None
    epoch: int = 0

    @property
    def trial(self) -> Trial:
        return self.record.trial

    @property
    def open(self) -> bool:
        """Whether the trial has not ended."""
        return self.trial.outcome is None

    @property
    def done(self) -> bool:
        """Whether all of its epochs are done."""
        return self.epoch >= self.settings.epochs

    def part(self) -> Part:
        """What a cohort's trainer takes."""
        assert self.graph is not None
        return Part(self.graph, self.module, self.settings, self.state)

    def end(self, state: Callable[[], Checkpoint], stopped: bool) -> None:
        """End the trial with the weights of a state."""

        def weights() -> Mapping[str, Any]:
            return scored_weights(state(), self.module)

        self.record.end(weights, stopped)


def compatible(members: Sequence[Member]) -> list[list[Member]]:
    """Members in groups that can be trained together, in order; who cannot, is by itself."""
    groups: dict[Hashable, list[Member]] = {}
    for member in members:
        key = _key(member) if is_whole(member.graph, member.module) else id(member)
        groups.setdefault(key, []).append(member)
    return list(groups.values())


def _key(member: Member) -> Hashable:
    """What members of one cohort have in common: they see the same batches, and as one type."""
    settings, graph = member.settings, member.graph
    assert graph is not None
    return (
        settings.batch_size,
        settings.device,
        settings.amp,
        settings.data_seed,
        settings.shuffle,
        float_dtype(member.module),
        tuple(node.type for node in graph.inputs),
        taken(graph.context.forward),
    )


def is_whole(graph: Graph | None, module: nn.Module) -> bool:
    """Whether the graph is the whole truth about the model."""
    if graph is None or graph.context.fixed:
        return False
    named: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    named.update(module.named_buffers(remove_duplicate=False))
    if not all(key in named for key in module.state_dict()):
        return False  # state that is neither parameter nor buffer
    weights = graph.context.weights
    return all(
        weights[key].dtype is tensor.dtype for key, tensor in named.items() if key in weights
    ) and not any(_hooked(part) for part in module.modules())


def _hooked(module: nn.Module) -> bool:
    """Whether something is called besides ``forward``."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    parameters = module.parameters(recurse=False)
    return any(map(len, hooks)) or any(
        bool(getattr(p, "_backward_hooks", None)) for p in parameters if isinstance(p, torch.Tensor)
    )
