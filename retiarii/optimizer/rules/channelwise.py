"""How operations are fused that see one channel of one image at a time."""

from __future__ import annotations

from retiarii.optimizer.rules.base import Form, Fusion, Lowering


def channelwise(fusion: Fusion, batched: int, text: str) -> Lowering | None:
    """The group as one call, with the members as further images or further channels.

    Args:
        fusion: the group. All its operands have a batch dimension, or none has.
        batched: the number of dimensions of the first operand with a batch; with one less it is a
            single image.
        text: the call, with ``@0``, ``@1`` ... for the operands.

    Returns:
        ``None`` for operands of another rank.
    """
    call = fusion.call
    dims = len(call.inputs[0].shape)
    count = len(call.results)
    if dims == batched and set(fusion.forms) == {Form.CHANNELS}:
        return Lowering(_filled(text, ""), fusion.forms, (Form.CHANNELS,) * count)
    members = (Form.MEMBERS,) * len(call.inputs)
    if dims == batched - 1:
        # Members without a batch are a batch.
        return Lowering(_filled(text, ""), members, (Form.MEMBERS,) * count)
    if dims != batched:
        return None
    code = _filled(text, ".flatten(0, 1)")
    if count == 1:
        code += f".unflatten(0, ({fusion.size}, -1))"
    else:
        code = f"kernels.by_member({code}, {fusion.size})"
    return Lowering(code, members, (Form.MEMBERS,) * count)


def _filled(text: str, suffix: str) -> str:
    pieces = text.split("@")
    return pieces[0] + "".join(f"${p[0]}{suffix}{p[1:]}" for p in pieces[1:])
