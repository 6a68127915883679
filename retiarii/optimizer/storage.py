"""Where the merged model keeps each model's parameters and buffers: stacks of equal tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from retiarii.ir.build.expressions import Names
from retiarii.ir.types import TensorType
from retiarii.optimizer.forest import SHARED, Forest
from retiarii.optimizer.plan import Plan

Home = tuple[int, str]
# Attributes of the merged model that are not stacks.
_TAKEN = frozenset(
    {
        *dir(nn.Module),
        "models",
        "program",
        "source",
        "stacked",
        "stats",
        "storage",
        "streams",
        "templates",
    }
)


@dataclass(frozen=True, slots=True)
class Stack:
    """One tensor of the merged model.

    Attributes:
        name: its attribute's.
        kind: ``"parameter"``, ``"buffer"`` or ``"constant"``.
        trainable: whether it takes a gradient.
        type: of one member.
        homes: for each member, the (model, state key) whose value it is.
        plain: all models share the one member, and the tensor has no dimension for members.
    """

    name: str
    kind: str
    trainable: bool
    type: TensorType
    homes: tuple[Home, ...]
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Storage:
    """All stacks, and who lies where.

    Attributes:
        stacks: every parameter, buffer and constant of every model is in exactly one.
        places: (model, state key) -> (stack, member). Ties and shared values share a place.
    """

    stacks: tuple[Stack, ...]
    places: Mapping[Home, tuple[int, int]]

    def of(self, forest: Forest) -> dict[int, tuple[int, int]]:
        """(stack, member) for each leaf of a forest of these models."""
        return {leaf: self.places[home] for home, leaf in forest.homes.items()}


def store(plan: Plan) -> Storage:
    """Stacks in the order in which groups read them, so that reading takes no copy."""
    forest = plan.forest
    first_home: dict[int, Home] = {}
    for home, leaf in forest.homes.items():
        first_home.setdefault(leaf, home)
    stacks: list[Stack] = []
    placed: dict[int, tuple[int, int]] = {}

    def put(leaves: list[int], plain: bool) -> None:
        held = forest.items[leaves[0]]
        assert held.leaf is not None
        homes = tuple(first_home[leaf] for leaf in leaves)
        for place, leaf in enumerate(leaves):
            placed[leaf] = (len(stacks), place)
        type_ = held.call.results[0]
        stacks.append(Stack("", held.leaf.kind, held.leaf.trainable, type_, homes, plain))

    for group in plan.groups:
        for j in range(len(group.shared)):
            leaves = [forest.items[m].inputs[j].item for m in group.members]
            fresh = [
                leaf
                for leaf in dict.fromkeys(leaves)
                if forest.items[leaf].leaf is not None and leaf in first_home and leaf not in placed
            ]
            if fresh and forest.items[fresh[0]].owner == SHARED:
                put(fresh[:1], True)
            elif fresh:
                put(fresh, False)
    unread: dict[tuple[str, bool, TensorType, int], list[int]] = {}
    for leaf in first_home:
        if leaf not in placed:
            item = forest.items[leaf]
            assert item.leaf is not None
            if item.owner == SHARED:
                put([leaf], True)  # read in the other mode
                continue
            lost = forest.lost.get(leaf, 0)
            key = (item.leaf.kind, item.leaf.trainable, item.call.results[0], lost)
            unread.setdefault(key, []).append(leaf)
    for leaves in unread.values():
        put(leaves, False)
    places = {home: placed[leaf] for home, leaf in forest.homes.items()}
    names = stack_names([(s.homes, s.plain) for s in stacks])
    return Storage(
        tuple(replace(s, name=name) for s, name in zip(stacks, names, strict=True)), places
    )


def stack_names(stacks: Sequence[tuple[Sequence[Home], bool]]) -> list[str]:
    """Names for stacks, from their homes and whether all models share them."""
    names = Names(_TAKEN)
    found = []
    for homes, plain in stacks:
        wanted = homes[0][1].removeprefix("constant:").replace(".", "_")
        found.append(names.new(wanted if plain or len(homes) == 1 else f"{wanted}_x{len(homes)}"))
    return found
