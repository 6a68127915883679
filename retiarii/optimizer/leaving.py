"""Models leave a cohort: the plan of the others, by leaving out, and where their tensors go.

Nothing is parsed, lifted, deduplicated or scheduled again. Members are dropped from their groups,
and what no model that stays needs is dropped whole; the order of the rest is kept, so that slices
stay slices.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from retiarii.errors import MergeError
from retiarii.optimizer.beginning import Begun, Laid
from retiarii.optimizer.forest import SHARED, Forest, Item, Outputs, Port
from retiarii.optimizer.group import has_rule
from retiarii.optimizer.lift import written
from retiarii.optimizer.plan import Group, OutputStack, Plan
from retiarii.optimizer.simplify import acts
from retiarii.optimizer.storage import Home, Stack, Storage, stack_names


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the members of a stack of the remaining models were before.

    Attributes:
        stack: the number of the old stack.
        members: for each member of the new one, its number in the old one.
        plain: all models share the one member, and the tensor has no dimension for members.
    """

    stack: int
    members: tuple[int, ...]
    plain: bool


@dataclass(frozen=True, slots=True)
class Moved:
    """Where everything went.

    Attributes:
        models: for each remaining model, its old number.
        stacks: for each stack that there is now, where it comes from.
    """

    models: tuple[int, ...]
    stacks: tuple[Origin, ...]

    @property
    def places(self) -> dict[tuple[int, int], tuple[int, int]]:
        """(old stack, old member) -> (new stack, new member), for all that stayed."""
        return {
            (origin.stack, old): (number, new)
            for number, origin in enumerate(self.stacks)
            for new, old in enumerate(origin.members)
        }


def staying(count: int, leaving: Collection[int]) -> tuple[int, ...]:
    """The numbers of the models that stay, in order.

    Raises:
        MergeError: a model that is not there, or none that stays.
    """
    unknown = sorted(set(leaving) - set(range(count)))
    if unknown:
        raise MergeError(
            f"there is no model {unknown[0]}", fix=f"models are numbered from 0 to {count - 1}"
        )
    found = tuple(i for i in range(count) if i not in set(leaving))
    if not found:
        raise MergeError("all models leave", fix="let go of the merged model instead")
    return found


def leave(held: Begun, stay: Sequence[int]) -> tuple[Begun, Moved]:
    """What the models that stay begin with, and where it was before.

    Args:
        held: what there is now: present values, and a plan for each mode that has one.
        stay: the numbers of the models that stay.
    """
    new = {old: number for number, old in enumerate(stay)}
    storage, origins = storage_without(held.storage, stay)
    begun = Begun(
        storage,
        sharing_without(held.sharing, stay),
        [selected(held.values[origin.stack], origin) for origin in origins],
        held.mode,
        held.training,
        {mode: _narrowed(laid, stay) for mode, laid in held.laid.items()},
        {(new[i], k): copy.deepcopy(m) for (i, k), m in held.opaque.items() if i in new},
    )
    return begun, Moved(tuple(stay), origins)


def _narrowed(laid: Laid, stay: Sequence[int]) -> Laid:
    known = laid.stay
    return replace(laid, stay=tuple(stay if known is None else [known[i] for i in stay]))


def present(laid: Laid) -> tuple[Plan, tuple[int, ...]]:
    """The plan of the models that are left, and the calls that each of them alone makes."""
    if laid.stay is None:
        return laid.plan, laid.calls
    return without(laid.plan, laid.stay), tuple([laid.calls[i] for i in laid.stay])


def selected(tensor: Tensor, origin: Origin) -> Tensor:
    """The members of an old stack that stay; a copy."""
    tensor = tensor.detach()
    if origin.plain or len(origin.members) == len(tensor):
        return tensor.clone()
    # In the order in which it lies in memory, so that it stays so and is copied once.
    strides = tensor.stride()
    order = sorted(range(tensor.ndim), key=strides.__getitem__, reverse=True)
    members = torch.tensor(origin.members, device=tensor.device)
    chosen = tensor.permute(order).index_select(order.index(0), members)
    return chosen.permute([order.index(d) for d in range(tensor.ndim)])


