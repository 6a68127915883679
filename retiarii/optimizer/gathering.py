"""Elementwise groups whose members lie in pieces: gathered and computed in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from types import MappingProxyType
from typing import Final

from retiarii.optimizer.rules.base import Call, literal

# Writes the call from (dimension, the pieces of each operand as a tuple's text, the call).
Writer = Callable[[int, Sequence[str], Call], str | None]


def _relu(dim: int, operands: Sequence[str], call: Call) -> str | None:
    if set(call.attrs) - {"inplace"}:
        return None
    return f"kernels.gathered_relu({dim}, {operands[0]})"


def _scale(dim: int, operands: Sequence[str], call: Call) -> str | None:
    factor = call.attrs.get("other")
    if len(operands) != 1 or set(call.attrs) != {"other"} or type(factor) not in (int, float):
        return None
    return f"kernels.gathered_scale({dim}, {operands[0]}, {literal(factor)})"


_WRITERS: Final[Mapping[str, Writer]] = MappingProxyType({"relu": _relu, "mul": _scale})


def gathered_sum(dim: int, addends: Sequence[tuple[int, int, str]]) -> str:
    """Code for the sum of pieces that each lie somewhere in it.

    Args:
        dim: along which members are stacked.
        addends: (first member, last + 1, expression) of each, in the order of addition.
    """
    places = {(a, b) for a, b, _ in addends}
    if len(places) == 1:
        return reduce(lambda sum_, text: f"torch.add({sum_}, {text})", [t for _, _, t in addends])
    bounds = ", ".join(f"({a}, {b})" for a, b, _ in addends)
    return f"kernels.gathered_sum({dim}, ({bounds},), ({', '.join(t for _, _, t in addends)},))"


def gathered_call(dim: int, operands: Sequence[Sequence[str]], call: Call) -> str | None:
    """Code that gathers and computes at once, or ``None`` where there is none for the call.

    Args:
        dim: along which members are stacked.
        operands: for each input, the expressions of its pieces.
        call: what each member computes.
    """
    writer = _WRITERS.get(call.op)
    if writer is None or not call.results[0].dtype.is_floating_point:
        return None
    if any(t.dtype != call.results[0].dtype for t in call.inputs):
        return None
    return writer(dim, [f"({', '.join(o)}{',' * (len(o) == 1)})" for o in operands], call)
