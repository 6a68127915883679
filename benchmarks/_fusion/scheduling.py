"""How many groups each scheduling rule launches, against the bound."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import retiarii as rt
from _fusion.workloads import Space, autoformer, mobilenet_v3, nas_bench_201, samples
from retiarii import spaces
from retiarii.optimizer.dedup import dedup
from retiarii.optimizer.group import group
from retiarii.optimizer.lift import Model, lift
from retiarii.optimizer.scheduling.agenda import average_depth, largest_share, most_ready
from retiarii.optimizer.scheduling.depth import depth
from retiarii.optimizer.scheduling.exact import exact
from retiarii.optimizer.scheduling.frontier import frontier
from retiarii.optimizer.scheduling.problem import Problem, Schedule, Scheduler
from retiarii.optimizer.simplify import simplify

RULES: Mapping[str, Scheduler] = MappingProxyType(
    {
        "depth": depth,
        "average_depth": average_depth,
        "largest_share": largest_share,
        "most_ready": most_ready,
        "frontier": frontier,
    }
)


@dataclass(frozen=True)
class Counted:
    """One forest under all rules.

    Attributes:
        forest: of what.
        models: how many.
        nodes: that are grouped, after what is equal was removed.
        groups: launched, by rule.
        bound: below which there cannot be.
        optimum: the least that there can be, where searching for it came to an end.
        seconds: of each rule.
    """

    forest: str
    models: int
    nodes: int
    groups: Mapping[str, int]
    bound: int
    optimum: int | None
    seconds: Mapping[str, float]


def _darts() -> rt.ModelSpace:
    return spaces.darts(4, 6, 10, 8)


def _nasnet() -> rt.ModelSpace:
    return spaces.nasnet(4, 1, 10, 8)


_201 = partial(nas_bench_201, 4, 8)

# Where an optimum is searched for: nodes, and states that are looked at.
SMALL, SEARCHED = 150, 20_000

# Widths do not matter to scheduling: they are small.
FORESTS: Mapping[str, tuple[tuple[Space, ...], tuple[int, ...]]] = MappingProxyType(
    {
        "NAS-Bench-201": ((_201,), (2, 4, 16, 100, 1000)),
        "DARTS, 6 cells": ((_darts,), (2, 16)),
        "NASNet, 5 cells": ((_nasnet,), (2, 16)),
        "MobileNetV3": ((mobilenet_v3,), (2, 16, 100)),
        "AutoFormer": ((autoformer,), (2, 16, 100)),
        "NAS-Bench-201, DARTS, AutoFormer": ((_201, _darts, partial(autoformer, 8)), (3, 48)),
    }
)


def counts(largest: int) -> Iterator[Counted]:
    """All forests of at most ``largest`` models, or of that many where all are larger.

    Args:
        largest: number of models.
    """
    for name, (families, sizes) in FORESTS.items():
        for models in [k for k in sizes if k <= largest] or [largest]:
            problem = problem_of(samples(families, models))
            groups, seconds = {}, {}
            for rule, schedule in RULES.items():
                fresh = replace(problem)  # what it has computed for one rule, another computes anew
                begin = time.perf_counter()
                groups[rule] = len(schedule(fresh))
                seconds[rule] = time.perf_counter() - begin
            found = exact(problem, SEARCHED) if len(problem.types) <= SMALL else None
            optimum = None if found is None else len(found)
            if problem.bound == min(groups.values()):
                optimum = problem.bound  # none can be better
            yield Counted(name, models, len(problem.types), groups, problem.bound, optimum, seconds)


def problem_of(candidates: Sequence[rt.Candidate]) -> Problem:
    """What `rt.merge` would schedule."""
    models = [Model.of(c.graph, c.build(i)) for i, c in enumerate(candidates)]
    found: list[Problem] = []

    def keep(problem: Problem) -> Schedule:
        found.append(problem)
        return frontier(problem)

    group(dedup(simplify(lift(models, True)), None), schedule=keep)
    return found[0]
