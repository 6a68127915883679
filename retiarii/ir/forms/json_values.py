"""Attribute values and structures as JSON: plain where JSON has them, else an object of one key.

(3, 3)  ->  [3, 3]          slice(1, None)  ->  {"slice": [1, null, null]}
3.0     ->  3.0             torch.float32   ->  {"dtype": "float32"}
batch*2 ->  {"batch": {"scale": 2}}
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NoReturn

import torch

from retiarii.errors import GraphError
from retiarii.ir.types import (
    BatchSize,
    ByMode,
    FrozenDict,
    FrozenList,
    InputDevice,
    Operand,
    Result,
    Training,
    TypeOf,
)


def fail(cause: str, place: str, fix: str = "see docs/ir.md for the JSON form") -> NoReturn:
    """Raises the error of a place in the JSON text (``$.nodes[3].attrs.dim``)."""
    raise GraphError(cause, where=place, fix=fix)


# --- writing -----------------------------------------------------------------------------------


def write_value(value: Any) -> Any:
    """A value as what ``json.dumps`` takes.

    What has no JSON form becomes ``{"unprintable": text}``, which the reader refuses by name.
    """
    writer = _WRITERS.get(type(value))
    if writer is None:
        return {"unprintable": repr(value)}
    return writer(value)


def _plain(value: Any) -> Any:
    return value


def _float(value: float) -> Any:
    return value if math.isfinite(value) else {"float": repr(value)}


def _many(values: Any) -> list[Any]:
    return [write_value(v) for v in values]


def _batch(value: BatchSize) -> dict[str, Any]:
    fields = {"scale": value.scale, "divisor": value.divisor, "offset": value.offset}
    usual = {"scale": 1, "divisor": 1, "offset": 0}
    return {"batch": {k: v for k, v in fields.items() if v != usual[k]}}


def _named(tag: str) -> Callable[[Any], dict[str, str]]:
    return lambda value: {tag: str(value).removeprefix("torch.")}


_WRITERS: Final[Mapping[type, Callable[[Any], Any]]] = MappingProxyType(
    {
        type(None): _plain,
        bool: _plain,
        int: _plain,
        float: _float,
        str: _plain,
        tuple: _many,
        FrozenList: lambda v: {"list": _many(v)},
        FrozenDict: lambda v: {"dict": [_many(pair) for pair in v]},
        slice: lambda s: {"slice": _many((s.start, s.stop, s.step))},
        type(...): lambda _: {"ellipsis": True},
        complex: lambda c: {"complex": [_float(c.real), _float(c.imag)]},
        bytes: lambda b: {"bytes": b.hex()},
        Operand: lambda o: {"operand": o.index},
        Result: lambda r: {"result": r.index},
        BatchSize: _batch,
        Training: lambda t: {"training": not t.inverted},
        ByMode: lambda m: {"by_mode": _many((m.training, m.evaluating))},
        InputDevice: lambda _: {"input_device": True},
        TypeOf: lambda t: {"class": f"{t.target.__module__}:{t.target.__qualname__}"},
        torch.dtype: _named("dtype"),
        torch.layout: _named("layout"),
        torch.memory_format: _named("memory_format"),
        torch.device: lambda d: {"device": str(d)},
    }
)


# --- reading -----------------------------------------------------------------------------------


def read_value(value: Any, place: str) -> Any:
    """The value that `write_value` wrote.

    Args:
        value: what JSON gave.
        place: where it stands, for errors.

    Raises:
        GraphError: it is not of the form; ``where`` is its place.
    """
    if isinstance(value, list):
        return tuple(read_value(v, f"{place}[{i}]") for i, v in enumerate(value))
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        fail(
            f"an object of {len(value)} keys is no value",
            place,
            'a dict is written {"dict": [[key, value], ...]}',
        )
    ((tag, inner),) = value.items()
    reader = _READERS.get(tag)
    if reader is None:
        fail(f"{tag!r} is no kind of value", place, f"there are {', '.join(_READERS)}")
    return reader(inner, f"{place}.{tag}")


def _typed(value: Any, kind: type, what: str, place: str) -> Any:
    if type(value) is not kind:
        fail(f"expected {what}, found {value!r}", place)
    return value


def _read_list(value: Any, place: str) -> FrozenList:
    return FrozenList(read_value(_typed(value, list, "an array", place), place))


def _read_dict(value: Any, place: str) -> FrozenDict:
    pairs = read_value(_typed(value, list, "an array", place), place)
    for i, pair in enumerate(pairs):
        if type(pair) is not tuple or len(pair) != 2:
            fail("a dict is an array of [key, value] pairs", f"{place}[{i}]")
    return FrozenDict(pairs)


def _read_slice(value: Any, place: str) -> slice:
    parts = read_value(_typed(value, list, "an array", place), place)
    if len(parts) != 3:
        fail("a slice has a start, a stop and a step", place)
    return slice(*parts)


def _read_complex(value: Any, place: str) -> complex:
    parts = read_value(_typed(value, list, "an array", place), place)
    if len(parts) != 2 or not all(type(p) in (int, float) for p in parts):
        fail("a complex number has a real and an imaginary part", place)
    return complex(*parts)


def _read_float(value: Any, place: str) -> float:
    if value not in ("inf", "-inf", "nan"):
        fail(f"{value!r} is not inf, -inf or nan", place, "write other numbers as they are")
    return float(value)


def _read_bytes(value: Any, place: str) -> bytes:
    try:
        return bytes.fromhex(_typed(value, str, "hex digits", place))
    except ValueError:
        fail(f"{value!r} are no hex digits", place)


def _read_index(kind: type) -> Callable[[Any, str], Any]:
    def read(value: Any, place: str) -> Any:
        if _typed(value, int, "a whole number", place) < 0:
            fail(f"{value} is negative", place)
        return kind(value)

    return read


def _read_batch(value: Any, place: str) -> BatchSize:
    for name, number in _typed(value, dict, "an object", place).items():
        if name not in ("scale", "divisor", "offset"):
            fail(f"a batch size has no {name!r}", place, "it has scale, divisor and offset")
        _typed(number, int, "a whole number", f"{place}.{name}")
    if value.get("divisor", 1) == 0:
        fail("the batch is divided by zero", f"{place}.divisor")
    return BatchSize(**value)


def _read_true(made: Any) -> Callable[[Any, str], Any]:
    def read(value: Any, place: str) -> Any:
        if value is not True:
            fail(f"expected true, found {value!r}", place)
        return made

    return read


def _read_training(value: Any, place: str) -> Training:
    return Training(inverted=not _typed(value, bool, "true or false", place))


def _read_by_mode(value: Any, place: str) -> ByMode:
    parts = read_value(_typed(value, list, "an array", place), place)
    if len(parts) != 2:
        fail("by_mode has a value for training and one for evaluation", place)
    return ByMode(*parts)


def _read_torch(kind: type) -> Callable[[Any, str], Any]:
    def read(value: Any, place: str) -> Any:
        found = getattr(torch, _typed(value, str, "a name", place), None)
        if not isinstance(found, kind):
            fail(f"{value!r} is not a {kind.__name__} of torch", place)
        return found

    return read


def _read_device(value: Any, place: str) -> torch.device:
    try:
        return torch.device(_typed(value, str, "a device's name", place))
    except RuntimeError:
        fail(f"{value!r} is not a device", place)


def _read_class(value: Any, place: str) -> TypeOf:
    """A class, from a module that the process has imported already: never an import."""
    module, _colon, qualname = _typed(value, str, "module:class", place).partition(":")
    target: Any = sys.modules.get(module)
    for part in qualname.split("."):
        target = getattr(target, part, None)
    if not isinstance(target, type):
        fail(
            f"class {qualname!r} of module {module!r} is not loaded",
            place,
            f"import {module} before reading the JSON (reading imports nothing)",
        )
    return TypeOf(target)


def _refuse(value: Any, place: str) -> NoReturn:
    fail(
        f"{value} stands for a value that has no JSON form",
        place,
        "write a number, a string, an array or a dtype in its place",
    )


_READERS: Final[Mapping[str, Callable[[Any, str], Any]]] = MappingProxyType(
    {
        "list": _read_list,
        "dict": _read_dict,
        "slice": _read_slice,
        "ellipsis": _read_true(...),
        "complex": _read_complex,
        "float": _read_float,
        "bytes": _read_bytes,
        "operand": _read_index(Operand),
        "result": _read_index(Result),
        "batch": _read_batch,
        "training": _read_training,
        "by_mode": _read_by_mode,
        "input_device": _read_true(InputDevice()),
        "class": _read_class,
        "dtype": _read_torch(torch.dtype),
        "layout": _read_torch(torch.layout),
        "memory_format": _read_torch(torch.memory_format),
        "device": _read_device,
        "unprintable": _refuse,
    }
)
