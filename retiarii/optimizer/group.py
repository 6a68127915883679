"""Pass 2, group: equal calls of different models and branches become one, scheduled together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from retiarii.optimizer.forest import SHARED, Forest, Item, Port
from retiarii.optimizer.plan import Group, OutputStack, Plan
from retiarii.optimizer.repeat import BESIDE, readers_of
from retiarii.optimizer.rules.base import Call, Form, Fusion
from retiarii.optimizer.rules.registry import lower_group
from retiarii.optimizer.scheduling.problem import Problem, Scheduler
from retiarii.optimizer.scheduling.restarts import restarts
from retiarii.optimizer.simplify import gradient_ways

# What one more call of a family costs on a CPU, against an elementwise one: convolutions and
# products have to be set up each time. Other calls count as elementwise.
_WEIGHTS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "attention": 6.0,
        "batch_norm": 3.0,
        "conv": 6.0,
        "conv_transpose": 6.0,
        "linear": 3.0,
        "matmul": 3.0,
        "norm": 3.0,
        "pool": 2.0,
        "recurrent": 20.0,
    }
)
# Whether a group of this call, with these inputs shared, is to be fused.
Wanted = Callable[[Call, tuple[bool, ...]], bool]


def group(
    forest: Forest,
    wanted: Wanted | None = None,
    schedule: Scheduler = restarts,
    beside: bool = False,
) -> Plan:
    """Groups the forest's items.

    Args:
        forest: deduplicated or not.
        wanted: which calls to fuse, of those that a rule can; ``None`` is all.
        schedule: the rule by which ready nodes are batched.
        beside: whether calls around convolutions follow their groups, so that nothing is copied
            between them.
    """
    worker = _Grouping(forest, wanted)
    nodes = [i for i, item in enumerate(forest.items) if item.leaf is None]
    number = {item: n for n, item in enumerate(nodes)}
    kinds: dict[Any, int] = {}
    keys: list[Any] = [worker.kind(i) for i in nodes]
    if beside:
        readers = readers_of(forest.items)
        keys = [(key, worker.beside(i, readers)) for i, key in zip(nodes, keys, strict=True)]
    types = [kinds.setdefault(key, len(kinds)) for key in keys]
    before = [
        [
            number[p]
            for p in (*(p.item for p in forest.items[i].inputs), *forest.items[i].after)
            if p in number
        ]
        for i in nodes
    ]
    owners = [forest.items[i].owner for i in nodes]
    weights = [1.0] * len(kinds)
    for i, kind in zip(nodes, types, strict=True):
        weights[kind] = _WEIGHTS.get(forest.items[i].call.spec.fuse or "", 1.0)
    batches = schedule(Problem(types, before, owners, weights))
    groups = [worker.group([nodes[n] for n in batch]) for batch in batches]
    return Plan(forest, tuple(groups), _outputs(forest))


class _Grouping:
    def __init__(self, forest: Forest, wanted: Wanted | None) -> None:
        self._items = forest.items
        self._wanted = wanted
        self._fusible: dict[tuple[Call, tuple[bool, ...]], bool] = {}
        self._ways = gradient_ways(
            forest.items, [item.inputs for item in forest.items], forest.outputs
        )
        for number, ways in forest.lost.items():
            self._ways[number] |= ways

    def kind(self, number: int) -> Any:
        """What items of one group have in common."""
        item = self._items[number]
        shared = self._shared(item)
        if item.owner == SHARED or not self.fuses(item.call, shared):
            return number
        fixed = tuple(p if s else None for p, s in zip(item.inputs, shared, strict=True))
        # The backward pass of a group gives all its members gradients, zeros where need be. Alone,
        # what leads to no loss has none, and optimizers leave it alone.
        return item.call, item.no_grad, fixed, self._held(item), self._ways[number]

    def beside(self, number: int, readers: Sequence[Sequence[int]]) -> Any:
        """The kind of the call that reads what an item makes, or makes what it reads."""
        item = self._items[number]
        if item.owner == SHARED or item.call.spec.fuse in BESIDE:
            return None
        beside = {r for r in readers[number] if self._items[r].call.spec.fuse in BESIDE}
        if len(item.call.operands) == 1 and len(beside) == len(readers[number]) > 0:
            kinds = {self.kind(r) for r in beside}
            if len(kinds) == 1:
                return "before", kinds.pop()
        source = item.inputs[0].item if len(item.call.operands) == 1 else None
        if source is None or self._items[source].leaf is not None:
            return None
        if self._items[source].call.spec.fuse in BESIDE and len(readers[source]) == 1:
            return "behind", self.kind(source)
        return None

    def group(self, members: list[int]) -> Group:
        item = self._items[members[0]]
        shared = self._shared(item)
        fused = item.call.op != "opaque" and has_rule(item.call, shared, len(members))
        return Group(item.call, tuple(members), shared, item.no_grad, fused)

    def fuses(self, call: Call, shared: tuple[bool, ...]) -> bool:
        found = self._fusible.get((call, shared))
        if found is None:
            found = call.op != "opaque" and has_rule(call, shared, 2)
            found = found and (self._wanted is None or self._wanted(call, shared))
            self._fusible[call, shared] = found
        return found

    def _shared(self, item: Item) -> tuple[bool, ...]:
        return tuple(self._items[p.item].owner == SHARED for p in item.inputs)

    def _held(self, item: Item) -> tuple[int | None, ...]:
        """For each input: which outputs give a leaf its gradient; ``None`` for what is computed."""
        return tuple(map(self._learns, item.inputs))

    def _learns(self, port: Port) -> int | None:
        leaf = self._items[port.item].leaf
        if leaf is None:
            return None
        return self._ways[port.item] if leaf.trainable else -1


def has_rule(call: Call, shared: tuple[bool, ...], size: int) -> bool:
    """Whether a rule fuses so many of these calls."""
    forms = tuple(Form.PLAIN if s else Form.MEMBERS for s in shared)
    return lower_group(Fusion(call, size, shared, forms)) is not None


def _outputs(forest: Forest) -> tuple[OutputStack, ...]:
    """Outputs of equal position and type, all the models' in one."""
    stacks: dict[Any, tuple[list[Any], list[int]]] = {}
    for model, out in enumerate(forest.outputs):
        for position, port in enumerate(out.ports):
            shared = port if forest.items[port.item].owner == SHARED else None
            key = (position, forest.type_of(port), shared)
            ports, models = stacks.setdefault(key, ([], []))
            ports.append(port)
            models.append(model)
    return tuple(
        OutputStack(position, type_, tuple(ports), tuple(models))
        for (position, type_, _), (ports, models) in stacks.items()
    )
