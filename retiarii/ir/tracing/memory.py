"""What parses of models that have much in common share: the candidates of one space, say."""

from __future__ import annotations

import torch
from torch import nn

from retiarii.ir.infer import TypeCache
from retiarii.ir.tracing.replay import Replays
from retiarii.ir.tracing.results import Results
from retiarii.ir.types import Attrs

# Entries after which one begins anew: continuous choices make new layers without end.
_LARGEST = 50_000


class Memory:
    """Facts about layers and calls that hold in whatever model they stand.

    Attributes:
        layers: (op, arguments) -> how such a layer comes out of its constructor.
        results: what layers, and functions beside them, return.
        replays: what submodules did.
    """

    def __init__(self) -> None:
        self.layers: dict[tuple[str, Attrs], nn.Module | None] = {}
        self.results = Results()
        self.replays = Replays()
        self._types: dict[int, TypeCache] = {}
        self._dtype = torch.get_default_dtype()

    def types(self, batch: int) -> TypeCache:
        """The memory of inference, for graphs whose shapes are given at this batch size."""
        return self._types.setdefault(batch, TypeCache(batch))

    def is_stale(self) -> bool:
        """Whether to begin anew: it is too large, or torch makes other numbers by default."""
        types = sum(len(t.calls) + len(t.notes) for t in self._types.values())
        size = len(self.layers) + len(self.results) + len(self.replays) + types
        return size > _LARGEST or torch.get_default_dtype() != self._dtype
