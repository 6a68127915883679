"""Before dedup, simplify: terms that are zero are not computed (the ``none`` of search spaces).

``x + 0`` is ``x``, and what pooling, ReLU or a layer without bias make of a zero is zero, as in the
canonical form. That holds for finite numbers: a NaN times zero would be a NaN. Parameters whose
only way to the loss led through a zero still get a gradient of zeros, as they would alone, so that
weight decay and momentum act on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from retiarii.ir.ops import op_spec
from retiarii.optimizer.forest import Forest, Item, Outputs, Port
from retiarii.optimizer.lift import is_random

_ZEROS: Final = frozenset({"zeros_like"})
# No gradient goes through these: they read at most the type.
_VALUES_UNREAD: Final = frozenset(
    {
        *("detach", "zeros_like", "ones_like", "empty_like", "full_like"),
        *("rand_like", "randn_like", "randint_like"),
        *("new_zeros", "new_ones", "new_empty", "new_full"),
    }
)
# Sums in which a zero term of the result's own type may be left out, and which operands may be.
_SUMS: Final = {"add": (0, 1), "sub": (1,)}


def simplify(forest: Forest) -> Forest:
    """The forest without zero terms, and without what only they needed."""
    items = forest.items
    zero: set[Port] = set()
    same: dict[Port, Port] = {}
    changed = False
    inputs: list[tuple[Port, ...]] = []
    for number, item in enumerate(items):
        reads = tuple(same.get(p, p) for p in item.inputs)
        inputs.append(reads)
        if item.leaf is not None or item.no_grad or len(item.call.results) != 1:
            continue
        port = Port(number)
        if _makes_zero(item, reads, zero):
            zero.add(port)
            continue
        for dropped in _SUMS.get(item.call.op, ()):
            if len(reads) == 2 and not item.call.attrs and reads[dropped] in zero:
                kept = reads[1 - dropped]
                if items[kept.item].call.results[kept.result] == item.call.results[0]:
                    same[port] = kept
                    changed = True
                    if kept in zero:
                        zero.add(port)
                    break
    if not changed:
        return forest
    outputs = tuple(
        Outputs(tuple(same.get(p, p) for p in out.ports), out.structure) for out in forest.outputs
    )
    before = gradient_ways(items, [i.inputs for i in items], forest.outputs)
    after = gradient_ways(items, inputs, outputs)
    lost = {
        number: before[number]
        for number, item in enumerate(items)
        if before[number] and not after[number] and (item.leaf is None or item.leaf.trainable)
    }
    return _compact(forest, inputs, outputs, lost)


def gradient_ways(
    items: Sequence[Item], inputs: Sequence[tuple[Port, ...]], outputs: Sequence[Outputs]
) -> list[int]:
    """For each item, from which outputs a gradient can reach it: bit ``i`` for output tensor ``i``.

    Which outputs a loss uses is the user's business: parameters that different ones lead to may
    differ in whether they get a gradient at all.
    """
    found = [0] * len(items)

    def lead(port: Port, ways: int) -> None:
        dtype = items[port.item].call.results[port.result].dtype
        if dtype.is_floating_point or dtype.is_complex:
            found[port.item] |= ways

    for out in outputs:
        for position, port in enumerate(out.ports):
            lead(port, 1 << position)
    for number in range(len(items) - 1, -1, -1):
        item, ways = items[number], found[number]
        if ways and not item.no_grad and item.call.op not in _VALUES_UNREAD:
            for port in inputs[number]:
                lead(port, ways)
    return found


def _makes_zero(item: Item, reads: tuple[Port, ...], zero: set[Port]) -> bool:
    call = item.call
    if not call.results[0].dtype.is_floating_point or call.op == "opaque":
        return False
    if call.op in _ZEROS:
        return True
    factor = call.attrs.get("other")
    if call.op == "mul" and len(reads) == 1 and type(factor) in (int, float) and factor == 0:
        return True
    spec = op_spec(call.op)
    if spec.zero_preserving is None or not spec.zero_preserving(call.attrs) or is_random(call):
        return False
    operands = reads[: len(call.operands)]
    return bool(operands) and all(p in zero for p in operands)


def _compact(
    forest: Forest,
    inputs: Sequence[tuple[Port, ...]],
    outputs: Sequence[Outputs],
    lost: Mapping[int, int],
) -> Forest:
    """Leaves out what nothing needs any more: what is neither read nor acts by itself."""
    items = forest.items
    needed = {p.item for out in outputs for p in out.ports}
    for number in range(len(items) - 1, -1, -1):
        item = items[number]
        if item.leaf is not None or acts(item):
            needed.add(number)
        if number in needed:
            needed.update(p.item for p in inputs[number])
    new = {number: i for i, number in enumerate(sorted(needed))}
    kept = [
        Item(
            items[n].owner,
            items[n].name,
            items[n].call,
            tuple(Port(new[p.item], p.result) for p in inputs[n]),
            items[n].leaf,
            items[n].no_grad,
            tuple(new[a] for a in items[n].after if a in new),
            items[n].template,
            items[n].where,
        )
        for n in sorted(needed)
    ]
    moved = tuple(
        Outputs(tuple(Port(new[p.item], p.result) for p in out.ports), out.structure)
        for out in outputs
    )
    homes = {home: new[leaf] for home, leaf in forest.homes.items()}
    return Forest(
        tuple(kept),
        moved,
        homes,
        forest.forward,
        forest.batch_input,
        {new[n]: ways for n, ways in lost.items() if n in new},
    )


def acts(item: Item) -> bool:
    """Whether it does something besides making results."""
    if item.leaf is not None:
        return False
    if item.call.op == "opaque" or is_random(item.call):
        return True
    return item.call.spec.stateful and item.call.training
