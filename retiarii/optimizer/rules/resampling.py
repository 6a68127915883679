"""Resampling of images, and moving pixels between channels and places."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from retiarii.optimizer.rules.arguments import arguments, as_function
from retiarii.optimizer.rules.base import Form, Fusion, Lowering, Rule, literal
from retiarii.optimizer.rules.channelwise import channelwise

_IMAGE: Final = ("input",)


def _interpolate(fusion: Fusion) -> Lowering | None:
    call = as_function(fusion.call)
    given = arguments(call)
    if given is None or tuple(given.tensors) != _IMAGE:
        return None
    rank = len(call.inputs[0].shape)
    text = f"F.interpolate(kernels.images(@0){given.keywords(given.values, call.spec.defaults)})"
    return channelwise(fusion, rank, text)


def _grid_sample(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    given = arguments(call)
    if given is None or tuple(given.tensors) != ("input", "grid"):
        return None
    options = given.keywords(given.values, call.spec.defaults)
    if fusion.shared[1]:
        # One grid for all: members are further channels, and the grid is read once.
        text = f"F.grid_sample($0, $1{options})"
        return Lowering(text, (Form.CHANNELS, Form.PLAIN), (Form.CHANNELS,))
    members = (Form.MEMBERS, Form.MEMBERS)
    text = f"F.grid_sample($0.flatten(0, 1), $1.flatten(0, 1){options})"
    return Lowering(f"{text}.unflatten(0, ({fusion.size}, -1))", members, (Form.MEMBERS,))


def _affine_grid(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    given = arguments(call)
    if given is None or tuple(given.tensors) != ("theta",):
        return None
    size = given.values["size"]
    if not isinstance(size, tuple):
        return None
    batch = f"{fusion.size} * ({literal(size[0])})"
    sizes = ", ".join([batch, *map(literal, size[1:])])
    options = given.keywords(["align_corners"], call.spec.defaults)
    text = f"F.affine_grid($0.flatten(0, 1), ({sizes}){options}).unflatten(0, ({fusion.size}, -1))"
    return Lowering(text, (Form.MEMBERS,), (Form.MEMBERS,))


def _shuffle(fusion: Fusion) -> Lowering | None:
    """``pixel_shuffle`` and its kin: what becomes of a channel stays beside it."""
    call = as_function(fusion.call)
    given = arguments(call)
    if given is None or tuple(given.tensors) != _IMAGE:
        return None
    options = given.keywords(given.values, call.spec.defaults)
    if len(call.inputs[0].shape) == 4:
        return channelwise(fusion, 4, f"{call.spec.call}(@0{options})")
    # Leading dimensions are free.
    return Lowering(f"{call.spec.call}($0{options})", (Form.MEMBERS,), (Form.MEMBERS,))


def _channel_shuffle(fusion: Fusion) -> Lowering | None:
    call = as_function(fusion.call)
    given = arguments(call)
    if given is None or tuple(given.tensors) != _IMAGE:
        return None
    shape = call.inputs[0].shape
    groups = given.values["groups"]
    if len(shape) < 3 or type(groups) is not int or shape[1] % groups:
        return None
    if fusion.forms[0] is Form.CHANNELS:
        text = f"kernels.channel_shuffle($0, {fusion.size}, {groups})"
        return Lowering(text, (Form.CHANNELS,), (Form.CHANNELS,))
    text = f"F.channel_shuffle($0.flatten(0, 1), {groups}).unflatten(0, ({fusion.size}, -1))"
    return Lowering(text, (Form.MEMBERS,), (Form.MEMBERS,))


RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "resample": _interpolate,
        "grid_sample": _grid_sample,
        "affine_grid": _affine_grid,
        "shuffle": _shuffle,
        "channel_shuffle": _channel_shuffle,
    }
)
