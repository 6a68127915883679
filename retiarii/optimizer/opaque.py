"""The buffers of submodules that are called as they are: they stay in copies of these modules.

Parameters are handed to such a module call by call, and lie in stacks as all others do. A buffer
it may replace, so that nothing else can hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# (model, path in it) -> the copy of the submodule.
Opaque = Mapping[tuple[int, str], nn.Module]


def buffer_of(opaque: Opaque, model: int, key: str) -> Tensor | None:
    """A model's buffer, where it is one of such a submodule."""
    for (owner, path), module in opaque.items():
        prefix = f"{path}." if path else ""
        if owner == model and key.startswith(prefix):
            found = dict(module.named_buffers(remove_duplicate=False)).get(key[len(prefix) :])
            if found is not None:
                return found
    return None


def apply_to_buffers(opaque: Opaque, fn: Callable[[Tensor], Tensor]) -> None:
    """Replaces every buffer by what ``fn`` makes of it."""
    for module in opaque.values():
        for part in module.modules():
            for name, buffer in part._buffers.items():
                if buffer is not None and not buffer.is_meta:
                    part._buffers[name] = fn(buffer)


def saved(opaque: Opaque, prefix: str) -> dict[str, Tensor]:
    """Entries for the merged model's ``state_dict``: ``opaque.MODEL.PATH``, model by model."""
    found = {}
    for (model, path), module in opaque.items():
        parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        for name, value in module.state_dict().items():
            if name not in parameters and isinstance(value, Tensor):
                inner = f"{path}.{name}" if path else name
                found[f"{prefix}opaque.{model}.{inner}"] = value
    return found


def load(opaque: Opaque, prefix: str, state: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Takes such entries over.

    Returns:
        The keys of all entries that there are, and of those that the state lacks.
    """
    own = saved(opaque, prefix)
    with torch.no_grad():
        for key in own.keys() & state.keys():
            own[key].copy_(state[key])
    return set(own), own.keys() - state.keys()
