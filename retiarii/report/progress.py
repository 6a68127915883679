"""Plot: the best score so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from retiarii.report.svg import (
    BOTTOM,
    HEIGHT,
    Scale,
    axes,
    line,
    number_of,
    of_trial,
    picture,
    plane,
    text_of,
)

if TYPE_CHECKING:
    from retiarii.result import Result


def best_so_far(result: Result) -> list[tuple[int, float]]:
    """(trial, best score up to it) wherever a complete trial was better than all before."""
    sign = 1.0 if result.maximize else -1.0
    steps: list[tuple[int, float]] = []
    for trial in result.trials:
        if trial.state != "complete" or trial.score is None:
            continue
        if not steps or sign * trial.score > sign * steps[-1][1]:
            steps.append((trial.id, trial.score))
    return steps


def progress_plot(result: Result) -> str:
    """Each complete trial's score, and the best so far, over the number of trials."""
    complete = (t for t in result.trials if t.state == "complete")
    scored = [(t.id, t.score) for t in complete if t.score is not None]
    if not scored:
        return ""
    x, y = plane([0.0, float(result.trials[-1].id)], [score for _, score in scored])
    body = axes(x, y, "trial", result.metric)
    for number, score in scored:
        whose = of_trial(number, f"trial {number}: {number_of(score)}")
        body += f'<circle class="dot" cx="{x(number)}" cy="{y(score)}" r="3" {whose}/>'
    body += staircase(best_so_far(result), float(result.trials[-1].id), x, y, "best")
    return picture(body)


def staircase(
    steps: Sequence[tuple[float, float]],
    end: float,
    x: Scale,
    y: Scale,
    kind: str,
    attributes: str = "",
) -> str:
    """A line that stays until the next step."""
    points: list[tuple[float, float]] = []
    for at, value in steps:
        if points:
            points.append((x(at), points[-1][1]))
        points.append((x(at), y(value)))
    points.append((x(max(end, steps[-1][0])), points[-1][1]))
    return line(points, kind, attributes)


def many_plot(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    colours: Mapping[str, str],
    x_name: str,
    y_name: str,
) -> str:
    """Staircases of several searches in one plot.

    Args:
        curves: name -> (where, value), in order.
        colours: name -> colour.
    """
    drawn = {name: steps for name, steps in curves.items() if steps}
    if not drawn:
        return ""
    xs = [at for steps in drawn.values() for at, _ in steps]
    x, y = plane([0.0, *xs], [value for steps in drawn.values() for _, value in steps])
    body = axes(x, y, x_name, y_name)
    for row, (name, steps) in enumerate(drawn.items()):
        colour = colours[name]
        body += staircase(steps, steps[-1][0], x, y, "many", f'style="--c:{colour}"')
        at = HEIGHT - BOTTOM - 12 - 16 * (len(drawn) - 1 - row)
        body += (
            f'<text x="{x.stop - 8}" y="{at}" text-anchor="end" style="fill:{colour}">'
            f"{text_of(name)}</text>"
        )
    return picture(body)
