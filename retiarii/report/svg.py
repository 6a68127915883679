"""Drawing: scales, ticks, axes, and text that cannot be taken for markup."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 340
LEFT, RIGHT, TOP, BOTTOM = 76, 16, 14, 46


def text_of(value: object) -> str:
    """Any text, for markup: nothing in it is read as a tag, and no character breaks the page."""
    shown = "".join(c if c.isprintable() or c == " " else "�" for c in str(value))
    return html.escape(shown.encode("utf-8", "replace").decode(), quote=True)


def number_of(value: float) -> str:
    """A number in four digits."""
    return f"{value:.4g}"


@dataclass(frozen=True, slots=True)
class Scale:
    """Where numbers are in a picture.

    Attributes:
        low, high: the ends of the numbers.
        start, stop: where these are, in pixels.
        log: whether distances are ratios.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(value)
        part = (at - low) / (high - low) if high > low else 0.5
        return round(self.start + part * (self.stop - self.start), 2)

    def ticks(self) -> list[float]:
        """Round numbers, about five."""
        if not self.high > self.low:
            return [self.low]
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            powers = [10.0**power for power in range(first, last + 1)]
            if len(powers) > 1:
                return powers[:: math.ceil(len(powers) / 6)]
        raw = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw * 0.999)
        first_at = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first_at + 1
        return [(first_at + n) * step for n in range(count)]


def scale_of(values: Sequence[float], start: float, stop: float, log: bool = False) -> Scale:
    """A scale that has room for all values."""
    low, high = min(values), max(values)
    if low == high:
        pad = abs(low) * 0.05 or 1.0
        low, high = (low / 1.05, high * 1.05) if log else (low - pad, high + pad)
    elif log:
        ratio = (high / low) ** 0.03
        low, high = low / ratio, high * ratio
    else:
        pad = 0.03 * (high - low)
        low, high = low - pad, high + pad
    return Scale(low, high, start, stop, log)


def plane(xs: Sequence[float], ys: Sequence[float], *, log_x: bool = False) -> tuple[Scale, Scale]:
    """The scales of a plot of two numbers."""
    return (
        scale_of(xs, LEFT, WIDTH - RIGHT, log_x),
        scale_of(ys, HEIGHT - BOTTOM, TOP),
    )


def axes(x: Scale, y: Scale, x_name: str, y_name: str) -> str:
    """Grid, ticks and names."""
    parts = []
    for at in x.ticks():
        parts.append(f'<line class="grid" x1="{x(at)}" x2="{x(at)}" y1="{y.start}" y2="{y.stop}"/>')
        parts.append(
            f'<text x="{x(at)}" y="{y.start + 16}" text-anchor="middle">{number_of(at)}</text>'
        )
    for at in y.ticks():
        parts.append(f'<line class="grid" x1="{x.start}" x2="{x.stop}" y1="{y(at)}" y2="{y(at)}"/>')
        parts.append(
            f'<text x="{x.start - 6}" y="{y(at) + 4}" text-anchor="end">{number_of(at)}</text>'
        )
    middle_x, middle_y = (x.start + x.stop) / 2, (y.start + y.stop) / 2
    parts.append(
        f'<text class="name" x="{middle_x}" y="{y.start + 36}" text-anchor="middle">'
        f"{text_of(x_name)}</text>"
    )
    parts.append(
        f'<text class="name" x="14" y="{middle_y}" text-anchor="middle" '
        f'transform="rotate(-90 14 {middle_y})">{text_of(y_name)}</text>'
    )
    return "".join(parts)


def picture(body: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    """An ``svg`` element."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'role="img">{body}</svg>'
    )


def line(points: Sequence[tuple[float, float]], kind: str, attributes: str = "") -> str:
    """A line through points, in pixels."""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline class="{kind}" points="{path}" {attributes}/>'


def of_trial(number: int, tip: str, colour: str | None = None) -> str:
    """The attributes of what stands for a trial: pointing at it shows the tip, and its others."""
    painted = "" if colour is None else f' style="--c:{colour}"'
    return f'data-trial="{number}" data-tip="{text_of(tip)}"{painted}'


def shade(part: float) -> str:
    """A colour from worst (0) to best (1), told apart without colour vision too."""
    part = min(1.0, max(0.0, part))
    return f"hsl({250 - 215 * part:.0f} {45 + 45 * part:.0f}% {70 - 25 * part:.0f}%)"
