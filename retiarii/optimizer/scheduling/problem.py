"""The scheduling problem: nodes with types and predecessors; a batch is ready nodes of one type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Problem:
    """A forest to run in batches.

    Attributes:
        types: for each node, a number from 0 on; only nodes of one type may share a batch.
        before: for each node, the nodes that must have run; all of them have smaller numbers.
        trees: for each node, the number of the model it belongs to.
        weights: for each type, what one more batch of it costs; empty: all the same.
    """

    types: Sequence[int]
    before: Sequence[Sequence[int]]
    trees: Sequence[int]
    weights: Sequence[float] = ()

    @cached_property
    def after(self) -> list[list[int]]:
        """For each node, those that wait for it, each once."""
        found: list[list[int]] = [[] for _ in self.types]
        for node, reads in enumerate(self.before):
            for other in set(reads):
                found[other].append(node)
        return found

    @cached_property
    def kinds(self) -> int:
        """The number of types."""
        return max(self.types, default=-1) + 1

    @cached_property
    def elders(self) -> list[frozenset[int]]:
        """For each node, the nearest nodes of its own type that must have run before it."""
        nearest: list[dict[int, frozenset[int]]] = []
        left = [len(users) for users in self.after]
        found: list[frozenset[int]] = []
        for node, reads in enumerate(self.before):
            own: dict[int, frozenset[int]] = {}
            for other in set(reads):
                for kind, nodes in nearest[other].items():
                    known = own.get(kind)
                    own[kind] = nodes if known is None or known is nodes else known | nodes
                left[other] -= 1
                if left[other] == 0:
                    nearest[other] = {}  # nobody asks again
            kind = self.types[node]
            found.append(own.get(kind, frozenset()))
            own[kind] = frozenset((node,))
            nearest.append(own)
        return found

    @cached_property
    def levels(self) -> list[int]:
        """For each node, how many nodes of its own type the longest chain of them has before it."""
        levels: list[int] = []
        for elders in self.elders:
            levels.append(1 + max((levels[e] for e in elders), default=-1))
        return levels

    @cached_property
    def chains(self) -> list[int]:
        """For each type, the longest chain of its nodes: it takes at least so many batches."""
        longest = [0] * self.kinds
        for node, level in enumerate(self.levels):
            longest[self.types[node]] = max(longest[self.types[node]], level + 1)
        return longest

    @property
    def bound(self) -> int:
        """The least number of batches there can be."""
        return sum(self.chains)

    @property
    def cheapest(self) -> float:
        """The least cost there can be."""
        return sum(self.weight(kind) * count for kind, count in enumerate(self.chains))

    def weight(self, kind: int) -> float:
        """What one more batch of a type costs."""
        return self.weights[kind] if self.weights else 1.0

    def cost(self, schedule: Schedule) -> float:
        """The weights of a schedule's batches, summed."""
        return sum(self.weight(self.types[batch[0]]) for batch in schedule)


Schedule = list[list[int]]
Scheduler = Callable[[Problem], Schedule]