def storage_without(storage: Storage, stay: Sequence[int]) -> tuple[Storage, tuple[Origin, ...]]:
    """The stacks of the models that stay, and where each comes from."""
    new = {old: number for number, old in enumerate(stay)}
    held: list[dict[int, Home]] = [{} for _ in storage.stacks]
    for (model, key), (number, member) in storage.places.items():
        if model in new:
            held[number].setdefault(member, (new[model], key))
    stacks: list[Stack] = []
    origins: list[Origin] = []
    moved: dict[tuple[int, int], tuple[int, int]] = {}
    for number, by_member in enumerate(held):
        stack = storage.stacks[number]
        if not by_member:
            continue
        members = tuple(sorted(by_member))
        for place, member in enumerate(members):
            moved[number, member] = (len(stacks), place)
        stacks.append(replace(stack, homes=tuple(by_member[m] for m in members)))
        origins.append(Origin(number, members, stack.plain))
    places = {
        (new[model], key): moved[place]
        for (model, key), place in storage.places.items()
        if model in new
    }
    names = stack_names([(s.homes, s.plain) for s in stacks])
    named = tuple(replace(s, name=name) for s, name in zip(stacks, names, strict=True))
    return Storage(named, places), tuple(origins)


def sharing_without(sharing: Mapping[Home, Home], stay: Sequence[int]) -> dict[Home, Home]:
    """Which tensors of the models that stay are one: (model, state key) -> its first holder."""
    new = {old: number for number, old in enumerate(stay)}
    first: dict[Home, Home] = {}
    return {
        (new[model], key): first.setdefault(origin, (new[model], key))
        for (model, key), origin in sharing.items()
        if model in new
    }


def without(plan: Plan, stay: Sequence[int]) -> Plan:
    """The plan of the models that stay, numbered anew."""
    owners = {old: number for number, old in enumerate(stay)}
    owners[SHARED] = SHARED
    kept = _kept(plan.forest, owners)
    new = {old: number for number, old in enumerate(kept)}
    forest = _forest(plan.forest, kept, new, owners, stay)
    groups: list[Group] = []
    for group in plan.groups:
        members = tuple(new[m] for m in group.members if m in new)
        if len(members) == len(group.members):
            groups.append(replace(group, members=members))
        elif members:
            groups += _smaller(group, members)
    outputs = []
    for out in plan.outputs:
        rows = [(p, m) for p, m in zip(out.ports, out.models, strict=True) if m in owners]
        if rows:
            ports = tuple(Port(new[p.item], p.result) for p, _ in rows)
            models = tuple(owners[m] for _, m in rows)
            outputs.append(OutputStack(out.position, out.type, ports, models))
    return Plan(forest, tuple(groups), tuple(outputs))


def _smaller(group: Group, members: tuple[int, ...]) -> list[Group]:
    """A group with fewer members; one by one where the rule does not serve so few."""
    # What serves two, and more, serves any number between.
    several = len(members) > 1
    if not group.fused or several or has_rule(group.call, group.shared, 1):
        return [replace(group, members=members)]
    return [replace(group, members=(m,), fused=False) for m in members]


def _kept(forest: Forest, owners: Mapping[int, int]) -> list[int]:
    """The items that models which stay need, or own."""
    items = forest.items
    needed = {p.item for model in owners if model >= 0 for p in forest.outputs[model].ports}
    needed.update(leaf for (model, _), leaf in forest.homes.items() if model in owners)
    for number in range(len(items) - 1, -1, -1):
        item = items[number]
        if item.owner == SHARED:
            # Layers that all share keep their statistics, whether or not somebody reads them.
            keep = item.leaf is not None and item.leaf.kind == "input"
            if number not in needed and acts(item):
                keep = any(leaf in needed for leaf in written(item, items))
        else:
            keep = item.owner in owners
        if keep:
            needed.add(number)
        if number in needed:
            needed.update([p.item for p in item.inputs])
    return sorted(needed)


def _forest(
    forest: Forest,
    kept: Sequence[int],
    new: Mapping[int, int],
    owners: Mapping[int, int],
    stay: Sequence[int],
) -> Forest:
    ports: dict[Port, Port] = {}

    def moved(port: Port) -> Port:
        found = ports.get(port)
        if found is None:
            found = ports[port] = Port(new[port.item], port.result)
        return found

    items = tuple(
        Item(
            owners[item.owner],
            item.name,
            item.call,
            tuple([moved(p) for p in item.inputs]) if item.inputs else (),
            item.leaf,
            item.no_grad,
            tuple([new[a] for a in item.after if a in new]) if item.after else (),
            item.template,
            item.where,
        )
        if item.owner != owners[item.owner] or item.inputs or item.after
        else item
        for item in map(forest.items.__getitem__, kept)
    )
    outputs = tuple(
        Outputs(tuple(map(moved, forest.outputs[m].ports)), forest.outputs[m].structure)
        for m in stay
    )
    homes = {(owners[m], key): new[leaf] for (m, key), leaf in forest.homes.items() if m in owners}
    lost = {new[n]: ways for n, ways in forest.lost.items() if n in new}
    return Forest(items, outputs, homes, forest.forward, forest.batch_input, lost)
