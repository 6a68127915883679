"""How many members of a cohort fit the memory that is free, before any of it is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from retiarii.ir.graph import Graph
from retiarii.optimizer.lift import Model
from retiarii.optimizer.memory import fit, mib
from retiarii.training.cohort.member import Member
from retiarii.training.optimizers import SGD, Adagrad, Adam, AdamW, RMSprop

# A part of the free memory is left: for what kernels use inside, and for everybody else.
_USED: Final = 0.85
# No program holds more than so many times what its calls make: their gradients, and copies.
_MOST_COPIES: Final = 4
_MEMINFO: Final = Path("/proc/meminfo")

# Tensors as big as the parameters that an optimizer keeps.
_STATES: Final[Mapping[type, Callable[[Any], int]]] = MappingProxyType(
    {
        SGD: lambda o: int(o.momentum != 0),
        Adam: lambda o: 2 + int(bool(o.amsgrad)),
        AdamW: lambda o: 2 + int(bool(o.amsgrad)),
        RMSprop: lambda o: 1 + int(o.momentum > 0) + int(bool(o.centered)),
        Adagrad: lambda _: 1,
    }
)


def free_memory(device: torch.device) -> int | None:
    """Bytes that may still be taken on a device; ``None`` where nobody says."""
    if device.type == "cuda":
        # What torch holds and does not use it takes again.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return found[0] * 1024 if found else None


def surely_fit(group: Sequence[Member]) -> bool:
    """Whether a bound that takes next to no time says that the members can be trained together."""
    free = free_memory(group[0].settings.device)
    if free is None or len(group) < 2:
        return True
    states = max(map(_states, group))
    return sum(_bound(member, states) for member in group) <= free * _USED


def members_that_fit(group: Sequence[Member]) -> tuple[int, str]:
    """How many of the members, from the first on, can be trained together.

    Where the bound does not say that all fit, the cohort's own program is looked at.

    Args:
        group: members that are compatible, with graphs that are known.

    Returns:
        (the number, at least 1; how much memory is free, in words).
    """
    settings = group[0].settings
    free = free_memory(settings.device)
    if free is None or surely_fit(group):
        return len(group), ""
    room = int(free * _USED)
    if settings.device.type != "cpu":
        room -= sum(map(_weights, group))  # the models themselves are there too
    models = [Model.of(_graph(member), member.module) for member in group]
    states = max(map(_states, group))
    try:
        number = fit(models, room, batch=settings.batch_size, states=states, device=settings.device)
    except Exception:  # what cannot be merged says so when it is
        return len(group), ""
    return max(number, 1), mib(free)


def _bound(member: Member, states: int) -> int:
    """Bytes that training a member does not exceed."""
    graph = _graph(member)
    made = sum(
        prod(kind.shape) * kind.dtype.itemsize
        for record in graph.records()
        for kind in record.types
        if record.op not in ("parameter", "buffer", "constant")
    )
    at_batch = made * max(member.settings.batch_size / max(graph.context.batch, 1), 1)
    # The model, its place in the cohort, its gradients, the step, and the optimizer's states.
    return _weights(member) * (4 + states) + int(at_batch * _MOST_COPIES)


def _weights(member: Member) -> int:
    held = [*member.module.parameters(), *member.module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


def _states(member: Member) -> int:
    settings = member.settings
    count = _STATES.get(type(settings.optimizer))
    kept = 2 if count is None else count(settings.optimizer)
    return kept + (settings.ema is not None)


def _graph(member: Member) -> Graph:
    assert member.graph is not None
    return member.graph
