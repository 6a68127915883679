"""The best of many schedules: of several rules, and with the doubtful choices made at random.

Where no type's frontier is ready as a whole, the frontier rule guesses. Guessing otherwise, a few
dozen times, finds schedules that launch fewer of the expensive groups; a try costs milliseconds.
Which rule is best depends on the models: on MobileNetV3 it is the largest share.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Final

from retiarii.optimizer.scheduling.agenda import largest_share, run_by_left
from retiarii.optimizer.scheduling.frontier import frontier, run_by_share
from retiarii.optimizer.scheduling.problem import Problem, Schedule

# How far a share may be off: tried from 0.1 to 0.3 on NAS-Bench-201 with 16 to 100 models.
_SPREAD: Final = 0.3
_MOST: Final = 48
# Nodes scheduled in all tries together: about a quarter of a second.
_NODES: Final = 80_000
_RUNS: Final = (run_by_share, run_by_left)


def _doubted(stream: random.Random, share: float) -> float:
    return share if share == 1 else share - _SPREAD * stream.random()


def restarts(problem: Problem) -> Schedule:
    """The cheapest schedule found; the same for the same problem."""
    best = min((rule(problem) for rule in (frontier, largest_share)), key=problem.cost)
    least = problem.cost(best)
    for turn in range(min(_MOST, _NODES // max(len(problem.types), 1))):
        if least <= problem.cheapest:
            break
        stream = random.Random(turn)
        tried = _RUNS[turn % 2](problem, partial(_doubted, stream))
        cost = problem.cost(tried)
        if cost < least:
            best, least = tried, cost
    return best
