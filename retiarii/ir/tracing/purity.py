"""Whether code computes from its arguments alone: all else that it reads must never change.

A function may read modules, classes and functions of its file, and constants. Each of these is
*pinned*: the code is what it was as long as every name still means the same object. Code that
reads anything else (a list of the file, a settings object, the clock) is *open*.
"""

from __future__ import annotations

import builtins
import dis
import types
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

# Packages whose functions depend on their arguments, as far as a trace is concerned.
_TRUSTED = frozenset(
    {"torch", "math", "cmath", "builtins", "typing", "functools", "operator", "itertools"}
    | {"collections", "abc", "dataclasses", "numbers", "types", "copy", "contextlib", "warnings"}
)
_CONSTANTS = (
    *(type(None), type(...), type(NotImplemented), bool, int, float, complex, str, bytes),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
_BUILT_IN = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
)
_FORBIDDEN = frozenset({"eval", "exec", "globals", "locals", "open", "input", "compile"})
# With these, code could reach what it does not name.
_HIDDEN = frozenset(
    {"__globals__", "__builtins__", "__closure__", "__code__", "__subclasses__", "__init__"}
    | {"f_globals", "f_locals", "f_back", "__defaults__", "__kwdefaults__", "__init_subclass__"}
)
# What every class has, and what no forward reads.
_BESIDE = frozenset(
    {"__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__qualname__"}
    | {"__abstractmethods__", "_abc_impl", "__parameters__", "__orig_bases__", "__constants__"}
    | {"__match_args__", "__slots__", "__hash__"}
)
_NAMES = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})
_WRITES = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF", "DELETE_DEREF"})
_MISSING = object()


class OpenError(Exception):
    """Something that may be another thing the next time."""


@dataclass(frozen=True, slots=True)
class _Pin:
    """``names[name]`` is ``value``; with ``name`` None, there are ``value`` names."""

    names: Any
    name: str | None
    value: Any

    def holds(self) -> bool:
        if self.name is None:
            return bool(len(self.names) == self.value)
        if isinstance(self.names, types.CellType):
            return bool(self.names.cell_contents is self.value)
        return bool(self.names.get(self.name, _MISSING) is self.value)


@dataclass(slots=True, eq=False)
class Pins:
    """All that some code reads beside its arguments."""

    pins: list[_Pin] = field(default_factory=list)

    def hold(self) -> bool:
        """Whether it still means the same."""
        return all(pin.holds() for pin in self.pins)


class Purity:
    """Reads code, once for each class and function."""

    def __init__(self) -> None:
        # By identity; what it is of is kept, so that its number stays its own.
        self._known: dict[int, tuple[Any, Pins | None]] = {}

    def of(self, what: Any) -> Pins:
        """What the methods of a module's class read, but ``__init__``; or a function.

        Raises:
            OpenError: it reads what may change.
        """
        if id(what) not in self._known:
            reader = _Reader()
            try:
                reader.value(what)
            except OpenError:
                self._known[id(what)] = what, None
            else:
                self._known[id(what)] = what, Pins(reader.pins)
        found = self._known[id(what)][1]
        if found is None:
            raise OpenError
        return found

    def __len__(self) -> int:
        return len(self._known)


class _Reader:
    def __init__(self) -> None:
        self.pins: list[_Pin] = []
        self._seen: set[int] = set()

    def value(self, value: Any) -> None:
        """Something that code reads."""
        if isinstance(value, _CONSTANTS) or id(value) in self._seen:
            return
        if type(value) in (tuple, frozenset):
            for part in value:
                self.value(part)
            return
        self._seen.add(id(value))
        if isinstance(value, types.ModuleType):
            _check(_is_trusted(value.__name__))
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, _BUILT_IN):
            self._built_in(value)
        elif isinstance(value, staticmethod | classmethod):
            self.value(value.__func__)
        elif type(value) is property:
            self.value((value.fget, value.fset, value.fdel))
        elif isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
            pass
        else:
            raise OpenError

    def _class(self, what: type) -> None:
        for base in what.__mro__:
            if _is_trusted(base.__module__):
                continue
            self.pins.append(_Pin(vars(base), None, len(vars(base))))
            for name, value in list(vars(base).items()):
                if name in _BESIDE or (name == "__init__" and issubclass(base, nn.Module)):
                    continue
                self.pins.append(_Pin(vars(base), name, value))
                self.value(value)

    def _built_in(self, what: Any) -> None:
        owner = getattr(what, "__self__", None)
        if isinstance(owner, types.ModuleType):
            _check(_is_trusted(owner.__name__))
        elif isinstance(owner, type):
            _check(_is_trusted(owner.__module__))
        else:
            _check(owner is None)

    def _function(self, what: types.FunctionType) -> None:
        # Not its `__module__`: a wrapper takes that of what it wraps.
        if _is_trusted(str(what.__globals__.get("__name__"))):
            self._closure(what)
            return
        _check(not what.__dict__)
        self.pins.append(_Pin(what.__dict__, None, 0))
        self.value(what.__defaults__ or ())
        for name, value in (what.__kwdefaults__ or {}).items():
            self.pins.append(_Pin(what.__kwdefaults__, name, value))
            self.value(value)
        self._closure(what)
        self._code(what.__code__, what.__globals__)

    def _closure(self, what: types.FunctionType) -> None:
        for cell in what.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:
                raise OpenError from None
            self.pins.append(_Pin(cell, "", value))
            self.value(value)

    def _code(self, code: types.CodeType, names: dict[str, Any]) -> None:
        for instruction in dis.get_instructions(code):
            name = instruction.argval
            if instruction.opname in _NAMES:
                self._name(name, names)
            elif instruction.opname in _WRITES:
                raise OpenError
            elif instruction.opname == "IMPORT_NAME":
                _check(_is_trusted(name))
            elif isinstance(name, str) and name in _HIDDEN and "CONST" not in instruction.opname:
                raise OpenError
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant, names)

    def _name(self, name: str, names: dict[str, Any]) -> None:
        found = names.get(name, _MISSING)
        self.pins.append(_Pin(names, name, found))
        if found is not _MISSING:
            self.value(found)
        else:
            _check(hasattr(builtins, name) and name not in _FORBIDDEN)


def _is_trusted(module: str) -> bool:
    return module.partition(".")[0] in _TRUSTED


def _check(holds: bool) -> None:
    if not holds:
        raise OpenError
