"""Nested Python structures that hold tensors: taken apart, frozen into the IR, and rebuilt.

A list is frozen as `FrozenList`, a dict as `FrozenDict`, a tuple as itself. A named tuple, a
dataclass, a subclass of dict and an object that is no more than its attributes become
``(TypeOf(cls), FrozenDict(fields))``.
"""

from __future__ import annotations

import dataclasses
import enum
import numbers
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from retiarii.ir.build.expressions import made_by_fields
from retiarii.ir.types import FrozenDict, FrozenList, TypeOf

_PLAIN = (
    str,
    bytes,
    type(None),
    type(...),
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)
_DICTS = (dict,)


# What a class has not redefined, if its objects are their attributes.
_USUAL = ("__setattr__", "__getattribute__", "__reduce_ex__")


class NotAStructureError(Exception):
    """A value that is neither a tensor, nor a plain constant, nor a structure of them."""


def is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields") and hasattr(value, "_make")


def fields_of(value: Any) -> Mapping[Any, Any] | None:
    """The fields of a named tuple, a dataclass or a dict of a class of its own; else ``None``."""
    if is_named_tuple(value):
        return dict(zip(value._fields, value, strict=True))
    if isinstance(value, Mapping) and type(value) not in _DICTS:
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    return None


def is_record(value: Any) -> bool:
    """Whether an object is its attributes and nothing else: a cache of keys and values, say."""
    kind = type(value)
    return (
        hasattr(value, "__dict__")
        and kind.__module__ != "builtins"
        and not isinstance(value, torch.nn.Module | torch.Generator | type | enum.Enum)
        and not callable(value)
        and all(getattr(kind, name) is getattr(object, name) for name in _USUAL)
        and "<locals>" not in kind.__qualname__
        and not any(vars(base).get("__slots__") for base in kind.__mro__[:-1])
    )


def freeze_structure(
    value: Any, leaf: Callable[[torch.Tensor], Any], *, records: bool = False
) -> Any:
    """``value`` as the IR holds it, with ``leaf(tensor)`` for each tensor.

    Args:
        value: a nested structure.
        leaf: what stands for a tensor.
        records: take objects that are only their attributes, too. Right for what a model returns
            alone: who else gets such an object may change it.

    Raises:
        NotAStructureError: a value in it that the IR cannot hold.
    """

    try:
        return _frozen(value, leaf, records)
    except RecursionError:
        raise NotAStructureError(f"a {type(value).__qualname__} that holds itself") from None


def _frozen(value: Any, leaf: Callable[[torch.Tensor], Any], records: bool) -> Any:
    if isinstance(value, torch.Tensor):
        return leaf(value)
    kind = type(value)
    enter = partial(_frozen, leaf=leaf, records=records)
    if kind is list:
        return FrozenList(map(enter, value))
    if kind in _DICTS:
        return FrozenDict((constant(k), enter(v)) for k, v in value.items())
    fields = fields_of(value)
    if fields is not None:
        return (TypeOf(kind), FrozenDict((constant(k), enter(v)) for k, v in fields.items()))
    if isinstance(value, tuple):
        return tuple(map(enter, value))
    if isinstance(value, slice):
        return slice(*map(enter, (value.start, value.stop, value.step)))
    if records and isinstance(value, type):
        return TypeOf(value)
    if records and is_record(value):
        return (TypeOf(kind), FrozenDict((k, enter(v)) for k, v in vars(value).items()))
    return constant(value)


def plain_results(value: Any, leaf: Callable[[torch.Tensor], Any]) -> Any:
    """What a torch function returned, as type inference writes it: any sequence is a tuple.

    Raises:
        NotAStructureError: a value in it that the IR cannot hold.
    """
    if isinstance(value, torch.Tensor):
        return leaf(value)
    if isinstance(value, list | tuple):
        return tuple(plain_results(v, leaf) for v in value)
    if isinstance(value, dict):
        return FrozenDict((k, plain_results(v, leaf)) for k, v in value.items())
    return constant(value)


def constant(value: Any) -> Any:
    """A constant as the IR holds it.

    Raises:
        NotAStructureError: the IR has no such constant.
    """
    if isinstance(value, bool | int | float | complex) and type(value) in (
        bool,
        int,
        float,
        complex,
    ):
        return value
    if isinstance(value, str) and type(value) is not str:
        return str(value.value if isinstance(value, enum.Enum) else value)
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, numbers.Integral):  # numpy's, and int enums
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if type(value).__name__ == "bool_" or type(value).__name__ == "bool":
        return bool(value)
    raise NotAStructureError(f"a {type(value).__qualname__}")


def rebuild(structure: Any, leaf: Callable[[Any], Any]) -> Any:
    """The Python value that a frozen structure stands for; ``leaf`` is applied to its leaves."""
    if isinstance(structure, FrozenDict):
        return {k: rebuild(v, leaf) for k, v in structure}
    if isinstance(structure, FrozenList):
        return [rebuild(v, leaf) for v in structure]
    if type(structure) is tuple:
        if len(structure) == 2 and isinstance(structure[0], TypeOf):
            return _rebuild_class(structure[0].target, rebuild(structure[1], leaf))
        return tuple(rebuild(v, leaf) for v in structure)
    if isinstance(structure, slice):
        return slice(*(rebuild(v, leaf) for v in (structure.start, structure.stop, structure.step)))
    return leaf(structure)


def _rebuild_class(target: type, fields: dict[Any, Any]) -> Any:
    if not made_by_fields(target):
        made: Any = object.__new__(target)
        made.__dict__.update(fields)
        return made
    if issubclass(target, dict) and not dataclasses.is_dataclass(target):
        return target(fields)
    return target(**fields)


# No tensor is in a value of these classes.
_BARE = frozenset(
    {int, float, bool, str, bytes, complex, type(None), type(...), torch.Size}
    | {torch.dtype, torch.device, torch.layout, torch.memory_format}
)


def map_tensors(fn: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """``value`` with ``fn`` applied to each tensor; other objects stay as they are."""
    kind = type(value)
    if kind in _BARE:
        return value
    if isinstance(value, torch.Tensor):
        return fn(value)
    if kind is tuple:
        return tuple([map_tensors(fn, v) for v in value])
    if kind is list:
        return [map_tensors(fn, v) for v in value]
    if kind in _DICTS:
        return kind((k, map_tensors(fn, v)) for k, v in value.items())
    if kind is slice:
        return slice(*(map_tensors(fn, v) for v in (value.start, value.stop, value.step)))
    if isinstance(value, tuple):
        if is_named_tuple(value):
            return kind(*(map_tensors(fn, v) for v in value))
        return tuple(map_tensors(fn, v) for v in value)
    fields = fields_of(value)
    if fields is not None and tensors_in(value):
        return _rebuild_class(kind, {k: map_tensors(fn, v) for k, v in fields.items()})
    return value


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in ``value``, in order."""
    found: list[torch.Tensor] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[torch.Tensor]) -> None:
    if type(value) in _BARE:
        return
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, list | tuple):
        for part in value:
            _collect(part, found)
    elif isinstance(value, dict):
        for part in value.values():
            _collect(part, found)
    elif isinstance(value, slice):
        for part in (value.start, value.stop, value.step):
            _collect(part, found)
    else:
        for part in (fields_of(value) or {}).values():
            _collect(part, found)
