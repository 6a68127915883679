"""Python expressions for what stands in attributes and structures, and the names they use."""

from __future__ import annotations

import builtins
import dataclasses
import keyword
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from retiarii.ir.forms.text_print import print_batch
from retiarii.ir.types import (
    BatchSize,
    ByMode,
    FrozenDict,
    FrozenList,
    InputDevice,
    Training,
    TypeOf,
)

_NOT_WORD = re.compile(r"\W+")
_RESERVED = frozenset({*keyword.kwlist, *keyword.softkwlist, *dir(builtins), "self", "nn", "math"})
_WITH_ATTRIBUTES = '''
def with_attributes(made, attributes):
    """The object, with these attributes."""
    made.__dict__.update(attributes)
    return made
'''
# Names that the generated code may need from outside, and the line that brings them.
_IMPORTS: Mapping[str, str] = {
    "torch": "import torch",
    "F": "from torch.nn import functional as F",
    "operator": "import operator",
}


class Names:
    """Names for the variables of one function: readable, unique, shadowing nothing."""

    def __init__(self, parameters: Iterable[str]) -> None:
        self._taken = {*_RESERVED, *parameters}
        self._numbers: dict[str, int] = {}
        # A parameter may be called like a module that the code needs.
        self.modules = {name: self.new(name) for name in _IMPORTS}

    def new(self, wanted: str, fallback: str = "value") -> str:
        """A name like ``wanted`` that nothing has yet."""
        name = _NOT_WORD.sub("_", wanted).strip("_")
        if not name or not name[0].isalpha():
            prefix = _NOT_WORD.sub("_", fallback).strip("_").lower() or "value"
            name = f"{prefix}_{name}" if name else prefix
        base = name
        while name in self._taken:
            number = self._numbers[base] = self._numbers.get(base, 0) + 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name


class Expressions:
    """Writes values as Python, and keeps what they need to be imported.

    Args:
        names: of the function that the expressions stand in.
        leaf: what `Ref`, `Operand` and `Result` are written as; ``None`` for other values.
    """

    def __init__(self, names: Names, leaf: Callable[[Any], str | None]) -> None:
        self._names = names
        self._leaf = leaf
        self._used: set[str] = set()
        self.classes: dict[str, type] = {}
        self.helpers: dict[str, str] = {}
        self.batch = ""
        self.device = ""
        self._leaves: Mapping[type, Callable[[Any], str]] = {
            BatchSize: lambda v: print_batch(v, self.batch, " * ", " // "),
            ByMode: lambda v: (
                f"({self.value(v.training)} if self.training else {self.value(v.evaluating)})"
            ),
            Training: lambda v: "not self.training" if v.inverted else "self.training",
            InputDevice: lambda _: self.device,
            TypeOf: lambda v: self.class_name(v.target),
            float: _float,
            str: _string,
            type(...): lambda _: "...",
            slice: self._slice,
            torch.dtype: self._of_torch,
            torch.layout: self._of_torch,
            torch.memory_format: self._of_torch,
            torch.device: lambda v: f"{self.library('torch')}.device({_string(str(v))})",
        }

    @property
    def imports(self) -> list[str]:
        """The lines that bring what the expressions use."""
        lines = []
        for name in sorted(self._used):
            alias = self._names.modules[name]
            line = _IMPORTS[name]
            if alias != name:
                line = (
                    f"{line} as {alias}" if name == "torch" else line.replace("as F", f"as {alias}")
                )
            lines.append(line)
        return lines

    def library(self, dotted: str) -> str:
        """``torch.cat`` or ``F.relu`` as this code may say it."""
        head, dot, rest = dotted.partition(".")
        if head not in _IMPORTS:
            return dotted
        self._used.add(head)
        return f"{self._names.modules[head]}{dot}{rest}"

    def class_name(self, target: type) -> str:
        """The name of a class; `classes` has it."""
        for name, known in self.classes.items():
            if known is target:
                return name
        name = self._names.new(target.__name__)
        self.classes[name] = target
        return name

    def value(self, value: Any) -> str:
        """A value as an expression."""
        placed = self._leaf(value)
        if placed is not None:
            return placed
        if isinstance(value, FrozenDict | dict):
            pairs = value.items() if isinstance(value, dict) else value
            return "{" + ", ".join(f"{self.value(k)}: {self.value(v)}" for k, v in pairs) + "}"
        if isinstance(value, FrozenList | list):
            return "[" + ", ".join(map(self.value, value)) + "]"
        if type(value) is tuple:
            if len(value) == 2 and isinstance(value[0], TypeOf):
                kind, fields = value
                if isinstance(fields, ByMode):  # an object has other fields in training
                    sides = ((kind, fields.training), (kind, fields.evaluating))
                    return self.value(ByMode(*sides))
                return self._made(kind.target, fields)
            return f"({', '.join(map(self.value, value))}{',' if len(value) == 1 else ''})"
        write = self._leaves.get(type(value))
        return write(value) if write is not None else repr(value)

    def index(self, value: Any) -> str:
        """What stands in square brackets: ``:, 1``."""
        if type(value) is tuple and value:
            parts = [self._in_brackets(v) for v in value]
            return ", ".join(parts) + ("," if len(parts) == 1 else "")
        return self._in_brackets(value)

    def _in_brackets(self, value: Any) -> str:
        if not isinstance(value, slice):
            return self.value(value)
        start, stop, step = (
            "" if v is None else self.value(v) for v in (value.start, value.stop, value.step)
        )
        return f"{start}:{stop}" + (f":{step}" if step else "")

    def _slice(self, value: slice) -> str:
        return f"slice({', '.join(map(self.value, (value.start, value.stop, value.step)))})"

    def _of_torch(self, value: Any) -> str:
        return self.library(str(value))

    def _made(self, target: type, fields: FrozenDict) -> str:
        """A named tuple, a dataclass, a dict of a class of its own, or any object."""
        if not made_by_fields(target):
            self.helpers["with_attributes"] = _WITH_ATTRIBUTES
            name = self.class_name(target)
            return f"with_attributes({name}.__new__({name}), {self.value(fields)})"
        by_name = dataclasses.is_dataclass(target) or not issubclass(target, Mapping)
        if by_name and all(isinstance(k, str) and k.isidentifier() for k, _ in fields):
            arguments = ", ".join(f"{k}={self.value(v)}" for k, v in fields)
        else:
            arguments = self.value(fields)
        return f"{self.class_name(target)}({arguments})"


def made_by_fields(kind: type) -> bool:
    """Whether a structure's class takes its fields as arguments; else they are its attributes."""
    return issubclass(kind, tuple | Mapping) or dataclasses.is_dataclass(kind)


def _float(value: float) -> str:
    return repr(value) if math.isfinite(value) else f'float("{value!r}")'


def _string(value: str) -> str:
    text = repr(value)
    return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text else text
