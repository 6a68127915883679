"""Fully connected and bilinear layers: batched products, or one wide product of a shared input."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from retiarii.optimizer.rules.arguments import arguments
from retiarii.optimizer.rules.base import Fusion, Lowering, Rule
from retiarii.optimizer.rules.stacking import (
    CHANNELS,
    MEMBERS,
    PLAIN,
    one_float,
    own_or_plain,
)


def linear(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    given = arguments(call)
    if given is None or not one_float(call):
        return None
    at = given.tensors
    x, w = at["input"], at["weight"]
    b = at.get("bias")
    rank = len(call.inputs[x].shape)
    weight = call.inputs[w].shape
    usual = rank >= 1 and len(weight) == 2
    if not usual or (b is not None and call.inputs[b].shape != weight[:1]):
        return None
    names = ", ".join(f"${i}" for i in (x, w, b) if i is not None)
    if fusion.shared[x]:
        forms = tuple(PLAIN if i == x else MEMBERS for i in range(len(call.inputs)))
        if rank == 2:
            return Lowering(f"kernels.wide_linear({names})", forms, (CHANNELS,))
        return Lowering(f"kernels.wide_linear_members({names})", forms, (MEMBERS,))
    if fusion.shared[w]:
        own_bias = b is not None and not fusion.shared[b]
        called = "kernels.shared_linear" if own_bias else "F.linear"
        return Lowering(f"{called}({names})", own_or_plain(fusion), (MEMBERS,))
    return Lowering(f"kernels.linear({names})", (MEMBERS,) * len(call.inputs), (MEMBERS,))


def bilinear(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    given = arguments(call)
    if given is None or not one_float(call):
        return None
    at = given.tensors
    weight = call.inputs[at["weight"]].shape
    b = at.get("bias")
    if len(weight) != 3 or (b is not None and call.inputs[b].shape != weight[:1]):
        return None
    order = (at["input1"], at["input2"], at["weight"], b)
    names = ", ".join(f"${i}" for i in order if i is not None)
    return Lowering(f"kernels.bilinear({names})", (MEMBERS,) * len(call.inputs), (MEMBERS,))


RULES: Mapping[str, Rule] = MappingProxyType({"linear": linear, "bilinear": bilinear})
