"""The arguments of a call by their names: which are tensors, and what the others are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from retiarii.ir.ops import arrange_call
from retiarii.ir.types import Operand
from retiarii.optimizer.rules.base import Call, literal

# Attributes that say how a layer's parameters are made, and nothing of what it computes.
_PLACEMENT: Final = frozenset({"dtype", "device"})


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a call.

    Attributes:
        tensors: the number of the input that each tensor argument is; parameters and buffers of a
            layer are among them.
        values: all others, defaults filled in. Each has a literal.
    """

    tensors: Mapping[str, int]
    values: Mapping[str, Any]

    def placeholder(self, name: str) -> str:
        """How the text of a lowering names a tensor argument: ``$1``, or ``None`` without it."""
        return f"${self.tensors[name]}" if name in self.tensors else "None"

    def keywords(self, names: Collection[str], defaults: Mapping[str, Any]) -> str:
        """``", stride=2, padding=1"``: those of ``names`` that differ from their default."""
        return "".join(
            f", {name}={literal(self.values[name])}"
            for name in names
            if repr(self.values[name]) != repr(defaults.get(name, ...))
        )


def as_function(call: Call) -> Call:
    """The same call written as a function, where it is a layer that is nothing but one."""
    alias = call.spec.alias
    found = None if alias is None or call.state else alias(call.attrs)
    return call if found is None else replace(call, op=found[0], attrs=found[1])


def arguments(call: Call) -> Arguments | None:
    """The arguments of ``call``; ``None`` where one is unknown or cannot be printed."""
    spec = call.spec
    named = spec.forward if spec.kind == "module" else spec.signature
    operands = [Operand(i) for i in range(len(call.operands))]
    positional, given = arrange_call(spec, call.attrs, operands)
    if len(positional) > len(named):
        return None
    given = {**dict(zip(named, positional, strict=False)), **given}
    values = {**spec.defaults}
    if spec.kind == "module":
        values |= {k: v for k, v in call.attrs.items() if k not in spec.forward}
    values |= given
    tensors = {name: v.index for name, v in given.items() if isinstance(v, Operand)}
    if sorted(tensors.values()) != list(range(len(operands))):
        return None
    state = {name: len(operands) + i for i, name in enumerate(call.state)}
    values = {k: v for k, v in values.items() if k not in tensors and k not in state}
    known = {*spec.signature, *spec.forward, *_PLACEMENT}
    if not known.issuperset(values) or not all(map(_printable, values.values())):
        return None
    return Arguments(MappingProxyType(tensors | state), MappingProxyType(values))


def _printable(value: Any) -> bool:
    try:
        literal(value)
    except TypeError:
        return False
    return True
