"""How the operands of elementwise calls are brought to one rank, whatever forms they lie in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

from retiarii.ir.types import TensorType
from retiarii.optimizer.rules.base import Form, Fusion

_HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Aligned:
    """Operands that broadcast against each other as the members' own do.

    Attributes:
        operands: Python for each.
        inputs: the form in which each is asked for.
        result: the form of what is computed of them, once ``ending`` is applied.
        ending: a method call that brings the result into that form.
    """

    operands: tuple[str, ...]
    inputs: tuple[Form, ...]
    result: Form
    ending: str = ""


def aligned(fusion: Fusion, result: TensorType, channels: bool = True) -> Aligned:
    """Operands for an elementwise call.

    Args:
        fusion: the group; all its inputs broadcast.
        result: the type of a member's result.
        channels: whether the result may come as channels.
    """
    types = fusion.call.inputs
    rank = len(result.shape)
    stacked = [i for i, s in enumerate(fusion.shared) if not s]
    if not stacked:
        forms = (Form.MEMBERS,) * len(types)
        return Aligned(
            tuple(_after_member(i, t, rank) for i, t in enumerate(types)), forms, Form.MEMBERS
        )
    widest = max(stacked, key=lambda i: (len(types[i].shape), prod(types[i].shape)))
    whole = len(types[widest].shape) == rank and rank >= 2
    if channels and whole and fusion.forms[widest] is Form.CHANNELS:
        if _side_by_side(fusion, stacked, result):
            forms = tuple(Form.PLAIN if s else Form.CHANNELS for s in fusion.shared)
            return Aligned(_plain(types), forms, Form.CHANNELS)
        return _split(fusion, rank)
    return Aligned(
        tuple(
            f"${i}" if shared else _after_member(i, t, rank)
            for i, (t, shared) in enumerate(zip(types, fusion.shared, strict=True))
        ),
        tuple(Form.PLAIN if s else Form.MEMBERS for s in fusion.shared),
        Form.MEMBERS,
    )


def _plain(types: Sequence[TensorType]) -> tuple[str, ...]:
    return tuple(f"${i}" for i in range(len(types)))


def _after_member(i: int, operand: TensorType, rank: int) -> str:
    """``[G, *S]`` with ones after the member dimension: trailing dimensions are what broadcasts."""
    missing = rank - len(operand.shape)
    return f"${i}[:{', None' * missing}]" if missing > 0 else f"${i}"


def _side_by_side(fusion: Fusion, stacked: Sequence[int], result: TensorType) -> bool:
    """Whether members' channels can stay beside each other in one dimension."""
    rank = len(result.shape)
    for i, operand in enumerate(fusion.call.inputs):
        shape = operand.shape
        if i in stacked:
            if len(shape) != rank or shape[1] != result.shape[1]:
                return False
        elif len(shape) >= rank - 1 and shape[1 - rank] != 1:
            return False
    return True


def _split(fusion: Fusion, rank: int) -> Aligned:
    """All as views ``[S[0], G, S[1], ...]``: no operand is copied."""
    texts, forms = [], []
    for i, operand in enumerate(fusion.call.inputs):
        shape = operand.shape
        if fusion.shared[i]:
            texts.append(f"${i}.unsqueeze(1)" if len(shape) == rank else f"${i}")
            forms.append(Form.PLAIN)
        elif len(shape) == rank and fusion.forms[i] is Form.CHANNELS:
            texts.append(f"${i}.unflatten(1, ({fusion.size}, -1))")
            forms.append(Form.CHANNELS)
        elif len(shape) == rank:
            texts.append(f"${i}.transpose(0, 1)")
            forms.append(Form.MEMBERS)
        else:
            texts.append(_after_member(i, operand, rank - 1))
            forms.append(Form.MEMBERS)
    return Aligned(tuple(texts), tuple(forms), Form.CHANNELS, ".flatten(1, 2)")


def casts(fusion: Fusion, values: Sequence[int]) -> dict[int, torch.dtype] | None:
    """The dtypes to which operands are cast first, so that the result is of the right one.

    A member's 0-d tensor has a dimension in the stack, with which its dtype would count for more.

    Args:
        fusion: the group.
        values: the inputs whose dtypes decide.

    Returns:
        A dtype for some inputs, or ``None`` where a cast would not be exact.
    """
    types = [fusion.call.inputs[i] for i in values]
    scalars = [
        i for i, t in zip(values, types, strict=True) if not t.shape and not fusion.shared[i]
    ]
    if not scalars or len({t.dtype for t in types}) == 1:
        return {}
    if len(types) != 2:
        return None
    common = torch.result_type(*(t.meta() for t in types))
    rest = {t.dtype for i, t in zip(values, types, strict=True) if i not in scalars}
    if common in _HALVES or any(torch.promote_types(common, d) is not common for d in rest):
        return None
    return dict.fromkeys(scalars, common)
