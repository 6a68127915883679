"""Which submodules are the same but for the values of their weights: in this model, or in others.

A *likeness* is a number for all that a module's forward may look at: its class, its attributes, the
kinds of its tensors, its children. What could hide something (a hook, a tensor as an attribute,
an object, code that reads what may change) has none, and nor has what holds it.
"""

from __future__ import annotations

import functools
import operator
import types
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from retiarii.ir.tracing.purity import OpenError, Pins, Purity
from retiarii.ir.tracing.state import ModelState

_CONTENTS = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
_USUAL: Mapping[str, Any] = types.MappingProxyType(nn.Module().__dict__)
# Attributes that say nothing, beside those above.
_SILENT = frozenset({"training", "_compiled_call_impl", "_is_full_backward_hook", *_CONTENTS})
# Views of the weights that recurrent layers keep.
_FLAT = frozenset({"_flat_weights", "_flat_weight_refs"})
_TENSORS = (nn.Parameter, nn.Buffer, torch.Tensor)
_NUMBERS = (bool, int, float, complex, str, bytes)
_FIXED = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_CODE = (types.FunctionType, types.BuiltinFunctionType, type)
_MUTABLE = (list, dict, OrderedDict)
_KEPT = (*_MUTABLE, set)
_HOOKS = tuple(n for n, v in _USUAL.items() if isinstance(v, dict) and n not in _CONTENTS)


class Likenesses:
    """Numbers for modules; equal ones for equal modules, through all models of a space."""

    def __init__(self) -> None:
        self.purity = Purity()
        self._numbers: dict[Any, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, of: Any) -> int:
        return self._numbers.setdefault(of, len(self._numbers))

    def all(self, state: ModelState) -> dict[str, Like]:
        """path -> likeness, of the modules of a model that have one."""
        shared = frozenset(state.ties) | frozenset(state.ties.values())
        found: dict[str, Like] = {}
        # Children come behind their parents.
        for path, module in reversed(list(state.modules.items())):
            prefix = f"{path}." if path else ""
            children = {n: m for n, m in module._modules.items() if m is not None}
            below = [found.get(prefix + name) for name in children]
            own = all(state.modules.get(prefix + name) is m for name, m in children.items())
            if not own or any(f"{prefix}{name}" in shared for name in _tensor_names(module)):
                continue
            parts = [like for like in below if like is not None]
            if len(parts) < len(below):
                continue
            try:
                looks, pins = self._looks(module)
            except OpenError:
                continue
            number = self.number((looks, *children, *(like.number for like in parts)))
            found[path] = Like(
                number,
                (_Look(module), *(look for like in parts for look in like.looks)),
                tuple(dict.fromkeys((*pins, *(pin for like in parts for pin in like.pins)))),
            )
        return found

    def _looks(self, module: nn.Module) -> tuple[Any, tuple[Pins, ...]]:
        """All but the children.

        Raises:
            OpenError: something that may hide more than it shows.
        """
        kind, attributes = type(module), module.__dict__
        pins = [self.purity.of(kind)]
        skipped = _SILENT | _FLAT if isinstance(module, nn.RNNBase) else _SILENT
        parts: list[Any] = [kind, tuple(sorted(module._non_persistent_buffers_set))]
        for name, value in attributes.items():
            if name in skipped:
                continue
            if name in _USUAL:
                if value:  # a hook
                    raise OpenError
                continue
            container = type(value)
            if container in _MUTABLE:  # but not inside of others: `_Look` would not see it change
                value = tuple(value if container is list else value.items())
            parts.append((name, container, self._plain(value, pins)))
        for held in (module._parameters, module._buffers):
            parts.append(tuple((name, _kind_of(tensor)) for name, tensor in held.items()))
        return tuple(parts), tuple(pins)

    def _plain(self, value: Any, pins: list[Pins]) -> Any:
        """An attribute as a key: what is equal is the same, types included."""
        kind = type(value)
        if value is None or value is ...:
            return value
        if kind in _NUMBERS:
            return kind, repr(value)
        if isinstance(value, _FIXED):
            return value
        if kind in (tuple, torch.Size):
            return kind, tuple(self._plain(part, pins) for part in value)
        if kind is functools.partial:
            parts = (value.func, value.args, tuple(value.keywords.items()))
            return kind, tuple(self._plain(part, pins) for part in parts)
        if isinstance(value, _CODE):
            pins.append(self.purity.of(value))
            return value
        raise OpenError


@dataclass(frozen=True, slots=True)
class Like:
    """A module's likeness.

    Attributes:
        number: equal for modules that are alike.
        looks: how the module and all below looked when it was worked out.
        pins: what their code reads.
    """

    number: int
    looks: tuple[_Look, ...]
    pins: tuple[Pins, ...]

    def holds(self) -> bool:
        """Whether nothing has changed since, in whatever mode."""
        return all(look.fits() for look in self.looks) and all(p.hold() for p in self.pins)

    def modes(self) -> tuple[bool, ...]:
        return tuple([look.module.training for look in self.looks])


class _Look:
    """How a module looked: its attributes, and what these hold."""

    __slots__ = ("_attributes", "_contents", "module")

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._attributes = dict(module.__dict__)
        self._contents = [
            (value, value.copy())
            for name, value in module.__dict__.items()
            if type(value) in _KEPT and name not in _HOOKS and (value or name not in _CONTENTS)
        ]

    def fits(self) -> bool:
        own = self.module.__dict__
        self._attributes["training"] = own["training"]
        return (
            own.keys() == self._attributes.keys()
            and all(map(operator.is_, own.values(), self._attributes.values()))
            and not any(map(own.__getitem__, _HOOKS))
            and all(_same(now, then) for now, then in self._contents)
        )


def _same(now: Any, then: Any) -> bool:
    """Whether a container holds the same objects in the same order."""
    if len(now) != len(then):
        return False
    if isinstance(now, dict):
        return list(now) == list(then) and all(map(operator.is_, now.values(), then.values()))
    return bool(now == then) if isinstance(now, set) else all(map(operator.is_, now, then))


def _tensor_names(module: nn.Module) -> list[str]:
    held = (module._parameters, module._buffers)
    return [name for tensors in held for name, tensor in tensors.items() if tensor is not None]


def _kind_of(tensor: torch.Tensor | None) -> Any:
    if tensor is None:
        return None
    if type(tensor) not in _TENSORS or tensor.__dict__ or tensor.layout is not torch.strided:
        raise OpenError
    return type(tensor), tensor.dtype, tensor.shape, tensor.stride(), tensor.requires_grad
