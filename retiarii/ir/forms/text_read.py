"""Reading a graph's text: a tokenizer and a recursive-descent reader; nothing is evaluated."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch

from retiarii.errors import GraphError
from retiarii.ir.types import (
    Attrs,
    BatchSize,
    ByMode,
    FrozenDict,
    FrozenList,
    InputDevice,
    Operand,
    Ref,
    Result,
    TensorType,
    Training,
    TypeOf,
)

_TOKENS = re.compile(
    r"""(?P<space>[ \t]+|\#[^\n]*)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<ref>%(?:[\w.@\-]+|"(?:[^"\\]|\\.)*")(?:\#\d+)?)
      | (?P<slot>\$\d+)
      | (?P<arrow>->|//|\.\.\.)
      | (?P<number>[+-]?(?:inf\b|nan\b|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?))
      | (?P<unprintable><[^>]*>)
      | (?P<name>[A-Za-z_]\w*(?:\.\w+)*)
      | (?P<mark>[()\[\]{},:=@*])
    """,
    re.VERBOSE,
)
_INTEGER = re.compile(r"[+-]?\d+\Z")

Slot = Callable[[int], Any]


class LineReader:
    """The tokens of one line of text.

    Args:
        text: the line.
        number: counted from one, for errors.
    """

    def __init__(self, text: str, number: int) -> None:
        self.text = text
        self.number = number
        self._tokens: list[tuple[str, str]] = []
        self._at = 0
        place = 0
        while place < len(text):
            match = _TOKENS.match(text, place)
            if match is None:
                self.fail(f"{text[place]!r} is not part of the language")
            if match.lastgroup != "space":
                self._tokens.append((str(match.lastgroup), match.group()))
            place = match.end()

    # --- tokens ------------------------------------------------------------------------------

    def fail(self, cause: str, fix: str | None = None) -> NoReturn:
        raise GraphError(
            cause,
            where=f"line {self.number}: {self.text.strip()[:120]}",
            fix=fix or "compare the line with what str(graph) prints",
        )

    @property
    def empty(self) -> bool:
        return self._at >= len(self._tokens)

    def peek(self) -> tuple[str, str]:
        return ("end", "") if self.empty else self._tokens[self._at]

    def take(self, text: str) -> bool:
        """Whether the next token is ``text``; it is read then."""
        if not self.empty and self._tokens[self._at][1] == text:
            self._at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.take(text):
            self.fail(f"expected {text!r}, found {self.peek()[1] or 'the end of the line'!r}")

    def next(self, kind: str, what: str) -> str:
        found, text = self.peek()
        if found != kind:
            self.fail(f"expected {what}, found {text or 'the end of the line'!r}")
        self._at += 1
        return text

    def end(self) -> None:
        if not self.empty:
            self.fail(f"{self.peek()[1]!r} is left over")

    # --- parts -------------------------------------------------------------------------------

    def name(self, what: str = "a name") -> str:
        return self.next("name", what)

    def string(self, what: str = "a quoted string") -> str:
        text = self.next("string", what)
        try:
            value = json.loads(text)
        except ValueError:
            self.fail(f"{text} is not a well-formed string")
        return str(value)

    def integer(self, what: str = "a whole number") -> int:
        text = self.next("number", what)
        if not _INTEGER.match(text):
            self.fail(f"expected {what}, found {text}")
        return int(text)

    def boolean(self) -> bool:
        text = self.name("True or False")
        if text not in ("True", "False"):
            self.fail(f"expected True or False, found {text!r}")
        return text == "True"

    def ref(self) -> Ref:
        text = self.next("ref", "a value such as %x")[1:]
        if text.startswith('"'):
            quoted, _, index = text.rpartition("#") if not text.endswith('"') else (text, "", "")
            try:
                name = str(json.loads(quoted))
            except ValueError:
                self.fail(f"{quoted} is not a well-formed string")
        else:
            name, _, index = text.partition("#")
        return Ref(name, int(index) if index else 0)

    def tensor_type(self) -> TensorType:
        """``float32[2, 3]``."""
        dtype = self._torch_value(self.name("a dtype"), (torch.dtype,))
        self.expect("[")
        return TensorType(tuple(self._listed("]", self.integer)), dtype)

    def call(self) -> tuple[tuple[Ref, ...], Attrs]:
        """``(%x, %y, dim=1)``."""
        self.expect("(")
        refs: list[Ref] = []
        attrs: dict[str, Any] = {}

        def argument() -> None:
            if self.peek()[0] == "ref":
                if attrs:
                    self.fail("an input stands behind an attribute")
                refs.append(self.ref())
                return
            key = self.string() if self.peek()[0] == "string" else self.name("an attribute")
            if key in attrs:
                self.fail(f"attribute {key!r} is given twice")
            self.expect("=")
            attrs[key] = self.value(Operand)

        self._listed(")", argument)
        return tuple(refs), Attrs(attrs)

    def value(self, slot: Slot = Result) -> Any:
        """A literal, a structure, or one of the language's own words.

        Args:
            slot: what ``$0`` means here: an operand, or a result.
        """
        kind, text = self.peek()
        if kind in ("mark", "name"):
            reader = _WORDS.get(text)
            if reader is not None:
                self._at += 1
                return reader(self, slot)
        if kind == "arrow" and text == "...":
            self._at += 1
            return ...
        if kind == "name" and text.startswith("torch."):
            self._at += 1
            kinds = (torch.dtype, torch.layout, torch.memory_format)
            return self._torch_value(text.removeprefix("torch."), kinds)
        if kind == "ref":
            return self.ref()
        if kind == "string":
            return self.string()
        if kind == "slot":
            self._at += 1
            return slot(int(text[1:]))
        if kind == "number":
            self._at += 1
            return int(text) if _INTEGER.match(text) else float(text)
        if kind == "unprintable":
            self.fail(
                f"{text} stands for a value that has no text form",
                "write a number, a string, a tuple or a dtype in its place",
            )
        return self.fail(f"expected a value, found {text or 'the end of the line'!r}")

    def _listed(self, closing: str, part: Callable[[], Any]) -> list[Any]:
        """Parts between commas up to ``closing``; a comma may stand behind the last."""
        parts: list[Any] = []
        while not self.take(closing):
            parts.append(part())
            if not self.take(","):
                self.expect(closing)
                break
        return parts

    def _torch_value(self, name: str, kinds: tuple[type, ...]) -> Any:
        value = getattr(torch, name, None) if name.isidentifier() else None
        if not isinstance(value, kinds):
            self.fail(f"{name!r} is not a {kinds[0].__name__} of torch")
        return value

    # --- words -------------------------------------------------------------------------------

    def _tuple(self, slot: Slot) -> Any:
        parts: list[Any] = []
        comma = False
        while not self.take(")"):
            parts.append(self.value(slot))
            comma = self.take(",")
            if not comma:
                self.expect(")")
                break
        return parts[0] if len(parts) == 1 and not comma else tuple(parts)

    def _list(self, slot: Slot) -> FrozenList:
        return FrozenList(self._listed("]", lambda: self.value(slot)))

    def _dict(self, slot: Slot) -> FrozenDict:
        def pair() -> tuple[Any, Any]:
            key = self.value(slot)
            self.expect(":")
            return key, self.value(slot)

        return FrozenDict(self._listed("}", pair))

    def _slice(self, slot: Slot) -> slice:
        self.expect("(")
        bounds = self._listed(")", lambda: self.value(slot))
        if len(bounds) != 3:
            self.fail("a slice has a start, a stop and a step")
        return slice(*bounds)

    def _complex(self, slot: Slot) -> complex:
        self.expect("(")
        parts = self._listed(")", lambda: self.value(slot))
        if len(parts) != 2 or not all(isinstance(p, int | float) for p in parts):
            self.fail("a complex number has a real and an imaginary part")
        return complex(*parts)

    def _bytes(self, _: Slot) -> bytes:
        self.expect("(")
        text = self.string("hex digits")
        self.expect(")")
        try:
            return bytes.fromhex(text)
        except ValueError:
            self.fail(f"{text!r} are no hex digits")

    def _batch(self, _: Slot) -> BatchSize:
        scale = self.integer() if self.take("*") else 1
        divisor = self.integer() if self.take("//") else 1
        offset = self.integer() if self.peek()[0] == "number" else 0
        if divisor == 0:
            self.fail("the batch is divided by zero")
        return BatchSize(scale, divisor, offset)

    def _by_mode(self, slot: Slot) -> ByMode:
        self.expect("(")
        parts = self._listed(")", lambda: self.value(slot))
        if len(parts) != 2:
            self.fail("by_mode has a value for training and one for evaluation")
        return ByMode(*parts)

    def _not(self, _: Slot) -> Training:
        self.expect("training")
        return Training(inverted=True)

    def _device(self, _: Slot) -> torch.device:
        self.expect("(")
        text = self.string("a device's name")
        self.expect(")")
        try:
            return torch.device(text)
        except RuntimeError:
            self.fail(f"{text!r} is not a device")

    def _type_of(self, _: Slot) -> TypeOf:
        """A class, from a module that the process has imported already: never an import."""
        self.expect("(")
        module, _colon, qualname = self.string("a class").partition(":")
        self.expect(")")
        target: Any = sys.modules.get(module)
        for part in qualname.split("."):
            target = getattr(target, part, None)
        if not isinstance(target, type):
            self.fail(
                f"class {qualname!r} of module {module!r} is not loaded",
                f"import {module} before reading the text (reading imports nothing)",
            )
        return TypeOf(target)


_WORDS: Mapping[str, Callable[[LineReader, Slot], Any]] = {
    "(": LineReader._tuple,
    "[": LineReader._list,
    "{": LineReader._dict,
    "None": lambda _reader, _slot: None,
    "True": lambda _reader, _slot: True,
    "False": lambda _reader, _slot: False,
    "inf": lambda _reader, _slot: float("inf"),
    "nan": lambda _reader, _slot: float("nan"),
    "slice": LineReader._slice,
    "complex": LineReader._complex,
    "bytes": LineReader._bytes,
    "batch": LineReader._batch,
    "by_mode": LineReader._by_mode,
    "training": lambda _reader, _slot: Training(),
    "not": LineReader._not,
    "input_device": lambda _reader, _slot: InputDevice(),
    "device": LineReader._device,
    "type": LineReader._type_of,
}
