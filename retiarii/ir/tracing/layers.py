"""Which modules are one node: exactly a layer of the op table, used as its class defines it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn

from retiarii.errors import GraphError
from retiarii.ir.ops import OPS, constructor_attrs, module_attrs, module_op
from retiarii.ir.tracing.memory import Memory
from retiarii.ir.types import Attrs

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
# Attributes of an instance that say nothing of what it computes, or that a copy cannot share.
_BESIDE = frozenset(nn.Module().__dict__) | frozenset(
    {"_flat_weights", "_flat_weight_refs", "_compiled_call_impl", "call_super_init"}
    | {"inplace", "device", "dtype", "dump_patches"}
)


def has_hooks(module: nn.Module) -> bool:
    return any(getattr(module, name, None) for name in _HOOKS)


class _Look:
    """How a module looked: its attributes, and what it holds. Cheaper to compare than to read."""

    __slots__ = ("_attributes", "_held")

    def __init__(self, module: nn.Module) -> None:
        self._attributes = dict(module.__dict__)
        self._held = _held(module)

    def fits(self, module: nn.Module) -> bool:
        """Whether the module looks so still, in whatever mode."""
        own = module.__dict__
        self._attributes["training"] = own["training"]
        return (
            own.keys() == self._attributes.keys()
            and all(map(operator.is_, own.values(), self._attributes.values()))
            and _held(module) == self._held
        )


def _held(module: nn.Module) -> tuple[int, ...]:
    """What a module holds: the identities of tensors, and how many hooks."""
    attributes = module.__dict__
    return (
        *map(id, attributes["_parameters"].values()),
        *map(id, attributes["_buffers"].values()),
        *(len(attributes[name]) for name in _HOOKS),
    )


class Layers:
    """Recognises layers; remembers how each (class, arguments) comes out of its constructor.

    Args:
        memory: what is known of layers already.

    Attributes:
        results: what layers, and functions beside them, return.
    """

    def __init__(self, memory: Memory | None = None) -> None:
        memory = memory or Memory()
        self._made = memory.layers
        # By identity; the module is kept so that its number stays its own.
        self._known: dict[int, tuple[nn.Module, _Look, tuple[str, Attrs] | None]] = {}
        self._out_of_place: dict[Attrs, Attrs] = {}
        self.results = memory.results

    def forget(self) -> None:
        """Lets go of the modules that it saw."""
        self._known.clear()

    def out_of_place(self, attrs: Attrs) -> Attrs:
        """The arguments of a layer that does not write its input."""
        found = self._out_of_place.get(attrs)
        if found is None:
            found = self._out_of_place[attrs] = attrs.merged({"inplace": False})
        return found

    def attrs_of(self, module: nn.Module) -> tuple[str, Attrs] | None:
        """The op and constructor arguments; ``None`` where the module is not just such a layer."""
        if module._modules:  # their looks count, too
            return self._recognise(module)
        known = self._known.get(id(module))
        if known is not None and known[1].fits(module):
            return known[2]
        found = self._recognise(module)
        self._known[id(module)] = (module, _Look(module), found)
        return found

    def _recognise(self, module: nn.Module) -> tuple[str, Attrs] | None:
        op = module_op(type(module))
        if op is None or has_hooks(module) or "forward" in module.__dict__:
            return None
        try:
            attrs = module_attrs(module)
        except (GraphError, AttributeError, KeyError, TypeError, ValueError):
            return None
        twin = self._twin(op, attrs)
        return (op, attrs) if twin is not None and _alike(module, twin) else None

    def holds_like(self, module: nn.Module, op: str, attrs: Attrs) -> bool:
        """Whether the module itself holds the parameters and buffers of such a layer."""
        twin = self._twin(op, attrs)
        return twin is not None and _holds_alike(module, twin)

    def _twin(self, op: str, attrs: Attrs) -> nn.Module | None:
        key = (op, attrs)
        if key not in self._made:
            self._made[key] = _make(op, attrs)
        return self._made[key]


def _make(op: str, attrs: Attrs) -> nn.Module | None:
    spec = OPS[op]
    # Not `with torch.device(...)`: that does nothing while torch functions are disabled.
    placed = {"device": "meta"} if spec.placed else {}
    try:
        made: nn.Module = spec.target(**constructor_attrs(spec, attrs), **placed)
    except Exception:
        return None
    return made


def _holds_alike(module: nn.Module, twin: nn.Module) -> bool:
    """Whether both hold the same kinds of tensors themselves."""
    for held, other in ((module._parameters, twin._parameters), (module._buffers, twin._buffers)):
        if list(held) != list(other) or not all(map(_same_kind, held.values(), other.values())):
            return False
    return module._non_persistent_buffers_set == twin._non_persistent_buffers_set


def _alike(module: nn.Module, twin: nn.Module) -> bool:
    """Whether both hold the same kinds of tensors, children and settings."""
    if not _holds_alike(module, twin):
        return False
    settings, others = _settings(module), _settings(twin)
    if settings.keys() != others.keys():
        return False
    if not all(_equal(value, others[name]) for name, value in settings.items()):
        return False
    if not module._modules and not twin._modules:
        return True
    children, twins = dict(module.named_children()), dict(twin.named_children())
    return children.keys() == twins.keys() and all(
        type(child) is type(twins[name])
        and not has_hooks(child)
        and "forward" not in child.__dict__
        and _alike(child, twins[name])
        for name, child in children.items()
    )


def _same_kind(tensor: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if tensor is None or other is None:
        return tensor is other
    return (
        tensor.shape == other.shape
        and tensor.dtype == other.dtype
        and isinstance(tensor, nn.Parameter) == isinstance(other, nn.Parameter)
    )


def _settings(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in module.__dict__.items() if name not in _BESIDE}


def _equal(value: Any, other: Any) -> bool:
    if value is other:
        return True
    if isinstance(value, torch.Tensor) or isinstance(other, torch.Tensor):
        return value is other
    try:
        return bool(value == other)
    except Exception:
        return False
