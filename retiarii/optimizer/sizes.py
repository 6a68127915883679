"""The types of a forest's tensors at another batch size than the example's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from retiarii.ir.infer import TypeCache, infer
from retiarii.ir.types import TensorType
from retiarii.optimizer.forest import Forest, Item
from retiarii.optimizer.rules.base import Call

Types = tuple[TensorType, ...]


def calls_at(forest: Forest, was: int, batch: int) -> list[Call]:
    """Each item's call, with the types that it has at a batch size.

    Equal calls are one object, as in the forest.

    Args:
        forest: whose items they are.
        was: the example's batch size.
        batch: the one that is asked for.

    Raises:
        ShapeError: a model does not take inputs of this batch size.
    """
    if batch == was:
        return [item.call for item in forest.items]
    cache = TypeCache(batch)
    known: dict[tuple[int, Types], Call] = {}
    found: list[Call] = []
    for item in forest.items:
        reads = tuple([found[p.item].results[p.result] for p in item.inputs])
        key = (id(item.call), reads)
        made = known.get(key)
        if made is None:
            makes = _results(item, reads, was, batch, cache)
            made = known[key] = replace(item.call, inputs=reads, results=makes)
        found.append(made)
    return found


def _results(
    item: Item, reads: Sequence[TensorType], was: int, batch: int, cache: TypeCache
) -> Types:
    call = item.call
    if item.leaf is not None and item.leaf.kind != "input":
        return call.results
    if item.leaf is not None or call.op == "opaque":
        return tuple([_at_batch(t, was, batch) for t in call.results])
    operands = tuple(reads[: len(call.operands)])
    return infer(call.op, call.attrs, operands, cache)[0]


def _at_batch(kind: TensorType, was: int, batch: int) -> TensorType:
    if not kind.shape or kind.shape[0] != was:
        return kind
    return TensorType((batch, *kind.shape[1:]), kind.dtype)
