"""What an opaque module is, as text: equal for modules that are the same but for their weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_USUAL = frozenset(nn.Module().__dict__)
_NUMBERS = (type(None), bool, int, float, complex, str, bytes, torch.dtype)


def description(module: nn.Module) -> str:
    """The classes, settings and tensors of a module and of all in it; the same in every process.

    Of a setting that is an object, only its class is told.
    """
    return "\n".join(_lines(module))


def _lines(module: nn.Module) -> Iterator[str]:
    for path, part in module.named_modules(remove_duplicate=False):
        yield f"{path} {_name(type(part))}"
        for name, value in sorted(vars(part).items()):
            if name not in _USUAL and name != "_compiled_call_impl":
                yield f"{path}.{name} = {_shown(value)}"
        for kind, held in (("parameter", part._parameters), ("buffer", part._buffers)):
            for name, tensor in held.items():
                what = None if tensor is None else (tensor.dtype, tuple(tensor.shape))
                yield f"{path}.{name}: {kind} {what}"


def _shown(value: Any) -> str:
    if isinstance(value, _NUMBERS):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_shown, value))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_shown(k)}: {_shown(v)}' for k, v in value.items())}}}"
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return _name(value if callable(value) and hasattr(value, "__qualname__") else type(value))


def _name(of: Any) -> str:
    return f"{of.__module__}.{of.__qualname__}"
