"""What stands for a function, a loss or data in the identity of a search: small JSON values."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from retiarii.mutators.choice import Description, show


def jsonable(value: Any) -> Any:
    """``value`` as JSON that is the same in every process: no addresses, no order of hashing."""
    if value is None or isinstance(value, bool | int | float | str):
        # NumPy's float64 is a float; JSON needs the plain one.
        return float(value) if isinstance(value, float) else value
    if isinstance(value, Description):
        return f"{value!r}" + (f" label={value.label!r}" if value.label else "")
    if is_dataclass(value) and not isinstance(value, type):
        inner = {f.name: jsonable(getattr(value, f.name)) for f in fields(value)}
        return {"kind": type(value).__name__, **inner}
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in sorted(value.items(), key=lambda kv: str(kv[0]))}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return show(value)


def digest(*parts: bytes) -> str:
    """A short checksum of bytes."""
    hashed = hashlib.blake2b(digest_size=8)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return hashed.hexdigest()


def identity(value: Any) -> str:
    """A checksum of any value that :func:`jsonable` takes."""
    return digest(json.dumps(jsonable(value), sort_keys=True).encode())


def describe_callable(fn: Callable[..., Any]) -> dict[str, Any]:
    """A function by its name and its code's text, comments and layout aside."""
    if isinstance(fn, functools.partial):
        inner = describe_callable(fn.func)
        return {**inner, "args": jsonable(fn.args), "keywords": jsonable(fn.keywords)}
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    found: dict[str, Any] = {"name": getattr(named, "__qualname__", str(named))}
    text = _source(named)
    if text is not None:
        found["code"] = digest(text.encode())
    if named is not fn:
        found["fields"] = _simple_fields(fn)
    return found


def _source(named: Any) -> str | None:
    try:
        return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(named))))
    except (OSError, TypeError, SyntaxError):
        # Built in, typed at a prompt, or a lambda inside of an expression: the name must do.
        return None


def _simple_fields(thing: Any) -> dict[str, Any]:
    found = getattr(thing, "__dict__", {})
    simple = (bool, int, float, str, tuple, type(None))
    return {
        k: jsonable(v)
        for k, v in sorted(found.items())
        if not k.startswith("_") and isinstance(v, simple)
    }


def describe_loss(loss: Any) -> dict[str, Any]:
    """A loss by its class, settings and tensors (class weights), or as a function."""
    state = getattr(loss, "state_dict", None)
    if not callable(state):
        return describe_callable(loss)
    tensors = state()
    return {
        "name": type(loss).__qualname__,
        "fields": _simple_fields(loss),
        "tensors": {k: digest(*tensor_bytes(v)) for k, v in sorted(tensors.items())},
    }


def tensor_bytes(tensor: Any) -> tuple[bytes, bytes]:
    """A tensor's type and its content as bytes."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return f"{tensor.dtype}{tuple(tensor.shape)}".encode(), flat.numpy().tobytes()
