"""Decisions, learning curves, importance and confirmations, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retiarii.mutators.choice import Numbered
from retiarii.report.curves import learning_curves
from retiarii.report.importance import Importance

if TYPE_CHECKING:
    from retiarii.result import Result

_BLOCKS = "▁▂▃▄▅▆▇█"
_BAR = 40
_POINTS = 40


def brief(value: Any) -> str:
    """A value for people: numbers with four digits, options without names of their own by name."""
    if isinstance(value, Numbered):
        return repr(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def decided(decisions: Mapping[str, Any]) -> str:
    """Decisions on one line."""
    return ", ".join(f"{label}={brief(value)}" for label, value in decisions.items())


def curve_lines(result: Result, most: int) -> list[str]:
    """The learning curves of the best trials, one line each, all on one scale."""
    curves = learning_curves(result, most)
    if not curves:
        return [f"no trial reported {result.metric} on its way"]
    values = [value for curve in curves.values() for _, value in curve]
    low, high = min(values), max(values)
    lines = [f"learning curves of {result.metric}, from {low:.4g} to {high:.4g}:"]
    width = max(len(str(number)) for number in curves)
    for number, curve in curves.items():
        trial = result.trials[number]
        shape = "".join(_block(value, low, high) for value in _thinned([v for _, v in curve]))
        early = ", stopped early" if trial.state == "pruned" else ""
        lines.append(
            f"  trial {number:>{width}}  {trial.score:<8.5g}  {shape}  step {curve[-1][0]}{early}"
        )
    return lines


def importance_lines(found: Importance, metric: str) -> list[str]:
    """The importance of decisions as bars, the largest first."""
    lines = [f"importance for {metric} (fANOVA, {found.trials} complete trials):"]
    width = max(len(label) for label, _ in found.shares)
    most = max(share for _, share in found.shares) or 1.0
    for label, share in found.shares:
        bar = "█" * round(_BAR * share / most)
        some = "  (not asked of all)" if label in found.conditional else ""
        lines.append(f"  {label:<{width}}  {100 * share:5.1f} %  {bar}{some}")
    return lines


def confirmed_lines(result: Result) -> list[str]:
    """The trials that were trained again, the best mean first; nothing where none were."""
    if not result.confirmed:
        return []
    sign = -1.0 if result.maximize else 1.0
    ranked = sorted(
        result.confirmed.items(),
        key=lambda item: (not item[1].counts, sign * (item[1].mean if item[1].scores else 0.0)),
    )
    seeds = ranked[0][1].wanted
    lines = [f"trained again from {seeds} seeds, mean and deviation of {result.metric}:"]
    for number, each in ranked:
        score = result.trials[number].score or 0.0
        lines.append(f"  trial {number:<5} {each!s:<24} {score:.5g} in the search")
    if not result.is_confirmed:
        lines.append(
            "not all of the best are confirmed: the best goes by its score in the search; "
            f"run again with --confirm {seeds}"
        )
    return lines


def _thinned(values: list[float]) -> list[float]:
    """At most so many, evenly spread, the last among them."""
    if len(values) <= _POINTS:
        return values
    return [values[round(at * (len(values) - 1) / (_POINTS - 1))] for at in range(_POINTS)]


def _block(value: float, low: float, high: float) -> str:
    part = (value - low) / (high - low) if high > low else 0.5
    return _BLOCKS[min(len(_BLOCKS) - 1, int(part * len(_BLOCKS)))]
