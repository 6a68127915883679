"""Which parameters a model's loss can depend on.

Alone, a parameter that the loss does not depend on has no gradient, and an optimizer leaves it
alone: no decay, no momentum. In a stack it has one, of zeros, because others' losses depend on
theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from retiarii.optimizer.forest import Forest, Item
from retiarii.optimizer.merged import MergedModel

_CUTS: Final = frozenset({"detach"})


def present_members(
    merged: MergedModel, used: Collection[tuple[int, int]] | None = None
) -> tuple[tuple[bool, ...], ...]:
    """For each trained stack and each of its members, whether its model's loss can reach it.

    Args:
        merged: in training mode.
        used: (model, position) of the outputs that the loss depends on; ``None`` for all.
    """
    forest = merged.program.plan.forest
    reached = [_reached(forest, model, used) for model in range(merged.models)]
    return tuple(
        tuple(forest.homes[home] in reached[home[0]] for home in stack.homes)
        for stack in merged.storage.stacks
        if stack.trainable
    )


def untouched(present: Sequence[Sequence[bool]], merged: MergedModel) -> set[int]:
    """The models whose loss reaches no parameter at all."""
    touched: set[int] = set()
    trained = [stack for stack in merged.storage.stacks if stack.trainable]
    for stack, row in zip(trained, present, strict=True):
        touched |= {home[0] for home, flag in zip(stack.homes, row, strict=True) if flag}
    return set(range(merged.models)) - touched


def _reached(forest: Forest, model: int, used: Collection[tuple[int, int]] | None) -> set[int]:
    """The leaves that gradients of a model's outputs get to."""
    ports = forest.outputs[model].ports
    ahead = [
        port for position, port in enumerate(ports) if used is None or (model, position) in used
    ]
    seen: set[int] = set()
    leaves: set[int] = set()
    while ahead:
        port = ahead.pop()
        item = forest.items[port.item]
        if not _differentiable(item, port.result) or port.item in seen:
            continue
        seen.add(port.item)
        if item.leaf is not None:
            leaves.add(port.item)
        ahead.extend(item.inputs)
    return leaves


def _differentiable(item: Item, result: int) -> bool:
    if item.no_grad or item.call.op in _CUTS:
        return False
    dtype = item.call.results[result].dtype
    return dtype.is_floating_point or dtype.is_complex
