"""Tensors made in the likeness of another, of which they read shape and dtype only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from retiarii.ir.types import Operand, leaves
from retiarii.optimizer.rules.base import Form, Fusion, Lowering, Rule
from retiarii.optimizer.rules.dims import members
from retiarii.optimizer.rules.writing import argument, rules, written

_SIZED: Final = frozenset({"new_zeros", "new_ones", "new_full"})


def like(fusion: Fusion) -> Lowering | None:
    """``zeros_like(x)``, ``x.new_full(size, value)`` and their kin."""
    call = fusion.call
    if len(call.inputs) != 1 or argument(call, "requires_grad"):
        return None
    if any(isinstance(v, Operand) for a in call.attrs.values() for v in leaves(a)):
        return None
    # Memory formats are of a member's tensor; the stack keeps its own.
    without = ("memory_format",)
    if call.op not in _SIZED:
        form = Form.MEMBERS if fusion.shared[0] else fusion.forms[0]
        return Lowering(written(call, ["$0"], without=without), (form,), (form,))
    size = argument(call, "size")
    size = size if isinstance(size, tuple) else (size,)
    text = written(call, ["$0"], {"size": (fusion.size, *size)}, without=without)
    return members(fusion, text, [0])


RULES: Final[Mapping[str, Rule]] = rules({"like": like})
