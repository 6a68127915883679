"""The plan: the forest's items in groups, in the order in which they run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from retiarii.ir.types import TensorType
from retiarii.optimizer.forest import SHARED, Forest, Port, shown
from retiarii.optimizer.rules.base import Call


@dataclass(frozen=True, slots=True)
class Group:
    """Items that run as one call.

    Attributes:
        call: what each member computes.
        members: items, in the order in which they lie in the stacked tensors.
        shared: for each input, whether all members read the same tensor.
        no_grad: it runs without recording gradients.
        fused: a rule computes it; where not, there is one member, called as torch calls it.
    """

    call: Call
    members: tuple[int, ...]
    shared: tuple[bool, ...]
    no_grad: bool = False
    fused: bool = True


@dataclass(frozen=True, slots=True)
class OutputStack:
    """Equal outputs of several models: one stacked tensor is handed out.

    Attributes:
        position: which of the models' output tensors it is.
        type: of one member.
        ports: the tensors, in the order in which they are stacked.
        models: their models.
    """

    position: int
    type: TensorType
    ports: tuple[Port, ...]
    models: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What runs, and in which order.

    Attributes:
        forest: whose items are meant.
        groups: in the order in which they run; leaves are in none.
        outputs: what comes out.
    """

    forest: Forest
    groups: tuple[Group, ...]
    outputs: tuple[OutputStack, ...]

    def __str__(self) -> str:
        """One group a line: size, call, members by model and name."""
        items = self.forest.items
        fused = sum(len(g.members) > 1 for g in self.groups)
        lines = [f"plan of {len(self.groups)} calls, {fused} of them fused"]
        for number, group in enumerate(self.groups):
            first = items[group.members[0]]
            who = _listed(
                f"{'*' if items[m].owner == SHARED else items[m].owner}:{items[m].name}"
                for m in group.members
            )
            apart = "" if group.fused else " apart"
            lines.append(f"  g{number} {len(group.members)} x {shown(first)}{apart}: {who}")
        for out in self.outputs:
            lines.append(f"  out {out.position} {out.type}: models {_listed(map(str, out.models))}")
        return "\n".join(lines)


def _listed(parts: Iterable[str], most: int = 8) -> str:
    found = list(parts)
    rest = len(found) - most
    return ", ".join(found[:most]) + (f" and {rest} more" if rest > 0 else "")
