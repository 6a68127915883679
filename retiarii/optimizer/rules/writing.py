"""Writing a member's call as Python, with other operands and changed attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from types import MappingProxyType
from typing import Any

from retiarii.ir.calls import arrange_call
from retiarii.ir.types import Attrs, FrozenList, Operand, Training, leaves, map_leaves
from retiarii.optimizer.rules.base import Call, Fusion, Lowering, Rule, literal

# Where a result is written makes no difference to its value, and stacks are not written to.
_LEFT_OUT = ("inplace", "_stacklevel")


@dataclass(frozen=True, slots=True)
class Code:
    """A piece of Python that stands in for a value."""

    text: str


class UnprintableError(Exception):
    """An attribute has no literal: the call cannot be written."""


def rules(table: Mapping[str, Rule]) -> Mapping[str, Rule]:
    """The rules, which now see resolved calls, and fuse nothing that cannot be written."""

    def guarded(rule: Rule) -> Rule:
        @wraps(rule)
        def guard(fusion: Fusion) -> Lowering | None:
            try:
                return rule(replace(fusion, call=resolved(fusion.call)))
            except UnprintableError:
                return None

        return guard

    return MappingProxyType({family: guarded(rule) for family, rule in table.items()})


def resolved(call: Call) -> Call:
    """The call as the row that its own is another way to write (``view`` is ``reshape``)."""
    while call.spec.alias is not None:
        found = call.spec.alias(call.attrs)
        if found is None:
            break
        op, attrs = found
        call = replace(call, op=op, attrs=_in_mode(attrs, call.training))
    return call


def _in_mode(attrs: Attrs, training: bool) -> Attrs:
    def decide(value: Any) -> Any:
        return training is not value.inverted if isinstance(value, Training) else value

    return Attrs({k: map_leaves(decide, v) for k, v in attrs.items()})


def argument(call: Call, name: str) -> Any:
    """An attribute, or its default where it is left out."""
    return call.attrs[name] if name in call.attrs else call.spec.defaults.get(name)


def mentioned(call: Call) -> frozenset[int]:
    """The inputs that stand in attributes."""
    return frozenset(
        v.index for a in call.attrs.values() for v in leaves(a) if isinstance(v, Operand)
    )


def ordered(call: Call) -> str:
    """An argument for kernels that draw in the order of memory."""
    return "" if call.order is None else f", order={literal(call.order)}"


def names(call: Call) -> dict[str, int]:
    """Which input each tensor argument of a function is; not for variadic ones."""
    given = mentioned(call)
    leading = [i for i in range(len(call.inputs)) if i not in given]
    found = dict(zip(call.spec.operands, leading, strict=False))
    for name, value in call.attrs.items():
        if isinstance(value, Operand):
            found[name] = value.index
    return found


def printed(value: Any) -> str:
    """Python for a value that may hold `Code`.

    Raises:
        UnprintableError: it has no literal.
    """
    if isinstance(value, Code):
        return value.text
    if isinstance(value, list | FrozenList):
        return f"[{', '.join(map(printed, value))}]"
    if type(value) is tuple:
        return f"({', '.join(map(printed, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, slice):
        return f"slice({', '.join(map(printed, (value.start, value.stop, value.step)))})"
    if isinstance(value, str) and "$" in value:
        raise UnprintableError("a text that would be taken for an input")
    try:
        return literal(value)
    except TypeError as error:
        raise UnprintableError(str(error)) from error


def written(
    call: Call,
    operands: Sequence[str],
    changes: Mapping[str, Any] | None = None,
    without: Sequence[str] = (),
) -> str:
    """The call of a function's row.

    Args:
        call: its op is a function.
        operands: what stands for its inputs.
        changes: attributes that have another value here.
        without: attributes that are left out.

    Raises:
        UnprintableError: an attribute has no literal.
    """
    spec = call.spec
    attrs = Attrs(
        {
            k: v
            for k, v in call.attrs.merged(changes or {}).items()
            if k not in _LEFT_OUT and k not in without
        }
    )
    positional, named = arrange_call(spec, attrs, [Code(o) for o in operands])
    arguments = [printed(v) for v in positional] + [f"{k}={printed(v)}" for k, v in named.items()]
    if spec.method is not None:
        return f"{arguments[0]}.{spec.method}({', '.join(arguments[1:])})"
    return f"{spec.call}({', '.join(arguments)})"
