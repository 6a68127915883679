"""Plot: parallel coordinates, one axis a decision and a line a trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from retiarii.report.curves import MOST, ranked
from retiarii.report.decisions import Axis, axes_of
from retiarii.report.svg import line, number_of, of_trial, picture, scale_of, shade, text_of
from retiarii.report.text import decided

if TYPE_CHECKING:
    from retiarii.result import Result

#: More axes than these are not read any more: those that matter most are taken.
AXES = 12

_TOP, _BOTTOM, _MISSING = 44, 330, 362
_STEP, _MARGIN = 118, 64


def parallel_plot(result: Result, order: Sequence[str] = ()) -> str:
    """The decisions of the best trials, each line coloured by its score.

    Args:
        order: labels, the most important first; where it is empty, as they are asked.
    """
    trials = [t for t in ranked(result) if t.state == "complete"][:MOST]
    axes = [axis for axis in axes_of(result, [t.id for t in trials]) if axis.varies]
    if order:
        rank = {label: at for at, label in enumerate(order)}
        axes.sort(key=lambda axis: rank.get(axis.label, len(rank)))
    axes = axes[:AXES]
    if not axes or len(trials) < 2:
        return ""
    scores = [t.score for t in trials if t.score is not None]
    score = scale_of(scores, _BOTTOM, _TOP)
    across = [_MARGIN + _STEP * at for at in range(len(axes) + 1)]
    partly = any(len(axis.places) < len(trials) for axis in axes)
    body = "".join(_axis(axis, x) for axis, x in zip(axes, across, strict=False))
    body += _score_axis(result.metric, score.ticks(), [score(t) for t in score.ticks()], across[-1])
    if partly:
        body += f'<text x="4" y="{_MISSING + 4}">not asked</text>'
    count = max(1, len(trials) - 1)
    for place, trial in reversed(list(enumerate(trials))):
        assert trial.score is not None
        points = [(x, _height(axis, trial.id)) for axis, x in zip(axes, across, strict=False)]
        points.append((across[-1], score(trial.score)))
        asked = decided(trial.decisions)
        tip = f"trial {trial.id}: {number_of(trial.score)}; {asked}"
        body += line(points, "curve", of_trial(trial.id, tip, shade(1 - place / count)))
    return picture(body, across[-1] + _MARGIN, (_MISSING if partly else _BOTTOM) + 16)


def _height(axis: Axis, number: int) -> float:
    place = axis.places.get(number)
    if place is None:
        return _MISSING
    if axis.options:
        place /= max(1, len(axis.options) - 1)
    return round(_BOTTOM + place * (_TOP - _BOTTOM), 2)


def _axis(axis: Axis, x: float) -> str:
    marks: list[tuple[float, str]] = [(_BOTTOM, number_of(axis.low)), (_TOP, number_of(axis.high))]
    if axis.options:
        last = max(1, len(axis.options) - 1)
        every = -(-len(axis.options) // 12)  # so many that they can be read
        marks = [
            (_BOTTOM + at / last * (_TOP - _BOTTOM), name)
            for at, name in enumerate(axis.options)
            if at % every == 0 or at == last
        ]
    return _upright(axis.label, x) + "".join(_mark(x, y, name) for y, name in marks)


def _score_axis(name: str, ticks: Sequence[float], heights: Sequence[float], x: float) -> str:
    marks = zip(heights, ticks, strict=True)
    return _upright(name, x) + "".join(_mark(x, y, number_of(tick)) for y, tick in marks)


def _upright(name: str, x: float) -> str:
    short = name if len(name) <= 18 else f"…{name[-17:]}"
    return (
        f'<line class="axis" x1="{x}" x2="{x}" y1="{_TOP}" y2="{_BOTTOM}"/>'
        f'<text class="name" x="{x}" y="24" text-anchor="middle" data-tip="{text_of(name)}">'
        f"{text_of(short)}</text>"
    )


def _mark(x: float, y: float, name: str) -> str:
    short = name if len(name) <= 14 else f"{name[:13]}…"
    return (
        f'<text x="{x + 5}" y="{y + 4:.1f}" class="mark" data-tip="{text_of(name)}">'
        f"{text_of(short)}</text>"
    )
