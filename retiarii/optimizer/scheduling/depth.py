"""Batching by depth: nodes of one type at one distance from the inputs (TensorFlow Fold)."""

from __future__ import annotations

from retiarii.optimizer.scheduling.problem import Problem, Schedule


def depth(problem: Problem) -> Schedule:
    """Batches of nodes of equal depth and type, depth by depth."""
    depths: list[int] = []
    groups: dict[tuple[int, int], list[int]] = {}
    for node, reads in enumerate(problem.before):
        depths.append(1 + max((depths[other] for other in reads), default=-1))
        groups.setdefault((depths[node], problem.types[node]), []).append(node)
    return [groups[key] for key in sorted(groups)]


def mean_depths(problem: Problem) -> list[float]:
    """For each type, the average depth of its nodes."""
    depths: list[int] = []
    total, count = [0] * problem.kinds, [0] * problem.kinds
    for node, reads in enumerate(problem.before):
        depths.append(1 + max((depths[other] for other in reads), default=-1))
        total[problem.types[node]] += depths[node]
        count[problem.types[node]] += 1
    return [t / c if c else 0.0 for t, c in zip(total, count, strict=True)]
