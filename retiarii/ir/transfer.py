"""Weights made of other weights: what growth and pruning do to a ``state_dict``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import torch

_EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Take:
    """The positions ``source`` along an axis, in that order, each times its share.

    Attributes:
        axis: of the tensor.
        source: old positions.
        share: what each is multiplied by; ``None``: nothing.
        groups: the tensor's first axis is cut into as many parts, and so is ``source``, in
            positions counted over all parts: each part takes its own.
    """

    axis: int
    source: tuple[int, ...]
    share: tuple[float, ...] | None = None
    groups: int = 1

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor that is taken."""
        if self.groups == 1:
            return self._taken(tensor, range(len(self.source)), 0)
        old, new = tensor.shape[self.axis], len(self.source) // self.groups
        return torch.cat(
            [
                self._taken(part, range(group * new, (group + 1) * new), group * old)
                for group, part in enumerate(tensor.chunk(self.groups, 0))
            ]
        )

    def _taken(self, tensor: torch.Tensor, which: Sequence[int], start: int) -> torch.Tensor:
        # With the device named: mutators run where new tensors are on the meta device.
        at = torch.tensor([self.source[i] - start for i in which], device=tensor.device)
        made = tensor.detach().index_select(self.axis, at)
        if self.share is None:
            return made
        share = torch.tensor(
            [self.share[i] for i in which], dtype=tensor.dtype, device=tensor.device
        )
        return made * share.view([-1 if i == self.axis else 1 for i in range(tensor.dim())])


@dataclass(frozen=True, slots=True)
class Transfer:
    """One change of the weights of a graph.

    Attributes:
        shapes: state_dict key -> the shape that it must have, for all keys that are read.
        made: new key -> (key that it is made of, what is taken of it).
        given: new key -> its value, where there is none yet.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: _EMPTY)
    made: Mapping[str, tuple[str, tuple[Take, ...]]] = field(default_factory=lambda: _EMPTY)
    given: Mapping[str, torch.Tensor] = field(default_factory=lambda: _EMPTY)

    def applied(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weights after the change; as they are where they lack a key, or have other shapes."""
        held = dict(weights)
        for key, shape in self.shapes.items():
            tensor = weights.get(key)
            if tensor is None or tuple(tensor.shape) != shape:
                return held
        with torch.no_grad():
            for key, (source, takes) in self.made.items():
                tensor = weights[source]
                for take in takes:
                    tensor = take.of(tensor)
                held[key] = tensor
        return {**self.given, **held}


def transferred(
    weights: Mapping[str, torch.Tensor], transfers: Sequence[Transfer]
) -> Mapping[str, torch.Tensor]:
    """The weights after several changes, one after the other."""
    for transfer in transfers:
        weights = transfer.applied(weights)
    return weights
