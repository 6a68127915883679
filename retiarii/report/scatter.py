"""Plot: two numbers of each trial against each other, and which trials no other is better than."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeGuard

from retiarii.objectives.names import Objective
from retiarii.objectives.pareto import front
from retiarii.report.svg import axes, number_of, of_trial, picture, plane

if TYPE_CHECKING:
    from retiarii.result import Result

# What a model costs, of which less is better; the first that trials have is shown with the score.
_COSTS = ("params", "flops", "latency", "model_size", "seconds")
_WIDE = 50.0


@dataclass(frozen=True)
class Pair:
    """Two numbers of each trial: (trial, first, second)."""

    first: Objective
    second: Objective
    points: tuple[tuple[int, float, float], ...]


def pairs(result: Result) -> list[Pair]:
    """What to plot: each pair of objectives, or the score and what a trial costs."""
    score = Objective(result.metric, result.maximize)
    if len(result.objectives) > 1:
        wanted = list(combinations(result.objectives, 2))
    else:
        wanted = [(score, Objective(name, False)) for name in _COSTS]
    found = (_pair(result, first, second) for first, second in wanted)
    drawn = [pair for pair in found if len(pair.points) > 1]
    return drawn if len(result.objectives) > 1 else drawn[:1]


def _pair(result: Result, first: Objective, second: Objective) -> Pair:
    points = []
    for trial in result.trials:
        if trial.state != "complete" or trial.same_as is not None:
            continue
        known: dict[str, Any] = {"seconds": trial.seconds or None, **trial.metrics}
        if trial.score is not None:
            known[result.metric] = trial.score
        a, b = known.get(first.name), known.get(second.name)
        if _is_number(a) and _is_number(b):
            points.append((trial.id, a, b))
    return Pair(first, second, tuple(points))


def scatter_plot(pair: Pair) -> str:
    """The second of the numbers across, the first upwards; the front is filled."""
    best = _front(pair)
    values = [second for _, _, second in pair.points]
    log = min(values) > 0 and max(values) / min(values) >= _WIDE
    x, y = plane(values, [first for _, first, _ in pair.points], log_x=log)
    body = axes(x, y, pair.second.name + (" (log)" if log else ""), pair.first.name)
    for number, first, second in pair.points:
        tip = (
            f"trial {number}: {pair.first.name} {number_of(first)}, "
            f"{pair.second.name} {number_of(second)}"
        )
        kind, size = ("front", 5) if number in best else ("dot", 3)
        body += (
            f'<circle class="{kind}" cx="{x(second)}" cy="{y(first)}" r="{size}" '
            f"{of_trial(number, tip)}/>"
        )
    return picture(body)


def _front(pair: Pair) -> set[int]:
    gains: Sequence[tuple[float, ...]] = [
        (pair.first.gain(first), pair.second.gain(second)) for _, first, second in pair.points
    ]
    return {pair.points[at][0] for at in front(gains)}


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)
