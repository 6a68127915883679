"""Cuts a plan in two: the frozen prefix, a function of the inputs alone, and the rest.

To the prefix belongs what reads inputs, frozen parameters, buffers that nothing writes, and
constants; what is pure, draws nothing and writes nothing. What the rest reads of it are the
boundary values. What depends on no input (a table of positions) is in both, where both need it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from retiarii.ir.types import Attrs, Result, TensorType
from retiarii.optimizer.forest import SHARED, Forest, Item, Leaf, Outputs, Port
from retiarii.optimizer.group import has_rule
from retiarii.optimizer.lift import is_random, written
from retiarii.optimizer.plan import Group, OutputStack, Plan
from retiarii.optimizer.rules.base import Call


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor that the rest reads of the prefix.

    Attributes:
        name: of the node that computes it.
        type: at the example batch size.
        digest: of all that it follows from: operations, and the values of frozen tensors.
    """

    name: str
    type: TensorType
    digest: str


@dataclass(frozen=True, slots=True)
class Cut:
    """A plan in two.

    Attributes:
        head: the prefix: from the models' inputs to the boundary values.
        rest: from the boundary values, and the inputs that it reads as well, to the outputs.
        values: the boundary values.
        stacked: for each value, whether the head returns it with a dimension for members in front.
        reads: the numbers of the models' inputs that the rest takes after the values.
    """

    head: Plan
    rest: Plan
    values: tuple[Value, ...]
    stacked: tuple[bool, ...]
    reads: tuple[int, ...]


def cut(
    plan: Plan,
    changing: Collection[int],
    leaf_digest: Callable[[int], bytes],
) -> Cut | str:
    """Cuts the frozen prefix off a plan.

    Args:
        plan: laid out.
        changing: leaves that training writes: statistics of a BatchNorm that is trained.
        leaf_digest: a digest of the value of a leaf that does not change.

    Boundary values have the batch as first dimension; the prefix ends before what has not.

    Returns:
        The two plans; or, in words, why there is no prefix that is worth anything.
    """
    finder = _Finder(plan, changing)
    finder.retreat()
    if not finder.head:
        return "nothing but trained layers reads the inputs"
    if not any(map(finder.costs, finder.head)):
        return "what is frozen ahead of the first trained layer computes next to nothing"
    ports = finder.boundary()
    digests = _digests(plan, leaf_digest, finder.needed(finder.head))
    values = tuple(
        Value(
            plan.forest.items[p.item].name,
            plan.forest.type_of(p),
            blake2b(digests[p.item] + bytes([p.result]), digest_size=16).hexdigest(),
        )
        for p in ports
    )
    head = _head(plan, finder.groups_of(finder.head), ports)
    rest, reads = _rest(plan, finder.groups_of(finder.others()), ports)
    stacked = tuple(plan.forest.items[p.item].owner != SHARED for p in ports)
    return Cut(head, rest, values, stacked, reads)


