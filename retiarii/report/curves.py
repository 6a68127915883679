"""Plot: learning curves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from retiarii.report.svg import axes, line, number_of, of_trial, picture, plane, shade

if TYPE_CHECKING:
    from retiarii.result import Result
    from retiarii.trial_result import TrialResult

#: The best so many trials are drawn: more are not told apart.
MOST = 200

Curve = list[tuple[int, float]]


def ranked(result: Result) -> list[TrialResult]:
    """Trials with a score: those of whole trainings first, the best of them first."""
    sign = -1.0 if result.maximize else 1.0
    scored = [t for t in result.trials if t.score is not None]
    return sorted(scored, key=lambda t: (t.state == "pruned", sign * (t.score or 0.0), t.id))


def learning_curves(result: Result, most: int = MOST) -> dict[int, Curve]:
    """Trial -> (step, score) as reported, of the best ``most`` trials that reported any."""
    found: dict[int, Curve] = {}
    for trial in ranked(result):
        if len(found) >= most:
            break
        if trial.same_as is not None or trial.steps is None:
            continue
        numbers = ((step, metrics.get(result.metric)) for step, metrics in result.steps(trial.id))
        curve = [(s, float(v)) for s, v in numbers if isinstance(v, int | float)]
        curve = [(step, value) for step, value in curve if math.isfinite(value)]
        if curve:
            found[trial.id] = curve
    return found


def curves_plot(result: Result) -> str:
    """The score over the steps of training; empty where no trial reported it."""
    curves = learning_curves(result)
    if not any(len(curve) > 1 for curve in curves.values()):
        return ""
    values = [value for curve in curves.values() for _, value in curve]
    x, y = plane([float(step) for curve in curves.values() for step, _ in curve], values)
    body = axes(x, y, "step", result.metric)
    count = max(1, len(curves) - 1)
    # The best is drawn last, and so on top.
    for rank, (number, curve) in reversed(list(enumerate(curves.items()))):
        trial = result.trials[number]
        early = "stopped early, " if trial.state == "pruned" else ""
        tip = f"trial {number}: {number_of(trial.score or 0.0)}, {early}{curve[-1][0]} steps"
        kind = "curve early" if early else "curve"
        whose = of_trial(number, tip, shade(1 - rank / count))
        body += line([(x(step), y(value)) for step, value in curve], kind, whose)
        step, value = curve[-1]
        body += f'<circle class="end" cx="{x(step)}" cy="{y(value)}" r="2" {whose}/>'
    return picture(body)
