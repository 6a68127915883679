"""What a model holds: its state_dict keys, which tensors are one, module paths and modes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class ModelState:
    """The tensors and modules of a model, by name.

    Attributes:
        tensors: key -> tensor, for all parameters and buffers, buffers that are not in the
            ``state_dict`` included; in the order of ``state_dict``.
        parameters: the keys that are parameters.
        transient: the keys of buffers that are not in the ``state_dict``.
        ties: key -> the first key of the same tensor, where that is another.
        frozen: keys of parameters that take no gradient.
        modules: path -> module; a shared module at its first path only.
        modes: path -> training flag, where it differs from the model's.
    """

    tensors: Mapping[str, torch.Tensor]
    parameters: frozenset[str]
    transient: frozenset[str]
    ties: Mapping[str, str]
    frozen: frozenset[str]
    modules: Mapping[str, nn.Module]
    modes: Mapping[str, bool]

    @staticmethod
    def of(model: nn.Module) -> ModelState:
        tensors: dict[str, torch.Tensor] = {}
        parameters: set[str] = set()
        transient: set[str] = set()
        ties: dict[str, str] = {}
        first_key: dict[int, str] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            prefix = f"{path}." if path else ""
            for held, is_parameter in ((module._parameters, True), (module._buffers, False)):
                for name, tensor in held.items():
                    if tensor is None:
                        continue
                    key = prefix + name
                    tensors[key] = tensor
                    if is_parameter:
                        parameters.add(key)
                    elif name in module._non_persistent_buffers_set:
                        transient.add(key)
                    first = first_key.setdefault(id(tensor), key)
                    if first != key:
                        ties[key] = first
        modules = dict(model.named_modules())
        return ModelState(
            tensors,
            frozenset(parameters),
            frozenset(transient),
            ties,
            frozenset(key for key in parameters if not tensors[key].requires_grad),
            modules,
            {p: m.training for p, m in modules.items() if m.training != model.training},
        )

    def first_key(self, key: str) -> str:
        """The first key of the tensor that ``key`` names."""
        return self.ties.get(key, key)

    def is_on_meta(self) -> bool:
        return any(t.is_meta for t in self.tensors.values())
