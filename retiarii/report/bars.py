"""Plot: the importance of decisions, as bars."""

from __future__ import annotations

from collections.abc import Sequence

from retiarii.report.svg import WIDTH, picture, text_of

_ROW = 24
_NAMES = 230
_MOST = 20


def bars_plot(shares: Sequence[tuple[str, float]]) -> str:
    """A bar for each label, as long as its share."""
    shown = shares[:_MOST]
    if not shown:
        return ""
    most = max(share for _, share in shown) or 1.0
    body = ""
    for row, (label, share) in enumerate(shown):
        top = row * _ROW
        length = share / most * (WIDTH - _NAMES - 70)
        name = label if len(label) <= 34 else f"{label[:16]}…{label[-16:]}"
        body += (
            f'<text x="{_NAMES - 8}" y="{top + 16}" text-anchor="end" '
            f'data-tip="{text_of(label)}">{text_of(name)}</text>'
            f'<rect class="bar" x="{_NAMES}" y="{top + 4}" width="{length:.1f}" height="16"/>'
            f'<text x="{_NAMES + length + 6:.1f}" y="{top + 16}">{100 * share:.1f} %</text>'
        )
    return picture(body, WIDTH, _ROW * len(shown) + 4)
