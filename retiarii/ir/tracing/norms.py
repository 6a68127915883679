"""Subclasses of batch norm that spell its forward out: they are the layer, with what they add.

Their forward counts the batch (``num_batches_tracked.add_(1)``) and calls ``F.batch_norm`` with
their own parameters and running statistics, which it writes. Both together are what one call of
``nn.BatchNorm2d`` does, and become one node of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from retiarii.errors import GraphError
from retiarii.ir.ops import module_attrs
from retiarii.ir.tracing.layers import Layers
from retiarii.ir.tracing.results import like_input
from retiarii.ir.types import Attrs

_LAYERS: Mapping[int, type[nn.Module]] = MappingProxyType(
    {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
)
_PARAMETERS = (
    "input",
    "running_mean",
    "running_var",
    "weight",
    "bias",
    "training",
    "momentum",
    "eps",
)
_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}
)


class WrittenNorms:
    """Recognises batch norms that are written out in a forward.

    Args:
        modules: path -> module of the traced copy.
        layers: recognises what a layer holds.
    """

    def __init__(self, modules: Mapping[str, nn.Module], layers: Layers) -> None:
        self._modules = modules
        self.layers = layers
        self._counted: dict[str, int] = {}

    def counts(self, path: str, name: str, args: tuple[Any, ...], kwargs: Any) -> bool:
        """Whether the call is the module at ``path`` counting a batch; remembers that it did."""
        module = self._modules.get(path)
        if name not in ("add_", "__iadd__") or not isinstance(module, _BatchNorm):
            return False
        counter = module.num_batches_tracked
        if counter is None or len(args) != 2 or kwargs:
            return False
        if args[0] is not counter or type(args[1]) is not int or args[1] != 1:
            return False
        self._counted[path] = self._counted.get(path, 0) + 1
        return True

    def layer(
        self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, Attrs] | None:
        """The layer that a call of ``F.batch_norm`` in the module at ``path`` is, if it is one."""
        module = self._modules.get(path)
        if not isinstance(module, _BatchNorm):
            return None
        given = {**_DEFAULTS, **dict(zip(_PARAMETERS, args, strict=False)), **kwargs}
        own = ("running_mean", "running_var", "weight", "bias")
        if any(given.get(name) is not getattr(module, name) for name in own):
            return None
        uses_batch = module.training or module.running_mean is None
        if (given["training"], given["momentum"], given["eps"]) != (
            uses_batch,
            module.momentum,
            module.eps,
        ):
            return None
        kind = _LAYERS.get(given["input"].dim())
        if kind is None:
            return None
        try:
            attrs = module_attrs(module, kind.__name__)
        except (GraphError, AttributeError):
            return None
        if not self.layers.holds_like(module, kind.__name__, attrs):
            return None
        if module.training and module.running_mean is not None:
            self._counted[path] = self._counted.get(path, 0) - 1
        return kind.__name__, attrs

    def result(self, path: str, op: str, operand: torch.Tensor) -> torch.Tensor | None:
        """What the layer returns, where that is known without running it."""
        return like_input(self._modules[path], op, [operand])

    def settled(self, path: str) -> bool:
        """Whether the module counted as many batches as it normalised."""
        return not self._counted.pop(path, 0)


def is_batch_norm(func: Any) -> bool:
    return func is torch.nn.functional.batch_norm
