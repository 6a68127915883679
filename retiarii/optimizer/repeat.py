"""Before grouping, repeat: what costs no more than a copy is made once for each kind of reader.

A ReLU in front of a 1x1 and a 3x3 convolution belongs to two groups at once: the inputs of each
have to lie side by side. One for each reader is written where that reader wants it; one for both
would be copied afterwards, and its gradient added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from retiarii.optimizer.forest import SHARED, Forest, Item, Outputs, Port

# Their time is that of reading and writing memory.
_CHEAP: Final = frozenset({"relu", "relu6", "leaky_relu", "hardtanh", "hardswish"})
# Families that want their members side by side in memory.
BESIDE: Final = frozenset({"conv", "conv_transpose"})


def repeat(forest: Forest) -> Forest:
    """The forest with cheap calls made once for each reader that minds where its input lies."""
    items = forest.items
    readers = readers_of(items)
    wanted = {
        number: kinds
        for number, item in enumerate(items)
        if _is_cheap(item) and (kinds := _kinds(items, readers[number]))
    }
    for out in forest.outputs:
        for port in out.ports:
            wanted.pop(port.item, None)
    return _repeated(forest, wanted) if wanted else forest


def readers_of(items: Sequence[Item]) -> list[list[int]]:
    """For each item, the items that read it."""
    found: list[list[int]] = [[] for _ in items]
    for number, item in enumerate(items):
        for source in dict.fromkeys(p.item for p in item.inputs):
            found[source].append(number)
    return found


def _is_cheap(item: Item) -> bool:
    return (
        item.leaf is None
        and item.call.op in _CHEAP
        and item.owner != SHARED
        and not item.no_grad
        and len(item.inputs) == 1
        and len(item.call.results[0].shape) > 3
    )


def _kinds(items: Sequence[Item], readers: Sequence[int]) -> dict[int, int]:
    """reader -> which repetition it reads: one for each call that minds, one for all others."""
    minds = [items[reader].call.spec.fuse in BESIDE for reader in readers]
    if len(readers) < 2 or not any(minds):
        return {}
    return {r: r if mind else SHARED for r, mind in zip(readers, minds, strict=True)}


def _repeated(forest: Forest, wanted: dict[int, dict[int, int]]) -> Forest:
    items = forest.items
    made: list[Item] = []
    new: dict[int, int] = {}
    lost: dict[int, int] = {}
    replaced: dict[tuple[int, int], int] = {}  # (reader, what it read) -> what it reads now
    for number, item in enumerate(items):
        reads = tuple(
            Port(replaced.get((number, p.item), new[p.item]), p.result) for p in item.inputs
        )
        moved = replace(item, inputs=reads, after=tuple(new[a] for a in item.after))
        new[number] = len(made)
        places: dict[int, int] = {}
        for reader, kind in wanted.get(number, {number: SHARED}).items():
            if kind not in places:
                places[kind] = len(made)
                if number in forest.lost:
                    lost[len(made)] = forest.lost[number]
                made.append(moved)
            replaced[reader, number] = places[kind]
    return Forest(
        tuple(made),
        tuple(
            Outputs(tuple(Port(new[p.item], p.result) for p in out.ports), out.structure)
            for out in forest.outputs
        ),
        {home: new[leaf] for home, leaf in forest.homes.items()},
        forest.forward,
        forest.batch_input,
        lost,
    )
