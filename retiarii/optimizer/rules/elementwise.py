"""Elementwise functions and activations: one call on the stacks, in the form in which they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from retiarii.optimizer.rules.base import Call, Form, Fusion, Lowering, Rule
from retiarii.optimizer.rules.broadcasting import Aligned, aligned, casts
from retiarii.optimizer.rules.writing import argument, names, printed, rules, written

# Operands that say where, and have no part in the dtype of the result.
_CONDITIONS: Final[Mapping[str, str]] = MappingProxyType(
    {"where": "condition", "masked_fill": "mask"}
)


def elementwise(fusion: Fusion) -> Lowering | None:
    """Any row of which each result element depends on the input elements at its place."""
    call = fusion.call
    if call.op == "PReLU":
        return _prelu_layer(fusion)
    if call.spec.kind != "function" or call.state or len(call.results) != 1:
        return None
    if call.op == "where" and len(call.inputs) + len(call.attrs) < 3:
        return None  # where(condition) alone finds places
    condition = names(call).get(_CONDITIONS.get(call.op, ""))
    cast = casts(fusion, [i for i in range(len(call.inputs)) if i != condition])
    if cast is None:
        return None
    lie = aligned(fusion, call.results[0])
    operands = [
        f"{text}.to({cast[i]})" if i in cast else text for i, text in enumerate(lie.operands)
    ]
    if call.op == "ldexp":
        # What torch does of it; its own mixes up shapes that differ.
        return _ldexp(call, lie, operands)
    return _lowered(lie, written(call, operands))


def _ldexp(call: Call, lie: Aligned, operands: Sequence[str]) -> Lowering | None:
    if call.attrs:
        return None
    return _lowered(lie, f"torch.mul({operands[0]}, torch.pow(2.0, {operands[1]}))")


def masked_fill(fusion: Fusion) -> Lowering | None:
    """A member's own 0-d value is written as ``where``, for ``masked_fill`` takes no stack."""
    call = fusion.call
    value = call.attrs.get("value")
    number = names(call).get("value")
    if number is None:
        return elementwise(fusion) if value is not None else None
    if fusion.shared[number]:
        return elementwise(fusion)
    named = names(call)
    lie = aligned(fusion, call.results[0])
    mask, input_, filled = (lie.operands[named[n]] for n in ("mask", "input", "value"))
    dtype = call.results[0].dtype
    return _lowered(lie, f"torch.where({mask}, {filled}.to({dtype}), {input_})")


def convert(fusion: Fusion) -> Lowering | None:
    """``to`` and its kin: what counts is the dtype and the device."""
    call = fusion.call
    if call.op not in ("to", "type_as") or len(call.results) != 1:
        return None
    source = names(call).get("input")
    if source is None:
        return None
    device = argument(call, "device") if call.op == "to" else None
    shared = fusion.shared[source]
    form = Form.MEMBERS if shared or not call.inputs[source].shape else fusion.forms[source]
    forms = tuple(
        form if i == source else (Form.PLAIN if s else Form.MEMBERS)
        for i, s in enumerate(fusion.shared)
    )
    dtype = call.results[0].dtype

    where = "" if device is None else f", device={printed(device)}"
    return Lowering(f"${source}.to(dtype={dtype}{where})", forms, (form,))


def prelu(fusion: Fusion) -> Lowering | None:
    """``F.prelu``: its weight is of the second dimension, not of the last."""
    call = fusion.call
    named = names(call)
    if set(named) != {"input", "weight"} or call.attrs:
        return None
    return _prelu(fusion, named["input"], named["weight"])


def _prelu_layer(fusion: Fusion) -> Lowering | None:
    weight = fusion.call.number("weight")
    if weight is None or len(fusion.call.inputs) != 2:
        return None
    return _prelu(fusion, 0, weight)


def _prelu(fusion: Fusion, source: int, weight: int) -> Lowering | None:
    call = fusion.call
    x, w = call.inputs[source], call.inputs[weight]
    if x.dtype is not w.dtype or len(w.shape) > 1:
        return None
    rank = len(x.shape)
    width = w.shape[0] if w.shape else 1
    channels = x.shape[1] if rank >= 2 else 1
    if width not in (1, channels):
        return None
    forms = [Form.PLAIN, Form.PLAIN]
    forms[weight] = Form.MEMBERS
    # Where the weight's one dimension belongs: channels come second.
    tail = max(rank - 2, 0)
    split = rank >= 2 and not fusion.shared[source] and fusion.forms[source] is Form.CHANNELS
    if split:
        forms[source] = Form.CHANNELS
        operand = f"${source}.unflatten(1, ({fusion.size}, -1))"
        sizes = (fusion.size, width) + (1,) * tail
    else:
        forms[source] = Form.MEMBERS
        operand = f"${source}"
        sizes = (fusion.size, *(1,) * (rank >= 2), *(width,) * (rank >= 1), *(1,) * tail)
    text = f"torch._prelu_kernel({operand}, ${weight}.reshape({sizes}))"
    text += ".flatten(1, 2)" if split else ""
    result = Form.CHANNELS if split else Form.MEMBERS
    return Lowering(text, tuple(forms), (result,))


def copied(fusion: Fusion) -> Lowering | None:
    """What ``input`` is after ``input.copy_(src)``: the source, as large and of its dtype."""
    call = fusion.call
    named = names(call)
    if set(named) != {"input", "src"} or call.attrs:
        return None
    result = call.results[0]
    if len(call.inputs[named["src"]].shape) > len(result.shape):
        return None
    lie = aligned(fusion, result, channels=False)
    forms = list(lie.inputs)
    forms[named["input"]] = Form.MEMBERS
    source = lie.operands[named["src"]]
    text = f"torch.empty_like(${named['input']}).copy_({source})"
    return Lowering(text, tuple(forms), (Form.MEMBERS,))


def bucketize(fusion: Fusion) -> Lowering | None:
    """Shared boundaries serve all members in one call."""
    call = fusion.call
    if names(call) != {"input": 0, "boundaries": 1}:
        return None
    # It warns of tensors that are not contiguous, which it would copy as well.
    if fusion.shared[1] and not fusion.shared[0]:
        form = fusion.forms[0]
        text = written(call, ["$0.contiguous()", "$1.contiguous()"])
        return Lowering(text, (form, Form.PLAIN), (form,))
    options = "".join(f", {k}={printed(v)}" for k, v in call.attrs.items())
    values = "$0.reshape(len($0), -1).contiguous()"
    text = f"torch.searchsorted($1.contiguous(), {values}{options}).reshape($0.shape)"
    return Lowering(text, (Form.MEMBERS,) * 2, (Form.MEMBERS,))


def _lowered(lie: Aligned, text: str) -> Lowering:
    return Lowering(f"{text}{lie.ending}", lie.inputs, (lie.result,))


RULES: Final[Mapping[str, Rule]] = rules(
    {
        "elementwise": elementwise,
        "masked_fill": masked_fill,
        "convert": convert,
        "prelu": prelu,
        "copy": copied,
        "bucketize": bucketize,
    }
)
