"""The least number of batches, by search: for small forests, to know how far heuristics are.

A* (Hart, Nilsson and Raphael, 1968) over the sets of nodes that have run. Of a type, all that is
ready runs at once: to leave a ready node for later never saves a batch.
"""

from __future__ import annotations

import heapq

from retiarii.optimizer.scheduling.problem import Problem, Schedule


def exact(problem: Problem, most: int = 100_000) -> Schedule | None:
    """A schedule of the fewest batches.

    Args:
        problem: small: the number of sets of nodes may grow exponentially.
        most: how many sets to look at before giving up.

    Returns:
        A schedule, or ``None`` where ``most`` was not enough.
    """
    search = _Search(problem)
    start = 0
    best = {start: 0}
    came: dict[int, tuple[int, list[int]]] = {}
    queue = [(search.left(start), 0, start)]
    looked = 0
    while queue:
        _, minus_steps, done = heapq.heappop(queue)
        steps = -minus_steps
        if steps > best[done]:
            continue
        if done == search.all:
            return _walk(came, done)
        looked += 1
        if looked > most:
            return None
        for batch in search.ready(done).values():
            after = done
            for node in batch:
                after |= 1 << node
            if steps + 1 < best.get(after, len(problem.types) + 1):
                best[after] = steps + 1
                came[after] = (done, batch)
                # Of equal estimates, the one that has run more is looked at first.
                heapq.heappush(queue, (steps + 1 + search.left(after), -(steps + 1), after))
    return []


def _walk(came: dict[int, tuple[int, list[int]]], done: int) -> Schedule:
    batches: Schedule = []
    while done in came:
        done, batch = came[done]
        batches.append(batch)
    batches.reverse()
    return batches


class _Search:
    """Sets of nodes as bits of an integer."""

    def __init__(self, problem: Problem) -> None:
        self._types = problem.types
        self._kinds = problem.kinds
        self.all = (1 << len(problem.types)) - 1
        self._before = [sum(1 << other for other in set(reads)) for reads in problem.before]
        # How many of its own type come at or after each node, along the longest chain of them.
        self._chains = [1] * len(problem.types)
        for node in range(len(problem.types) - 1, -1, -1):
            for elder in problem.elders[node]:
                self._chains[elder] = max(self._chains[elder], 1 + self._chains[node])

    def ready(self, done: int) -> dict[int, list[int]]:
        """Type -> its nodes that can run."""
        found: dict[int, list[int]] = {}
        for node, needs in enumerate(self._before):
            if not done >> node & 1 and needs & ~done == 0:
                found.setdefault(self._types[node], []).append(node)
        return found

    def left(self, done: int) -> int:
        """At least so many batches are left: the longest chain of each type, summed."""
        longest = [0] * self._kinds
        for node, kind in enumerate(self._types):
            if not done >> node & 1:
                longest[kind] = max(longest[kind], self._chains[node])
        return sum(longest)
