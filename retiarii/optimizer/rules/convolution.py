"""Convolutions: members are groups of one grouped convolution, or of one wide one.

A wide convolution reads an input that all members share and has all their filters.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from retiarii.optimizer.rules.arguments import Arguments, arguments, as_function
from retiarii.optimizer.rules.base import Call, Form, Fusion, Lowering, Rule, literal
from retiarii.optimizer.rules.channelwise import channelwise

_DEFAULTS: Final = MappingProxyType(
    {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}
)


def _conv(fusion: Fusion) -> Lowering | None:
    given = arguments(fusion.call)
    if given is None or not given.tensors.keys() >= {"input", "weight"}:
        return None
    values = {name: given.values[name] for name in ("stride", "padding", "dilation")}
    mode = given.values.get("padding_mode", "zeros")
    padded = "{}"
    if mode != "zeros":
        weight = given.tensors["weight"]
        pad = _pad(fusion.call, weight, values.pop("padding"), values["dilation"])
        padded = f"F.pad({{}}, {literal(pad)}, mode={mode!r})"
    return _lowering(fusion, given, values, padded)


def _conv_transpose(fusion: Fusion) -> Lowering | None:
    given = arguments(fusion.call)
    if given is None or not given.tensors.keys() >= {"input", "weight"}:
        return None
    names = ("stride", "padding", "output_padding", "dilation")
    values = {name: given.values[name] for name in names}
    if given.values.get("output_size") is not None:
        x, weight = given.tensors["input"], given.tensors["weight"]
        values["output_padding"] = _output_padding(fusion.call, x, weight, values)
    return _lowering(fusion, given, values, "{}")


def _window(fusion: Fusion) -> Lowering | None:
    """``fold`` and ``unfold``: their columns are channel by channel."""
    call = as_function(fusion.call)
    given = arguments(call)
    if given is None or tuple(given.tensors) != ("input",):
        return None
    text = f"{call.spec.call}(@0{given.keywords(given.values, call.spec.defaults)})"
    return channelwise(fusion, _WINDOWS[call.op], text)


# The rank of the input with a batch dimension.
_WINDOWS: Final = MappingProxyType({"fold": 3, "unfold": 4})


def _lowering(
    fusion: Fusion, given: Arguments, values: Mapping[str, Any], padded: str
) -> Lowering | None:
    """The call of a kernel.

    Args:
        fusion: the group.
        given: the call's arguments.
        values: the options of the functional form but for the groups.
        padded: what is done to the input before, with ``{}`` in its place.
    """
    call = fusion.call
    x, weight = (given.tensors[name] for name in ("input", "weight"))
    spatial = len(call.inputs[weight].shape) - 2
    rank = len(call.inputs[x].shape)
    if rank not in (spatial + 1, spatial + 2):
        return None
    batched = rank == spatial + 2
    transposed = "transpose" in call.op.lower()
    kernel = "conv_transpose" if transposed else "conv"
    function = f"F.{kernel}{spatial}d"
    filters = f"{given.placeholder('weight')}, {given.placeholder('bias')}"
    groups: int = given.values["groups"]
    if all(fusion.shared[i] for name, i in given.tensors.items() if name != "input"):
        # The same filters for all: members are further images.
        image = padded.format(f"${x}.flatten(0, 1)" if batched else f"${x}")
        text = f"{function}(kernels.images({image}), {filters}{_options(values, groups)})"
        text += f".unflatten(0, ({fusion.size}, -1))" if batched else ""
        return Lowering(text, _forms(fusion, Form.PLAIN, x, Form.MEMBERS), (Form.MEMBERS,))
    if not batched:
        # One image without a batch dimension: its channels are those of all members.
        image = padded.format(f"${x}.flatten(0, 1).unsqueeze(0)")
        options = _options(values, groups * fusion.size)
        text = f"kernels.{kernel}({function}, {image}, {filters}{options})"
        text += f".squeeze(0).unflatten(0, ({fusion.size}, -1))"
        return Lowering(text, _forms(fusion, Form.MEMBERS, x, Form.MEMBERS), (Form.MEMBERS,))
    image, form = padded.format(f"${x}"), Form.CHANNELS
    if fusion.shared[x] and groups == 1:
        kernel, form = "wide_conv_transpose" if transposed else kernel, Form.PLAIN
    else:
        groups *= fusion.size
    text = f"kernels.{kernel}({function}, {image}, {filters}{_options(values, groups)})"
    return Lowering(text, _forms(fusion, Form.MEMBERS, x, form), (Form.CHANNELS,))


def _forms(fusion: Fusion, others: Form, x: int, image: Form) -> tuple[Form, ...]:
    forms = [others] * len(fusion.call.inputs)
    forms[x] = image
    return tuple(forms)


def _options(values: Mapping[str, Any], groups: int) -> str:
    """Named arguments, but for those that say what is the default anyway."""
    return "".join(
        f", {name}={literal(value)}"
        for name, value in {**values, "groups": groups}.items()
        if isinstance(value, str) or set(_tuple(value)) != {_DEFAULTS[name]}
    )


def _pad(call: Call, weight: int, padding: Any, dilation: Any) -> tuple[int, ...]:
    """How wide a layer pads each side, last dimension first, as `F.pad` takes it."""
    kernel = call.inputs[weight].shape[2:]
    sides: list[tuple[int, int]] = []
    if padding == "same":
        for k, d in zip(kernel, _tuple(dilation, len(kernel)), strict=True):
            total = d * (k - 1)
            sides.append((total // 2, total - total // 2))
    else:
        width = 0 if padding == "valid" else padding
        sides += [(p, p) for p in _tuple(width, len(kernel))]
    return tuple(width for side in reversed(sides) for width in side)


def _output_padding(call: Call, x: int, weight: int, values: Mapping[str, Any]) -> tuple[int, ...]:
    """What the result asked for has more than the smallest one that fits."""
    kernel = call.inputs[weight].shape[2:]
    n = len(kernel)
    stride, padding, dilation = (_tuple(values[k], n) for k in ("stride", "padding", "dilation"))
    sizes = zip(call.inputs[x].shape[-n:], call.results[0].shape[-n:], strict=True)
    return tuple(
        wanted - ((size - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1)
        for i, (size, wanted) in enumerate(sizes)
    )


def _tuple(value: Any, length: int = 1) -> tuple[Any, ...]:
    if isinstance(value, tuple):
        return value * length if len(value) == 1 else value
    return (value,) * length


RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {"conv": _conv, "conv_transpose": _conv_transpose, "window": _window}
)
