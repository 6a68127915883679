"""Pass 1, dedup: what several models compute alike is computed once.

A node is shared when its inputs are, and when it holds nothing (no parameters, state or randomness)
or only frozen parameters and equal buffers. Equal pure nodes of one model are one node as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from retiarii.optimizer.forest import SHARED, Forest, Item, Outputs, Port
from retiarii.optimizer.lift import is_random, written

Homes = Mapping[tuple[int, str], int]


def dedup(
    forest: Forest, storage: Mapping[tuple[int, str], tuple[int, str]] | None = None
) -> Forest:
    """The forest with equal items made one.

    Args:
        forest: as lifted.
        storage: (model, state key) -> the (model, state key) whose tensor it is, as a forest of
            training mode came out of here; ``None`` decides which leaves are shared. Programs of
            other modes must keep to what training decided: buffers that are equal now need not
            stay so.
    """
    worker = _Dedup(forest, storage)
    for number in range(len(forest.items)):
        worker.visit(number)
    return worker.compact()


def storage_of(forest: Forest) -> dict[tuple[int, str], tuple[int, str]]:
    """For each (model, state key) the first one that holds the same tensor."""
    first: dict[int, tuple[int, str]] = {}
    return {home: first.setdefault(leaf, home) for home, leaf in forest.homes.items()}


class _Dedup:
    def __init__(
        self, forest: Forest, storage: Mapping[tuple[int, str], tuple[int, str]] | None
    ) -> None:
        self._forest = forest
        self._items = forest.items
        self._rep = list(range(len(forest.items)))
        self._owner = [item.owner for item in forest.items]
        self._inputs: dict[int, tuple[Port, ...]] = {}
        self._known: dict[Any, int] = {}
        self._seen: Counter[Any] = Counter()
        self._fixed = storage is not None
        self._written = {leaf for item in forest.items for leaf in written(item, forest.items)}
        self._users = Counter(p.item for item in forest.items for p in item.inputs)
        if storage is not None:
            holders: dict[tuple[int, str], set[int]] = {}
            for (model, _), origin in storage.items():
                holders.setdefault(origin, set()).add(model)
            for home, leaf in forest.homes.items():
                origin = storage.get(home, home)
                self._rep[leaf] = forest.homes[origin]
                if len(holders.get(origin, ())) > 1:
                    self._owner[self._rep[leaf]] = SHARED

    def visit(self, number: int) -> None:
        """Finds the item that this one is."""
        item = self._items[number]
        if item.leaf is not None:
            if item.leaf.kind == "constant":
                self._share(number, ("constant", item.leaf.digest), True)
            return
        inputs = tuple(Port(self._rep[p.item], p.result) for p in item.inputs)
        self._inputs[number] = inputs
        if item.call.op == "opaque" or is_random(item.call):
            return
        count = len(inputs) - len(item.call.state)
        shared = all(
            self._owner[p.item] == SHARED or self._items[p.item].leaf is not None
            for p in inputs[:count]
        )
        writes = written(item, self._items)
        if shared and not self._fixed:
            self._share_leaves(item, inputs, writes)
            inputs = tuple(Port(self._rep[p.item], p.result) for p in inputs)
            self._inputs[number] = inputs
        everything = all(self._owner[p.item] == SHARED for p in inputs)
        if writes:
            if not everything:
                return
            # Two calls that write the same state are two, also when they read the same.
            key = (item.call, inputs, item.no_grad)
            self._share(number, (*key, self._turn(item.owner, key)), everything)
            return
        self._share(number, (item.call, inputs, item.no_grad), everything)

    def _share_leaves(self, item: Item, inputs: tuple[Port, ...], writes: list[int]) -> None:
        """Makes the frozen tensors that a call reads those of the equal call of another model."""
        fresh = [p.item for p in inputs if self._owner[p.item] != SHARED]
        for leaf in fresh:
            held = self._items[leaf].leaf
            if held is None or held.digest is None:
                return
            if leaf in self._written and (leaf not in writes or self._users[leaf] > 1):
                return
        # State that is written belongs to a layer; weights are known by their value alone.
        place: tuple[Any, ...] = ()
        if writes:
            held_by = [self._items[p.item].leaf for p in inputs]
            digests = tuple(leaf.digest for leaf in held_by if leaf is not None)
            place = (item.call, inputs[: len(item.call.operands)], digests)
            place = (*place, self._turn(item.owner, place))
        for position, leaf in enumerate(fresh):
            known = self._items[leaf].leaf
            assert known is not None
            own = (place, position) if leaf in writes else ()
            self._share(leaf, (known.kind, known.digest, *own), True)

    def _turn(self, owner: int, key: Any) -> int:
        """How often the model has had this key before."""
        self._seen[owner, key] += 1
        return self._seen[owner, key]

    def _share(self, number: int, key: Any, shared: bool) -> None:
        found = self._known.setdefault(key, number)
        self._rep[number] = found
        if shared:
            self._owner[found] = SHARED

    def _owners(self) -> dict[int, int]:
        """Of the items that are left. What could be shared, but one model has, is that model's:
        it may be fused with what others have in its place."""
        having: dict[int, set[int]] = {}
        for number, item in enumerate(self._items):
            having.setdefault(self._rep[number], set()).add(item.owner)
        return {n: min(who) if len(who) == 1 else self._owner[n] for n, who in having.items()}

    def compact(self) -> Forest:
        """The forest of what is left, numbered anew."""
        forest, rep = self._forest, self._rep
        owners = self._owners()
        new: dict[int, int] = {}
        items: list[Item] = []
        for number, item in enumerate(self._items):
            if rep[number] != number:
                continue
            new[number] = len(items)
            inputs = tuple(Port(new[rep[p.item]], p.result) for p in self._inputs.get(number, ()))
            after = tuple(sorted({new[rep[a]] for a in item.after if rep[a] != number}))
            items.append(
                Item(
                    owners[number],
                    item.name,
                    item.call,
                    inputs,
                    item.leaf,
                    item.no_grad,
                    after,
                    item.template,
                    item.where,
                )
            )
        outputs = tuple(
            Outputs(tuple(Port(new[rep[p.item]], p.result) for p in out.ports), out.structure)
            for out in forest.outputs
        )
        homes = {home: new[rep[leaf]] for home, leaf in forest.homes.items()}
        lost = {new[rep[n]]: ways for n, ways in forest.lost.items()}
        return Forest(tuple(items), outputs, homes, forest.forward, forest.batch_input, lost)
