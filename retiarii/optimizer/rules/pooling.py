"""Pooling: windows see one channel, so members are further channels or further images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from retiarii.optimizer.rules.arguments import arguments, as_function
from retiarii.optimizer.rules.base import Fusion, Lowering, Rule
from retiarii.optimizer.rules.channelwise import channelwise

_UNSIZED: Final = MappingProxyType({"output_size": None})

# For the others a copy into another memory format costs more than it gains.
_FASTER_AS_IMAGES: Final = frozenset({"max_pool2d", "avg_pool2d", "max_pool3d"})


def _pool(fusion: Fusion) -> Lowering | None:
    call = as_function(fusion.call)
    given = arguments(call)
    if given is None or tuple(given.tensors) != ("input",):
        return None
    spec = call.spec
    x = "kernels.images(@0)" if call.op in _FASTER_AS_IMAGES else "@0"
    text = f"{spec.call}({x}{given.keywords(given.values, spec.defaults)})"
    if call.op == "adaptive_avg_pool2d" and given.values["output_size"] in (1, (1, 1)):
        text = "kernels.global_average(@0)"
    return channelwise(fusion, _spatial(call.op) + 2, text)


def _unpool(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    given = arguments(call)
    if given is None or tuple(given.tensors) != ("input", "indices"):
        return None
    spatial = _spatial(call.op)
    size = given.values["output_size"]
    if size is not None:
        # The whole size of the result is taken as well; batch and channels are not as alone.
        size = tuple(size)[-spatial:]
    given = replace(given, values={**given.values, "output_size": size})
    text = f"F.max_unpool{spatial}d(@0, @1{given.keywords(given.values, _UNSIZED)})"
    return channelwise(fusion, spatial + 2, text)


def _spatial(op: str) -> int:
    """The number of spatial dimensions, which is in every name: ``max_pool2d``."""
    return int(op[-2])


RULES: Final[Mapping[str, Rule]] = MappingProxyType({"pool": _pool, "unpool": _unpool})
