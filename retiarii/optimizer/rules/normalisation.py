"""Layer, RMS, group, instance and local response normalisation, and vectors of unit length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from retiarii.optimizer.rules.arguments import Arguments, arguments, as_function
from retiarii.optimizer.rules.base import Form, Fusion, Lowering, Rule, literal
from retiarii.optimizer.rules.batch_norm import writable

_PARAMETERS: Final = ("weight", "bias")


def _last_dims(fusion: Fusion, given: Arguments) -> Lowering | None:
    """``layer_norm`` and ``rms_norm``: over dimensions that are the last ones in a stack too."""
    call = fusion.call
    x = given.tensors.get("input", given.tensors.get("x"))
    if x is None or len({kind.dtype for kind in call.inputs}) > 1:
        return None
    name = "rms_norm" if call.op in ("RMSNorm", "rms_norm") else "layer_norm"
    sizes = given.values["normalized_shape"]
    parts = [f"${x}", literal((sizes,) if isinstance(sizes, int) else sizes)]
    parts += map(given.placeholder, _PARAMETERS if name == "layer_norm" else _PARAMETERS[:1])
    parts.append(literal(given.values["eps"]))
    shared = all(fusion.shared[i] for i in range(len(call.inputs)) if i != x)
    text = f"{'F' if shared else 'kernels'}.{name}({', '.join(parts)})"
    forms = [Form.PLAIN if shared else Form.MEMBERS] * len(call.inputs)
    forms[x] = Form.MEMBERS
    return Lowering(text, tuple(forms), (Form.MEMBERS,))


def _group_norm(fusion: Fusion, given: Arguments) -> Lowering | None:
    call = fusion.call
    x, groups = given.tensors.get("input"), given.values["num_groups"]
    if x is None or len(call.inputs[x].shape) < 2 or type(groups) is not int:
        return None
    flat = [f"${given.tensors[n]}.flatten()" if n in given.tensors else "None" for n in _PARAMETERS]
    parts = (f"${x}", str(groups * fusion.size), *flat, literal(given.values["eps"]))
    forms = [Form.MEMBERS] * len(call.inputs)
    forms[x] = Form.CHANNELS
    return Lowering(f"kernels.group_norm({', '.join(parts)})", tuple(forms), (Form.CHANNELS,))


def _instance_norm(fusion: Fusion, given: Arguments) -> Lowering | None:
    call = fusion.call
    x = given.tensors.get("input")
    if x is None:
        return None
    rank = len(call.inputs[x].shape)
    layer = call.spec.kind == "module"
    alone = layer and rank == int(call.op[-2]) + 1
    if rank < 3 and not alone:
        return None
    values = given.values
    tracks = "running_mean" in given.tensors
    if tracks != ("running_var" in given.tensors):
        return None
    uses = (
        call.training or not values["track_running_stats"] if layer else values["use_input_stats"]
    )
    if tracks and uses and not writable(fusion, given.tensors):
        return None
    names = ("running_mean", "running_var", *_PARAMETERS)
    image = f"${x}.flatten(0, 1).unsqueeze(0)" if alone else f"${x}"
    momentum = 0.0 if values["momentum"] is None else values["momentum"]
    text = (
        f"kernels.instance_norm({', '.join([image, *map(given.placeholder, names)])}, "
        f"use_input_stats={uses}, momentum={literal(momentum)}, eps={literal(values['eps'])})"
    )
    forms = [Form.MEMBERS] * len(call.inputs)
    if alone:
        text += f".squeeze(0).unflatten(0, ({fusion.size}, -1))"
        return Lowering(text, tuple(forms), (Form.MEMBERS,))
    forms[x] = Form.CHANNELS
    return Lowering(text, tuple(forms), (Form.CHANNELS,))


def _local_response(fusion: Fusion, given: Arguments) -> Lowering | None:
    call = fusion.call
    rank = len(call.inputs[0].shape)
    if tuple(given.tensors) != ("input",) or rank < 3:
        return None
    # Channels see their neighbours: members are images. Volumes are viewed, so they lie in order.
    images = "$0.flatten(0, 1)" + (".contiguous()" if rank > 4 else "")
    text = f"F.local_response_norm({images}{given.keywords(given.values, call.spec.defaults)})"
    text += f".unflatten(0, ({fusion.size}, -1))"
    return Lowering(text, (Form.MEMBERS,), (Form.MEMBERS,))


def _unit_length(fusion: Fusion, given: Arguments) -> Lowering | None:
    call = fusion.call
    rank = len(call.inputs[0].shape)
    dim = given.values["dim"]
    dims = dim if isinstance(dim, tuple) else (dim,)
    if tuple(given.tensors) != ("input",) or not all(type(d) is int for d in dims):
        return None
    if not dims or not all(-rank <= d < rank for d in dims):
        return None
    last: tuple[int, ...] = tuple(d if d < 0 else d - rank for d in dims)
    apart = all(d >= 2 - rank for d in last)
    form = Form.CHANNELS if apart and fusion.forms[0] is Form.CHANNELS else Form.MEMBERS
    options = given.keywords(["p", "eps"], call.spec.defaults)
    number: Any = last if isinstance(dim, tuple) else last[0]
    return Lowering(f"F.normalize($0, dim={literal(number)}{options})", (form,), (form,))


_BY_OP: Final[Mapping[str, Callable[[Fusion, Arguments], Lowering | None]]] = MappingProxyType(
    {
        "LayerNorm": _last_dims,
        "layer_norm": _last_dims,
        "RMSNorm": _last_dims,
        "rms_norm": _last_dims,
        "GroupNorm": _group_norm,
        "group_norm": _group_norm,
        "InstanceNorm1d": _instance_norm,
        "InstanceNorm2d": _instance_norm,
        "InstanceNorm3d": _instance_norm,
        "instance_norm": _instance_norm,
        "local_response_norm": _local_response,
        "normalize": _unit_length,
    }
)


def _norm(fusion: Fusion) -> Lowering | None:
    fusion = replace(fusion, call=as_function(fusion.call))
    given, rule = arguments(fusion.call), _BY_OP.get(fusion.call.op)
    return None if given is None or rule is None else rule(fusion, given)


RULES: Final[Mapping[str, Rule]] = MappingProxyType({"norm": _norm})
