"""Batch normalisation: statistics are per channel, so members are further channels."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from retiarii.optimizer.rules.arguments import arguments
from retiarii.optimizer.rules.base import Form, Fusion, Lowering, Rule, literal


def _batch_norm(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    given = arguments(call)
    if given is None or "input" not in given.tensors:
        return None
    x = given.tensors["input"]
    if len(call.inputs[x].shape) < 2:
        return None
    tensors = dict(given.tensors)
    training, momentum = given.values.get("training", call.training), given.values["momentum"]
    if call.spec.kind == "module" and training and not given.values["track_running_stats"]:
        tensors = {name: i for name, i in tensors.items() if name not in _WRITTEN}
    if ("running_mean" in tensors) != ("running_var" in tensors):
        return None
    tracked = "running_mean" in tensors
    if tracked and training:
        if not writable(fusion, tensors):
            return None
        if momentum is None and "num_batches_tracked" not in tensors:
            return None
    if not training:
        tensors.pop("num_batches_tracked", None)
    training = training or not tracked
    positional = ("running_mean", "running_var", "weight", "bias")
    parts = [f"${x}", *(f"${tensors[n]}" if n in tensors else "None" for n in positional)]
    if "num_batches_tracked" in tensors:
        parts.append(f"counted=${tensors['num_batches_tracked']}")
    named = {"training": training, "momentum": momentum, "eps": given.values["eps"]}
    parts += [f"{name}={literal(value)}" for name, value in named.items()]
    forms = [Form.MEMBERS] * len(call.inputs)
    forms[x] = Form.CHANNELS
    text = f"kernels.batch_norm({', '.join(parts)})"
    return Lowering(text, tuple(forms), (Form.CHANNELS,))


_WRITTEN: Final = ("running_mean", "running_var", "num_batches_tracked")


def writable(fusion: Fusion, tensors: Mapping[str, int]) -> bool:
    """Whether each member has running statistics of its own, and the call gets where they are."""
    written = [tensors[name] for name in _WRITTEN if name in tensors]
    operands = len(fusion.call.operands)
    # Operands in another form would come as copies.
    stacked = all(i >= operands or fusion.forms[i] is Form.MEMBERS for i in written)
    return stacked and not any(fusion.shared[i] for i in written)


RULES: Final[Mapping[str, Rule]] = MappingProxyType({"batch_norm": _batch_norm})
