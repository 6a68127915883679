"""What merging did, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from retiarii.optimizer.choose import Choice
from retiarii.optimizer.forest import Forest
from retiarii.optimizer.plan import Plan


@dataclass(frozen=True, slots=True)
class Stats:
    """What merging did.

    Attributes:
        models: how many models there are.
        nodes_before: calls that the models alone make in one forward pass.
        nodes_after: calls that the merged model makes.
        shared: calls saved because another model, or the same, computes the same.
        groups: calls that compute several members at once.
        fused: calls of the models that such groups compute.
        apart: calls that no rule fuses.
        copies: pieces that are copied to bring the members of groups together.
        choice: what is fused, and why.
        execution: how the program runs, and why: eager, or compiled.
    """

    models: int
    nodes_before: int
    nodes_after: int
    shared: int
    groups: int
    fused: int
    apart: int
    copies: int
    choice: Choice
    execution: str = ""

    def __str__(self) -> str:
        return (
            f"{self.models} models: {self.nodes_before} calls become {self.nodes_after} "
            f"({self.shared} shared, {self.fused} fused into {self.groups}, {self.apart} apart), "
            f"{self.copies} copies; {self.choice.reason}"
        )


def calls_of(lifted: Forest) -> tuple[int, ...]:
    """For each model, the calls that it alone makes."""
    counts = Counter(item.owner for item in lifted.items if item.leaf is None)
    return tuple(counts[model] for model in range(lifted.models))


def stats_of(calls: Sequence[int], plan: Plan, copies: int, choice: Choice) -> Stats:
    """The numbers of one merge.

    Args:
        calls: for each model, the calls that it alone makes.
        plan: what runs.
        copies: pieces that are copied.
        choice: what is fused.
    """
    before = sum(calls)
    # What is repeated for several readers is one call of its model.
    kept = len({(i.owner, i.name) for i in plan.forest.items if i.leaf is None})
    several = [g for g in plan.groups if len(g.members) > 1]
    return Stats(
        models=len(calls),
        nodes_before=before,
        nodes_after=len(plan.groups),
        shared=before - kept,
        groups=len(several),
        fused=sum(len(g.members) for g in several),
        apart=sum(not g.fused for g in plan.groups),
        copies=copies,
        choice=choice,
    )
