"""From the output stacks of a merged program to what each model returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from retiarii.ir.tracing.structure import rebuild
from retiarii.ir.types import Result
from retiarii.optimizer.forest import SHARED, Forest
from retiarii.optimizer.plan import OutputStack


def returned(forest: Forest, stacks: Sequence[tuple[OutputStack, Tensor]]) -> list[Any]:
    """What each model returns.

    Args:
        forest: of the program.
        stacks: each output stack with what the program computed for it.
    """
    found: list[dict[int, Tensor]] = [{} for _ in forest.outputs]
    for out, tensor in stacks:
        shared = len(out.ports) > 1 and out.ports[0] == out.ports[1]
        plain = shared or forest.items[out.ports[0].item].owner == SHARED
        members = _copies(forest, out, tensor) if plain else tensor.unbind(0)
        for model, member in zip(out.models, members, strict=True):
            found[model][out.position] = member
    return [
        rebuild(out.structure, partial(_placed, own))
        for out, own in zip(forest.outputs, found, strict=True)
    ]


def _copies(forest: Forest, out: OutputStack, tensor: Tensor) -> list[Tensor]:
    """An output that models share, for each of them: what one writes there harms no other."""
    if forest.items[out.ports[0].item].leaf is not None:
        return [tensor] * len(out.models)  # the models alone return what they were given, too
    return [tensor, *(tensor.clone() for _ in out.models[1:])]


def _placed(own: Mapping[int, Tensor], leaf: Any) -> Any:
    return own[leaf.index] if isinstance(leaf, Result) else leaf
