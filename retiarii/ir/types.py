"""The values that nodes are made of: tensor types, references, and what may stand in attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch


class Ref(NamedTuple):
    """One result of a node: the node's name and which of its results."""

    node: str
    index: int = 0  # type: ignore[assignment]  # hides tuple.index, which nobody needs


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape (at the example batch size) and dtype of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}[{', '.join(map(str, self.shape))}]"

    def meta(self) -> torch.Tensor:
        """A tensor of this type without storage."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")

    @staticmethod
    def of(tensor: torch.Tensor) -> TensorType:
        return TensorType(tuple(tensor.shape), tensor.dtype)


@dataclass(frozen=True, slots=True)
class Operand:
    """Stands in an attribute for the node's ``inputs[index]``."""

    index: int


@dataclass(frozen=True, slots=True)
class Result:
    """Stands in a node's result structure, or in a graph's outputs, for tensor number ``index``."""

    index: int


@dataclass(frozen=True, slots=True)
class BatchSize:
    """Stands in an attribute for ``scale * batch + offset``, the batch being the run's own.

    ``divisor`` serves code such as ``x.shape[0] // 2``: ``scale * batch // divisor + offset``.
    """

    scale: int = 1
    divisor: int = 1
    offset: int = 0

    def at(self, batch: int) -> int:
        return self.scale * batch // self.divisor + self.offset


@dataclass(frozen=True, slots=True)
class Training:
    """Stands in an attribute for the model's training flag (negated where ``inverted``)."""

    inverted: bool = False


@dataclass(frozen=True, slots=True)
class ByMode:
    """Stands for one of two values: which one, the model's training flag tells.

    In an attribute, constants; in what a forward returns, structures with ``Result`` inside.
    """

    training: Any
    evaluating: Any


@dataclass(frozen=True, slots=True)
class InputDevice:
    """Stands in an attribute for the device of the graph's first input."""


@dataclass(frozen=True, slots=True)
class TypeOf:
    """Stands in an attribute for a class that rebuilds a structure (a named tuple, a dataclass)."""

    target: type


class Attrs(Mapping[str, Any]):
    """An immutable, hashable mapping of attributes; lists inside have become tuples."""

    __slots__ = ("_hash", "_items", "_key")

    def __init__(self, items: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        merged = {**(items or {}), **more}
        self._items: dict[str, Any] = {k: freeze(v) for k, v in merged.items()}
        self._key: str | None = None
        self._hash = 0

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def key(self) -> str:
        """The attributes as text, in the order of their names; equal for equal attributes."""
        if self._key is None:
            # As text, since True == 1 == 1.0, which differ here.
            self._key = repr(sorted(self._items.items()))
            self._hash = hash(self._key)
        return self._key

    def __hash__(self) -> int:
        if self._key is None:
            self.key  # noqa: B018
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Attrs):
            return NotImplemented
        return self.key == other.key

    def __repr__(self) -> str:
        return f"Attrs({self._items!r})"

    def merged(self, changes: Mapping[str, Any]) -> Attrs:
        return Attrs({**self._items, **changes})


class FrozenDict(tuple[Any, ...]):
    """A dict inside an attribute or a result structure: a tuple of (key, value) pairs."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"FrozenDict({tuple.__repr__(self)})"


class FrozenList(tuple[Any, ...]):
    """A list inside a structure, where telling it from a tuple matters (a forward's outputs)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"FrozenList({tuple.__repr__(self)})"


def freeze(value: Any) -> Any:
    """``value`` with lists and dicts in it made immutable; ``torch.Size`` becomes a tuple."""
    if isinstance(value, FrozenDict | FrozenList):
        return type(value)(freeze(v) for v in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return value
    if isinstance(value, list | tuple):
        return tuple(freeze(v) for v in value)
    if isinstance(value, dict):
        return FrozenDict((k, freeze(v)) for k, v in value.items())
    return value


_PLAIN: Final = frozenset({int, bool, float, str, type(None)})


def map_leaves(fn: Callable[[Any], Any], value: Any) -> Any:
    """``value`` with ``fn`` applied to each leaf.

    Tuples, frozen dicts, slices and `ByMode` are entered.
    """
    if type(value) in _PLAIN:
        return fn(value)  # most are; they need no look at the rest
    if isinstance(value, FrozenDict):
        return FrozenDict((k, map_leaves(fn, v)) for k, v in value)
    if isinstance(value, FrozenList):
        return FrozenList(map_leaves(fn, v) for v in value)
    if type(value) is tuple:
        return tuple(map_leaves(fn, v) for v in value)
    if isinstance(value, slice):
        return slice(
            map_leaves(fn, value.start), map_leaves(fn, value.stop), map_leaves(fn, value.step)
        )
    if isinstance(value, ByMode):
        return ByMode(map_leaves(fn, value.training), map_leaves(fn, value.evaluating))
    return fn(value)


def leaves(value: Any) -> Iterator[Any]:
    """The leaves that :func:`map_leaves` would visit, in order."""
    found: list[Any] = []
    map_leaves(found.append, value)
    return iter(found)