class _Finder:
    """Which groups are the prefix.

    Attributes:
        head: the numbers of its groups.
    """

    def __init__(self, plan: Plan, changing: Collection[int]) -> None:
        self._plan = plan
        self._items = items = plan.forest.items
        self._batch = _batch(plan.forest)
        self._group = {m: g for g, group in enumerate(plan.groups) for m in group.members}
        self._out = {p for out in plan.forest.outputs for p in out.ports}
        varies = [item.leaf is not None and item.leaf.kind == "input" for item in items]
        fixed = [
            item.leaf is not None and not item.leaf.trainable and n not in changing
            for n, item in enumerate(items)
        ]
        self.head: set[int] = set()
        self._free: set[int] = set()  # frozen, and of no input
        for g, group in enumerate(plan.groups):
            reads = [p.item for m in group.members for p in items[m].inputs]
            frozen = all(fixed[r] for r in reads) and all(
                _repeatable(items[m], items) for m in group.members
            )
            for m in group.members:
                fixed[m] = frozen
                varies[m] = any(varies[p.item] for p in items[m].inputs)
            if frozen:
                data = any(varies[m] for m in group.members)
                (self.head if data else self._free).add(g)

    def groups_of(self, numbers: Collection[int]) -> list[Group]:
        """Groups by their numbers, in order, with what of no input they need."""
        return [self._plan.groups[g] for g in sorted(self.needed(numbers))]

    def needed(self, numbers: Collection[int]) -> set[int]:
        """These groups, and those of no input that they read."""
        found = set(numbers)
        for g in sorted((*found, *self._free), reverse=True):
            if g in found:
                found.update(r for r in self._read(g) if r in self._free)
        return found

    def others(self) -> set[int]:
        """The groups of the rest; of those of no input, the ones that outputs are made of."""
        made = {self._group[p.item] for p in self._out if p.item in self._group}
        every = set(range(len(self._plan.groups))) - self.head
        return {g for g in every if g not in self._free or g in made}

    def boundary(self) -> list[Port]:
        """What the rest reads of the prefix, in order."""
        found = {p for g in self.others() for p in self._ports(g)} | self._out
        return sorted(p for p in found if self._group.get(p.item) in self.head)

    def retreat(self) -> None:
        """Leaves out of the prefix what cannot, or should not, be a boundary."""
        while True:
            ports = self.boundary()
            read: dict[int, set[Port]] = {}
            for port in ports:
                read.setdefault(self._group[port.item], set()).add(port)
            inner = {r for g in self.head for r in self._read(g)}
            drop = {
                g
                for g in self.head
                if (g not in read and g not in inner)
                or any(self._unfit(p) for p in read.get(g, ()))
                or (g not in inner and not self.costs(g) and self._takes_room(g, ports))
            }
            if not drop:
                return
            self.head -= drop
            for g in sorted(self.head):  # what reads it cannot be ahead of it
                if any(r not in self.head and r not in self._free for r in self._read(g)):
                    self.head.discard(g)

    def costs(self, g: int) -> bool:
        """Whether computing it takes more than reading its result."""
        call = self._plan.groups[g].call
        flops = call.spec.flops
        if flops is None:  # what has no row of its own may be anything
            return call.spec.generic and not call.spec.elementwise
        return flops(call.attrs, call.operands, call.results) > 0

    def _unfit(self, port: Port) -> bool:
        """Whether it is no boundary: not one row a sample, or an output that models stack."""
        shape = self._plan.forest.type_of(port).shape
        if not shape or shape[0] != self._batch or 0 in shape:
            return True
        return port in self._out and self._items[port.item].owner != SHARED

    def _takes_room(self, g: int, kept: Collection[Port]) -> bool:
        """Whether keeping its results takes more than keeping what it reads."""
        group = self._plan.groups[g]
        ports = {p for p in self._ports(g) if self._group.get(p.item) in self.head}
        more = sum(_bytes(self._plan.forest.type_of(p)) for p in ports.difference(kept))
        return bool(ports) and more < sum(map(_bytes, group.call.results)) * len(group.members)

    def _ports(self, g: int) -> Iterator[Port]:
        for m in self._plan.groups[g].members:
            yield from self._items[m].inputs

    def _read(self, g: int) -> set[int]:
        return {self._group[p.item] for p in self._ports(g) if p.item in self._group}


def _repeatable(item: Item, items: Sequence[Item]) -> bool:
    """Whether it computes the same of the same, and does nothing else."""
    spec = item.call.spec
    if item.call.op == "opaque" or is_random(item.call) or written(item, items):
        return False
    # A dropout or a BatchNorm that does not train is as good as pure.
    return spec.pure or spec.random or spec.stateful


def _batch(forest: Forest) -> int:
    """The example batch size."""
    key = str(forest.batch_input)
    found = (i for i in forest.items if i.leaf and i.leaf.kind == "input" and i.leaf.key == key)
    return next(found).call.results[0].shape[0]


def _bytes(type_: TensorType) -> int:
    count = type_.dtype.itemsize
    for size in type_.shape:
        count *= size
    return count


# --- the two plans --------------------------------------------------------------------------------


def _head(plan: Plan, groups: Sequence[Group], ports: Sequence[Port]) -> Plan:
    """The plan of the prefix: all inputs of the models to the boundary values."""
    forest, items = plan.forest, plan.forest.items
    wanted = {n for n, item in enumerate(items) if item.leaf and item.leaf.kind == "input"}
    for group in groups:
        wanted.update(group.members)
        wanted.update(p.item for m in group.members for p in items[m].inputs)
    new = {old: number for number, old in enumerate(sorted(wanted))}

    def moved(port: Port) -> Port:
        return Port(new[port.item], port.result)

    made = tuple(_moved(items[n], new, moved) for n in sorted(wanted))
    found = tuple(map(moved, ports))
    homes = {home: new[leaf] for home, leaf in forest.homes.items() if leaf in new}
    returned = (Outputs(found, tuple(map(Result, range(len(found))))),)
    return Plan(
        Forest(made, returned, homes, forest.forward, forest.batch_input),
        tuple(replace(g, members=tuple(new[m] for m in g.members)) for g in groups),
        tuple(
            OutputStack(i, made[p.item].call.results[p.result], (p,), (0,))
            for i, p in enumerate(found)
        ),
    )


