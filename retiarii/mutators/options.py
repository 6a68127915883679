"""Options that have no names of their own: a number stands for each, and shows what it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from retiarii.errors import RetiariiError
from retiarii.ir.ops import module_attrs, module_op, op_spec
from retiarii.mutators.choice import Numbered

# Longer names are cut: they stand in tables.
_LONGEST = 48


def numbered(layers: Iterable[nn.Module]) -> tuple[Numbered, ...]:
    """A number for each layer, in order; layers that look alike get their number into the name."""
    names = [_cut(short_name(layer)) for layer in layers]
    return tuple(
        Numbered.of(i, f"{name} #{i}" if names.count(name) > 1 else name)
        for i, name in enumerate(names)
    )


def short_name(layer: nn.Module) -> str:
    """A layer as one would write it, without what is as it is by default."""
    kind = type(layer)
    if type(layer) is nn.Sequential:
        return f"Sequential({', '.join(short_name(child) for child in layer)})"
    op = module_op(kind)
    try:
        attrs = module_attrs(layer) if op is not None else {}
    except (RetiariiError, AttributeError):
        attrs = {}
    defaults = op_spec(op).defaults if op is not None else {}
    parts = [
        _plain(value) if name not in defaults else f"{name}={_plain(value)}"
        for name, value in attrs.items()
        if name not in defaults or _plain(value) != _plain(defaults[name])
    ]
    return f"{kind.__name__}({', '.join(parts)})" if op is not None else kind.__name__


def _plain(value: Any) -> str:
    """A value; the same number for all dimensions once."""
    alike = isinstance(value, tuple) and value and len(set(value)) == 1
    return str(value[0] if alike else value)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."
