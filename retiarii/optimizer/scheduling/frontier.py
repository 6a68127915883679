"""The rule of ED-Batch (Chen et al., ICML 2023): run the type whose remaining frontier is ready.

A type's frontier are its remaining nodes before which no other of the type remains. To run it when
all of it is ready never costs a batch more than the lower bound; where no type is so, the one with
the largest ready share goes first.
"""

from __future__ import annotations

from collections.abc import Callable

from retiarii.optimizer.scheduling.problem import Problem, Schedule


def frontier(problem: Problem) -> Schedule:
    """Batches by the largest ready share of the frontier; all that is ready of a type runs."""
    return run_by_share(problem, lambda share: share)


def run_by_share(problem: Problem, rank: Callable[[float], float]) -> Schedule:
    """Batches by the rank of a type's ready share, the highest first; ties by what is ready."""
    types = problem.types
    waiting = [len(set(reads)) for reads in problem.before]
    ready: list[list[int]] = [[] for _ in range(problem.kinds)]
    # A node is of its type's frontier once no elder remains.
    elders = [len(e) for e in problem.elders]
    younger: list[list[int]] = [[] for _ in types]
    for node, older in enumerate(problem.elders):
        for elder in older:
            younger[elder].append(node)
    size = [0] * problem.kinds
    for node, kind in enumerate(types):
        size[kind] += elders[node] == 0
    active: set[int] = set()
    for node, count in enumerate(waiting):
        if count == 0:
            ready[types[node]].append(node)
            active.add(types[node])
    batches: Schedule = []
    while active:
        kind = max(active, key=lambda k: (rank(len(ready[k]) / size[k]), len(ready[k]), -k))
        batch, ready[kind] = ready[kind], []
        active.discard(kind)
        batches.append(batch)
        size[kind] -= len(batch)
        for node in batch:
            for other in younger[node]:
                elders[other] -= 1
                size[kind] += elders[other] == 0
            for user in problem.after[node]:
                waiting[user] -= 1
                if waiting[user] == 0:
                    ready[types[user]].append(user)
                    active.add(types[user])
    return batches