def _rest(
    plan: Plan, groups: Sequence[Group], ports: Sequence[Port]
) -> tuple[Plan, tuple[int, ...]]:
    """The plan of the rest, and the numbers of the models' inputs that it takes, too."""
    forest, items = plan.forest, plan.forest.items
    read = {p for g in groups for m in g.members for p in items[m].inputs}
    read |= {p for out in forest.outputs for p in out.ports}
    members = {m for g in groups for m in g.members}
    fronts = [_boundary_leaf(forest, port, i) for i, port in enumerate(ports)]
    place = {port: Port(i) for i, port in enumerate(ports)}
    kept: list[int] = []
    inputs: list[int] = []
    for number, item in enumerate(items):
        if item.leaf is not None and item.leaf.kind == "input":
            if Port(number) in read:
                inputs.append(number)
        elif item.leaf is not None or number in members:
            kept.append(number)
    new = {old: number for number, old in enumerate((*inputs, *kept), len(ports))}

    def moved(port: Port) -> Port:
        found = place.get(port)
        return Port(new[port.item], port.result) if found is None else found

    made = (*fronts, *(_moved(items[n], new, moved) for n in (*inputs, *kept)))
    outputs = tuple(Outputs(tuple(map(moved, o.ports)), o.structure) for o in forest.outputs)
    homes = {home: new[leaf] for home, leaf in forest.homes.items()}
    lost = {new[n]: ways for n, ways in forest.lost.items() if n in new}
    cut_forest = Forest(made, outputs, homes, forest.forward, 0, lost)
    fitted = [
        part
        for g in groups
        for part in _fitted(
            replace(g, members=tuple(new[m] for m in g.members)), cut_forest, len(ports)
        )
    ]
    stacks = tuple(replace(o, ports=tuple(map(moved, o.ports))) for o in plan.outputs)
    keys = tuple(int(leaf.key) for n in inputs if (leaf := items[n].leaf) is not None)
    return Plan(cut_forest, tuple(fitted), stacks), keys


def _boundary_leaf(forest: Forest, port: Port, number: int) -> Item:
    type_ = forest.type_of(port)
    name = forest.items[port.item].name
    return Item(
        SHARED, name, Call("input", Attrs(), (), (type_,)), (), Leaf("input", f"value:{number}")
    )


def _fitted(group: Group, forest: Forest, count: int) -> list[Group]:
    """A group that may read boundary values, which lie in no stack; one by one where it must be."""
    reads = list(zip(*(forest.items[m].inputs for m in group.members), strict=True))
    bound = [any(p.item < count for p in column) for column in reads]
    shared = tuple(
        s or (b and len(set(column)) == 1)
        for s, b, column in zip(group.shared, bound, reads, strict=True)
    )
    if shared == group.shared and not any(b and not s for b, s in zip(bound, shared, strict=True)):
        return [group]
    parts = [group.members]
    split = any(b and not s for b, s in zip(bound, shared, strict=True))
    if split or (len(group.members) > 1 and not has_rule(group.call, shared, len(group.members))):
        parts = [(m,) for m in group.members]
    found = []
    for members in parts:
        if len(members) < len(group.members):
            owners = [forest.items[p.item].owner for p in forest.items[members[0]].inputs]
            shared = tuple(owner == SHARED for owner in owners)
        fused = group.call.op != "opaque" and has_rule(group.call, shared, len(members))
        found.append(replace(group, members=members, shared=shared, fused=fused))
    return found


def _moved(item: Item, new: Mapping[int, int], moved: Callable[[Port], Port]) -> Item:
    after = tuple(new[a] for a in item.after if a in new)
    return replace(item, inputs=tuple(map(moved, item.inputs)), after=after)


def _digests(
    plan: Plan, leaf_digest: Callable[[int], bytes], groups: Collection[int]
) -> dict[int, bytes]:
    """For each item of the groups, a digest of all that its results follow from."""
    items = plan.forest.items
    found: dict[int, bytes] = {}

    def of(port: Port) -> bytes:
        leaf = items[port.item].leaf
        if leaf is not None and port.item not in found:
            key = leaf.key.encode() if leaf.kind == "input" else leaf_digest(port.item)
            found[port.item] = blake2b(leaf.kind.encode() + b":" + key, digest_size=16).digest()
        return found[port.item] + bytes([port.result])

    for g in sorted(groups):
        call = plan.groups[g].call
        what = (call.op, call.attrs.key, call.results, call.result, call.state, call.training)
        head = blake2b(repr(what).encode(), digest_size=16).digest()
        for m in plan.groups[g].members:
            reads = b"".join(map(of, items[m].inputs))
            found[m] = blake2b(head + reads, digest_size=16).digest()
    return found
