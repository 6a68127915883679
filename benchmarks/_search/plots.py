"""Charts of regret, as SVG that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from _search.spaces import Game
from _search.summary import Row

_WIDTH, _HEIGHT = 860, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 640, 40, 410
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f3c8d",
    "#4b6a00", "#b2182b",
)  # fmt: skip
_GREYS = ("#000000", "#555555", "#888888", "#aaaaaa", "#777777", "#333333")
# Regret is drawn on a logarithmic scale; nothing is below this part of the largest.
_DECADES = 3.5


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: in the legend.
        at: where its points are.
        mean: their heights.
        band: lower and upper quartile of each point; may be empty.
        reference: drawn in grey, and dashed.
    """

    name: str
    at: tuple[float, ...]
    mean: tuple[float, ...]
    band: tuple[tuple[float, float], ...] = ()
    reference: bool = False


def over_trials_chart(rows: Sequence[Row], game: Game) -> str | None:
    """Regret over trials of all strategies on one game: means, and quartiles as bands."""
    lines = [
        Line(
            row["strategy"],
            tuple(float(mark) for mark in row["regret"]),
            tuple(regret["mean"] for regret in row["regret"].values()),
            tuple((r["quartiles"][0], r["quartiles"][2]) for r in row["regret"].values()),
            row["strategy"].startswith("(") or row["strategy"] == "random",
        )
        for row in rows
        if row["space"] == game.name and row["batch"] == 1 and "refused" not in row
    ]
    return chart(game.name, "trials", f"regret, {game.unit}", lines) if lines else None


def over_batches_chart(rows: Sequence[Row], game: Game, mark: int) -> str | None:
    """Mean regret after ``mark`` trials, over the size of a batch."""
    found: dict[str, dict[float, float]] = {}
    for row in rows:
        if row["space"] == game.name and str(mark) in row.get("regret", {}):
            means = found.setdefault(row["strategy"], {})
            means[float(row["batch"])] = row["regret"][str(mark)]["mean"]
    lines = [
        Line(name, tuple(sorted(means)), tuple(means[at] for at in sorted(means)))
        for name, means in found.items()
        if len(means) > 1
    ]
    title = f"{game.name}, after {mark} trials"
    return chart(title, "batch", f"mean regret, {game.unit}", lines) if lines else None


def chart(title: str, across: str, up: str, lines: Sequence[Line]) -> str:
    """A chart with both axes logarithmic."""
    highest = max(max(line.mean) for line in lines) or 1.0
    lowest = highest / 10**_DECADES
    first = max(min(line.at[0] for line in lines), 1.0)
    last = max(line.at[-1] for line in lines)

    def x(value: float) -> float:
        part = math.log(max(value, first) / first) / (math.log(last / first) or 1.0)
        return _LEFT + part * (_RIGHT - _LEFT)

    def y(value: float) -> float:
        part = math.log10(min(max(value, lowest), highest) / lowest) / _DECADES
        return _BOTTOM - part * (_BOTTOM - _TOP)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="sans-serif" font-size="12"><title>{escape(title)}</title>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="24" font-size="15">{escape(title)}</text>',
        f'<text x="{_RIGHT}" y="{_BOTTOM + 36}" text-anchor="end">{escape(across)}</text>',
        f'<text x="18" y="{_TOP}" transform="rotate(-90 18 {_TOP})" text-anchor="end">'
        f"{escape(up)} (log; at the foot: {lowest:.2g} or less)</text>",
    ]
    for value in _ticks(lowest, highest):
        out.append(
            f'<path d="M{_LEFT} {y(value):.1f}H{_RIGHT}" stroke="#e4e4e4"/>'
            f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for value in sorted({at for line in lines for at in line.at} & {1, 4, 10, 16, 20, 50, 64,
                                                                  100, 150, 300}):  # fmt: skip
        out.append(
            f'<path d="M{x(value):.1f} {_TOP}V{_BOTTOM}" stroke="#f0f0f0"/>'
            f'<text x="{x(value):.1f}" y="{_BOTTOM + 18}" text-anchor="middle">{value:g}</text>'
        )
    ranked = sorted(lines, key=lambda line: (-line.mean[-1], line.name))
    plain = iter(_COLOURS * 3)
    grey = iter(_GREYS * 3)
    styles = {
        line.name: (next(grey), ' stroke-dasharray="5 4"') if line.reference else (next(plain), "")
        for line in sorted(lines, key=lambda line: line.name)
    }
    for line in ranked:
        colour, _ = styles[line.name]
        if line.band and not line.reference:
            upper = [(x(at), y(high)) for at, (_, high) in zip(line.at, line.band, strict=True)]
            lower = [(x(at), y(low)) for at, (low, _) in zip(line.at, line.band, strict=True)]
            path = _path([*upper, *reversed(lower)])
            out.append(f'<path d="{path}Z" fill="{colour}" fill-opacity="0.07"/>')
    for place, line in enumerate(ranked):
        colour, dash = styles[line.name]
        path = _path([(x(at), y(mean)) for at, mean in zip(line.at, line.mean, strict=True)])
        out.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>')
        height = _TOP + 10 + 20 * place
        out.append(
            f'<path d="M{_RIGHT + 16} {height - 4}h24" stroke="{colour}" stroke-width="2.4"{dash}/>'
            f'<text x="{_RIGHT + 46}" y="{height}">{escape(line.name)} '
            f"{line.mean[-1]:.3g}</text>"
        )
    return "\n".join([*out, "</svg>"]) + "\n"


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{across:.1f} {up:.1f}" for across, up in points)


def _ticks(lowest: float, highest: float) -> list[float]:
    """Powers of ten, and where few of them fit, halves."""
    decades = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    values = [digit * 10.0**decade for decade in decades for digit in (1, 3)]
    return [value for value in values if lowest <= value <= highest]
