"""Sizes that a model's Python reads off tensors, followed until Python acts on them.

A size that is read is a `Size`: an ``int`` that remembers of which tensor's dimension it is. What
Python computes of it remembers the same. Only where it is compared, converted, looked up, or given
to a torch call does the trace depend on it: a *use*. ``b, c, h, w = x.shape`` alone is none.
"""

from __future__ import annotations

import dis
import operator
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import torch

from retiarii.ir.types import Ref

# A dimension of a tensor.
Dim = tuple[Ref, int]


class Size(int):
    """A size that Python holds.

    Attributes:
        dims: the tensors' dimensions that it was computed of.
        log: is told when it is used.
    """

    dims: frozenset[Dim]
    log: SizeLog

    @staticmethod
    def of(value: int, dims: frozenset[Dim], log: SizeLog) -> Size:
        made = Size(value)
        made.dims, made.log = dims, log
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        return int, (operator.index(self),)

    def __copy__(self) -> int:
        return operator.index(self)

    def __deepcopy__(self, memo: Any) -> int:
        return operator.index(self)


def _computed(name: str) -> Callable[..., Any]:
    plain = getattr(int, name)

    def method(self: Size, *others: Any) -> Any:
        made = plain(self, *others)
        if made is NotImplemented:
            return made
        dims = self.dims.union(*(o.dims for o in others if type(o) is Size))
        if type(made) is tuple:  # divmod
            return tuple([Size.of(part, dims, self.log) for part in made])
        if type(made) is int:
            return Size.of(made, dims, self.log)
        self.log.use(dims)
        return made

    return method


def _used(name: str) -> Callable[..., Any]:
    plain = getattr(int, name)

    def method(self: Size, *others: Any) -> Any:
        self.log.use(self.dims.union(*(o.dims for o in others if type(o) is Size)))
        return plain(self, *others)

    return method


_ARITHMETIC = ("add", "sub", "mul", "floordiv", "mod", "divmod", "pow", "truediv")
_BITS = ("lshift", "rshift", "and", "or", "xor")
_SELF = ("neg", "pos", "abs", "invert")
_USED = ("eq", "ne", "lt", "le", "gt", "ge", "bool", "hash", "int", "float", "index", "format")
for _name in (*_ARITHMETIC, *_BITS):
    setattr(Size, f"__{_name}__", _computed(f"__{_name}__"))
    setattr(Size, f"__r{_name}__", _computed(f"__r{_name}__"))
for _name in _SELF:
    setattr(Size, f"__{_name}__", _computed(f"__{_name}__"))
for _name in (*_USED, "repr", "round", "trunc", "floor", "ceil"):
    setattr(Size, f"__{_name}__", _used(f"__{_name}__"))


@dataclass(frozen=True, slots=True)
class Note:
    """Sizes were read, or used."""

    dims: tuple[Dim, ...]
    used: bool
    where: str | None = None


@dataclass(eq=False)
class SizeLog:
    """What one run read and used.

    Attributes:
        code: tells which sizes of a shape the code picks.
        notes: what was read (with its line) and what was used, in order.
    """

    code: Code
    notes: list[Note] = field(default_factory=list)

    @property
    def read(self) -> dict[Dim, str | None]:
        """The dimensions whose size Python held -> the first line."""
        found: dict[Dim, str | None] = {}
        for note in self.notes:
            if not note.used:
                for dim in note.dims:
                    found.setdefault(dim, note.where)
        return found

    @property
    def used(self) -> set[Dim]:
        """Those on which what it did depends."""
        return {dim for note in self.notes if note.used for dim in note.dims}

    def use(self, dims: Iterable[Dim]) -> None:
        """Notes that the run depends on sizes."""
        self.notes.append(Note(tuple(dims), True))

    def shape(
        self, shape: torch.Size, ref: Ref, frame: FrameType, where: Callable[[], str | None]
    ) -> torch.Size:
        """A shape as Python may hold it.

        Args:
            shape: of the tensor.
            ref: the graph value that it holds.
            frame: of the code that reads it.
            where: finds the line.
        """
        dims = [(ref, dim) for dim in range(len(shape))]
        self.reads([dims[i] for i in self.code.picked(frame, len(shape))], where)
        return torch.Size(
            [Size.of(n, frozenset((dim,)), self) for n, dim in zip(shape, dims, strict=True)]
        )

    def reads(self, dims: Iterable[Dim], where: Callable[[], str | None]) -> None:
        """Notes that Python holds sizes, and where it got them."""
        self.notes.append(Note(tuple(dims), False, where()))

    def plain(self, value: Any, *, used: bool = True) -> Any:
        """``value`` with plain integers for sizes.

        Args:
            value: arguments of a call, say.
            used: whether that is a use.
        """
        return self._plain(value, used) if _holds_size(value) else value

    def _plain(self, value: Any, used: bool) -> Any:
        kind = type(value)
        if kind is Size:
            if used:
                self.use(value.dims)
            return operator.index(value)
        if kind is slice:
            parts = (value.start, value.stop, value.step)
            return slice(*(self._plain(part, used) for part in parts))
        if kind is dict:
            return {key: self._plain(part, used) for key, part in value.items()}
        if kind in (tuple, list, torch.Size):
            return kind([self._plain(part, used) for part in value])
        return value


def _holds_size(value: Any) -> bool:
    kind = type(value)
    if kind is Size:
        return True
    if kind in (tuple, list, torch.Size):
        return any(map(_holds_size, value))
    if kind is dict:
        return any(map(_holds_size, value.values()))
    if kind is slice:
        return any(map(_holds_size, (value.start, value.stop, value.step)))
    return False


class Code:
    """Reads in the bytecode which sizes of a shape are picked: ``x.shape[0]`` is but one of them.

    Where the code says something else, all of them are taken to be.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[CodeType, int], slice | tuple[int, ...] | None] = {}

    def picked(self, frame: FrameType, rank: int) -> Iterable[int]:
        """The dimensions that the code at hand holds on to.

        Args:
            frame: is about to get the shape.
            rank: of the tensor.
        """
        key = (frame.f_code, frame.f_lasti)
        if key not in self._known:
            self._known[key] = _picked(*key)
        found = self._known[key]
        if found is None:
            return range(rank)
        if isinstance(found, slice):
            return range(rank)[found]
        return [dim % rank for dim in found if -rank <= dim < rank]


# Only of this version is it known what the instructions do.
_KNOWN = sys.version_info[:2] == (3, 11)


def _picked(code: CodeType, offset: int) -> slice | tuple[int, ...] | None:
    """What of a sequence is kept, that the instruction at ``offset`` makes; ``None``: unknown."""
    if not _KNOWN:
        return None
    steps = list(dis.get_instructions(code))
    at = next((i for i, step in enumerate(steps) if step.offset == offset), len(steps))
    names = [step.opname for step in steps[at + 1 : at + 5]]
    values = [step.argval for step in steps[at + 1 : at + 5]]
    if names[:2] == ["LOAD_CONST", "BINARY_SUBSCR"] and type(values[0]) is int:
        return (values[0],)
    if names == ["LOAD_CONST", "LOAD_CONST", "BUILD_SLICE", "BINARY_SUBSCR"] and values[2] == 2:
        return slice(values[0], values[1])
    if names[:1] == ["UNPACK_SEQUENCE"]:
        targets = steps[at + 2 : at + 2 + int(values[0])]
        if all(step.opname == "STORE_FAST" for step in targets):
            loaded = {step.argval for step in steps if not step.opname.startswith("STORE")}
            return tuple(i for i, step in enumerate(targets) if step.argval in loaded)
    return None
