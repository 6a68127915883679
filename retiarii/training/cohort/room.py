"""How many members of a cohort fit the memory that is free, before any of it is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from retiarii.ir.graph import Graph
from retiarii.ir.node import NodeRecord
from retiarii.ir.types import TensorType
from retiarii.optimizer.lift import Model
from retiarii.optimizer.memory import fit, mib
from retiarii.training.cohort.member import Member
from retiarii.training.optimizers import SGD, Adagrad, Adam, AdamW, RMSprop

# A part of the free memory is left: for what kernels use inside, and for everybody else.
_USED: Final = 0.85
# No program holds more than so many times what its calls make: their gradients, and copies.
_MOST_COPIES: Final = 3
_GATES: Final = 4
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


class Room:
    """What the members of a cohort take, beside what is free.

    Args:
        members: compatible, with graphs that are known.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._settings = members[0].settings
        self._states = max(map(_states, members))
        self._weights = {id(member): _weights(member) for member in members}
        sizes: dict[TensorType, int] = {}
        self._made = {id(member): _made(_graph(member), sizes) for member in members}

    def surely_for(self, members: Sequence[Member]) -> bool:
        """Whether a bound that takes next to no time says that they can be trained together."""
        free = free_memory(self._settings.device)
        return free is None or self._bound(members) <= free * _USED

    def number(self, members: Sequence[Member]) -> tuple[int, str]:
        """How many of the members, from the first on, can be trained together.

        Where the bound does not say that all can, the cohort's own program is looked at.

        Returns:
            (the number, at least 1; how much memory is free, in words).
        """
        settings = self._settings
        free = free_memory(settings.device)
        if free is None or len(members) == 1 or self._bound(members) <= free * _USED:
            return len(members), ""
        room = int(free * _USED)
        if settings.device.type != "cpu":
            # The models themselves are there too.
            room -= sum(self._weights[id(member)] for member in members)
        models = [Model.of(_graph(member), member.module) for member in members]
        try:
            number = fit(
                models,
                room,
                batch=settings.batch_size,
                states=self._states,
                device=settings.device,
            )
        except Exception:  # what cannot be merged says so when it is
            return len(members), ""
        return max(number, 1), mib(free)

    def _bound(self, members: Sequence[Member]) -> int:
        """Bytes that training them does not exceed."""
        batch = self._settings.batch_size
        # The model, its place in the cohort, its gradients, the step, and the optimizer's states.
        weights = sum(self._weights[id(member)] for member in members) * (4 + self._states)
        made = sum(
            self._made[id(member)] * max(batch / max(_graph(member).context.batch, 1), 1)
            for member in members
        )
        return weights + int(made * _MOST_COPIES)


def _made(graph: Graph, sizes: dict[TensorType, int]) -> int:
    """Bytes of all that a graph's calls make, at the example's batch size."""
    total = 0
    for record in graph.records():
        inside = _INSIDE.get(record.op)
        times = 1 if inside is None else inside(record)
        for kind in record.types:
            size = sizes.get(kind)
            if size is None:
                size = sizes[kind] = prod(kind.shape) * kind.dtype.itemsize
            total += size * times
    return total


def _layers(record: NodeRecord) -> int:
    """All gates of all layers, of which the last one's output is seen."""
    return _GATES * int(record.attrs.get("num_layers", 1))


def _scores(record: NodeRecord) -> int:
    """Of each head, a score for each pair of places."""
    *places, width = record.types[0].shape
    heads = int(record.attrs.get("num_heads", 1))
    return 4 + 3 * -(-heads * max(places, default=1) // max(width, 1))


def _weights(member: Member) -> int:
    held = [
        tensor
        for module in member.module.modules()
        for tensors in (module._parameters, module._buffers)
        for tensor in tensors.values()
        if tensor is not None
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


def _states(member: Member) -> int:
    settings = member.settings
    count = _STATES.get(type(settings.optimizer))
    kept = 2 if count is None else count(settings.optimizer)
    return kept + (settings.ema is not None)


def _graph(member: Member) -> Graph:
    assert member.graph is not None
    return member.graph


# Calls that make more inside than their results, and how much more.
_INSIDE: Final[Mapping[str, Callable[[NodeRecord], int]]] = MappingProxyType(
    {
        "RNN": _layers,
        "LSTM": _layers,
        "GRU": _layers,
        "MultiheadAttention": _scores,
        "scaled_dot_product_attention": _scores,
        "opaque": lambda _: 4,
    }
)
