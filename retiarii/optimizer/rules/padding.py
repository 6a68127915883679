"""Padding: members are further images, further channels, or one more leading dimension."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from retiarii.optimizer.rules.arguments import arguments, as_function
from retiarii.optimizer.rules.base import Form, Fusion, Lowering, Rule
from retiarii.optimizer.rules.channelwise import channelwise


def _pad(fusion: Fusion) -> Lowering | None:
    call = as_function(fusion.call)
    given = arguments(call)
    if given is None or tuple(given.tensors) != ("input",):
        return None
    sizes = given.values["pad"]
    if not isinstance(sizes, tuple):
        return None
    rank, padded = len(call.inputs[0].shape), len(sizes) // 2
    text = f"F.pad(@0{given.keywords(given.values, call.spec.defaults)})"
    if given.values["mode"] != "constant":
        # The other modes know images only, and how many dimensions these have.
        return channelwise(fusion, padded + 2, text)
    # The sizes begin with the last dimension: they never reach the members' own.
    spatial = padded <= rank - 2 and fusion.forms[0] is Form.CHANNELS
    form = Form.CHANNELS if spatial else Form.MEMBERS
    return Lowering(text.replace("@", "$"), (form,), (form,))


RULES: Final[Mapping[str, Rule]] = MappingProxyType({"pad": _pad})
