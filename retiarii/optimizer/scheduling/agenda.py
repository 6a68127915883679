"""Agenda batching (Neubig, Goldberg and Dyer, 2017): of what is ready, one type at a time."""

from __future__ import annotations

from collections.abc import Callable

from retiarii.optimizer.scheduling.depth import mean_depths
from retiarii.optimizer.scheduling.problem import Problem, Schedule


def average_depth(problem: Problem) -> Schedule:
    """DyNet's rule: the ready type whose nodes have the smallest average depth."""
    means = mean_depths(problem)
    return _agenda(problem, lambda kind, _ready, _left: means[kind])


def largest_share(problem: Problem) -> Schedule:
    """The type of whose remaining nodes the largest share is ready."""
    return _agenda(problem, lambda _kind, ready, left: -ready / left)


def run_by_left(problem: Problem, rank: Callable[[float], float]) -> Schedule:
    """The type with the highest rank of its ready share."""
    return _agenda(problem, lambda _kind, ready, left: -rank(ready / left))


def most_ready(problem: Problem) -> Schedule:
    """The type with most ready nodes."""
    return _agenda(problem, lambda _kind, ready, _left: -float(ready))


def _agenda(problem: Problem, cost: Callable[[int, int, int], float]) -> Schedule:
    """Runs all ready nodes of the type of the least cost(type, number ready, number left)."""
    waiting = [len(set(reads)) for reads in problem.before]
    left = [0] * problem.kinds
    for kind in problem.types:
        left[kind] += 1
    ready: dict[int, list[int]] = {}
    for node, count in enumerate(waiting):
        if count == 0:
            ready.setdefault(problem.types[node], []).append(node)
    batches: Schedule = []
    while ready:
        kind = min(ready, key=lambda k: (cost(k, len(ready[k]), left[k]), k))
        batch = ready.pop(kind)
        left[kind] -= len(batch)
        batches.append(batch)
        for node in batch:
            for user in problem.after[node]:
                waiting[user] -= 1
                if waiting[user] == 0:
                    ready.setdefault(problem.types[user], []).append(user)
    return batches
