"""A picture of a graph as SVG text, drawn here: no Graphviz, no fonts, no scripts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from retiarii.ir.forms.layout import Layout, Point, lay_out
from retiarii.ir.forms.text_print import print_value

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph
    from retiarii.ir.node import NodeRecord

_HEIGHT = 44.0
_MARGIN = 24.0
_LEGEND = 26.0
_CHARACTER = 6.9  # width of a character of the label, in pixels
_LONGEST = 34  # characters of a label; the tooltip has the whole

# (family, fill, stroke, ops): the first that matches. Colours are light, so that black text reads.
_FAMILIES: tuple[tuple[str, str, str, re.Pattern[str]], ...] = tuple(
    (name, fill, stroke, re.compile(ops))
    for name, fill, stroke, ops in (
        ("input / output", "#e8e8ec", "#5c5c66", r"input\Z|output\Z"),
        ("parameter", "#fff3c4", "#a98200", r"(parameter|buffer|constant)\Z"),
        ("opaque", "#ffd6d6", "#c02b2b", r"opaque\Z"),
        ("convolution", "#d3e5ff", "#2f6fc4", r"(lazy)?conv|(un)?fold"),
        (
            "linear",
            "#dcdcff",
            "#5751c9",
            r"(bi)?linear|embedding|(b|m|ad+)?mm|matmul|einsum|multihead|scaled_dot|lstm|gru|rnn",
        ),
        ("normalisation", "#d9f2ec", "#1f8a70", r".*norm|localresponse"),
        ("pooling", "#e3f4d0", "#5b8f22", r".*pool|upsample|interpolate"),
        (
            "activation",
            "#ffe3cc",
            "#c9661a",
            r".*(relu|elu|sigmoid|tanh|silu|mish|softmax|softmin|softplus|softsign|shrink)|glu"
            r"|.*dropout|hardswish|threshold",
        ),
        ("arithmetic", "#fbdcef", "#b23a86", r"(add|sub|mul|div|pow|sum|mean|max|min|neg)"),
        ("other", "#f4f4f4", "#8a8a8a", r""),
    )
)


@dataclass(frozen=True, slots=True)
class _Box:
    title: str
    detail: str
    tooltip: str
    family: int


def to_svg(graph: Graph) -> str:
    """The graph, top to bottom, as a standalone SVG document.

    A box has the node's name, its op and the shape of its result; its tooltip has the rest.
    """
    records = list(graph.records())
    place = {record.name: i for i, record in enumerate(records)}
    boxes = [_box(record) for record in records]
    edges = [
        (place[ref.node], i, ref.index) for i, record in enumerate(records) for ref in record.inputs
    ]
    for number, ref in enumerate(graph.output_refs()):
        kind = graph.record(ref.node).types[ref.index]
        edges.append((place[ref.node], len(boxes), ref.index))
        boxes.append(_Box(f"output {number}", str(kind), f"output {number}: {kind}", 0))
    layout = lay_out(
        [_width(box) for box in boxes],
        [(source, target) for source, target, _ in edges],
        height=_HEIGHT,
        margin=_MARGIN,
        late=frozenset(
            i for i, r in enumerate(records) if r.op in ("parameter", "buffer", "constant")
        ),
    )
    return _document(boxes, [index for _, _, index in edges], layout)


def _box(record: NodeRecord) -> _Box:
    shapes = ", ".join("×".join(map(str, t.shape)) or "scalar" for t in record.types)
    lines = [f"{record.name}: {record.op}"]
    lines += [f"{key} = {print_value(value)}" for key, value in record.attrs.items()]
    lines.append("→ " + ", ".join(map(str, record.types)))
    if record.path is not None and record.path != record.name:
        lines.append(f"module {record.path}")
    lines += [
        note for note, there in (("fresh", record.fresh), ("no_grad", record.no_grad)) if there
    ]
    if record.where:
        lines.append(record.where)
    return _Box(record.name, f"{record.op}  {shapes}", "\n".join(lines), _family(record.op))


def _family(op: str) -> int:
    plain = op.removeprefix("method.").removeprefix("torch.").lower()
    return next(i for i, (_, _, _, ops) in enumerate(_FAMILIES) if ops.match(plain))


def _width(box: _Box) -> float:
    longest = max(len(_shortened(box.title)), len(_shortened(box.detail)))
    return max(64.0, longest * _CHARACTER + 18.0)


def _shortened(text: str) -> str:
    """The text with its middle left out, where it is long: both ends of a path say most."""
    if len(text) <= _LONGEST:
        return text
    half = (_LONGEST - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _document(boxes: Sequence[_Box], indices: Sequence[int], layout: Layout) -> str:
    families = sorted({box.family for box in boxes})
    legend_width = _MARGIN * 2 + sum(_legend_width(f) for f in families)
    width, height = max(layout.width, legend_width), layout.height + _LEGEND
    shift = (width - layout.width) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="ui-sans-serif, system-ui, '
        f'Helvetica, Arial, sans-serif" font-size="12">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0.5 L8 4 L0 7.5 z" fill="#70707a"/>'
        "</marker></defs>",
        f'<g transform="translate({shift:.1f} {_LEGEND:.1f})">',
        '<g fill="none" stroke="#70707a" stroke-width="1.3">',
        *(f'<path d="{_curve(route)}" marker-end="url(#tip)"/>' for route in layout.routes),
        "</g>",
        *(
            f'<text x="{route[0][0] + 5:.1f}" y="{route[0][1] + 13:.1f}" font-size="10" '
            f'fill="#70707a">{index}</text>'
            for route, index in zip(layout.routes, indices, strict=True)
            if index
        ),
        *(_drawn(box, center) for box, center in zip(boxes, layout.centers, strict=True)),
        "</g>",
        *_legend(families),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _drawn(box: _Box, center: Point) -> str:
    _, fill, stroke, _ = _FAMILIES[box.family]
    width = _width(box)
    x, y = center[0], center[1]
    return (
        f"<g><title>{escape(box.tooltip)}</title>"
        f'<rect x="{x - width / 2:.1f}" y="{y - _HEIGHT / 2:.1f}" width="{width:.1f}" '
        f'height="{_HEIGHT:.0f}" rx="6" fill="{fill}" stroke="{stroke}"/>'
        f'<text x="{x:.1f}" y="{y - 4:.1f}" text-anchor="middle" font-weight="600" '
        f'fill="#1d1d22">{escape(_shortened(box.title))}</text>'
        f'<text x="{x:.1f}" y="{y + 13:.1f}" text-anchor="middle" font-size="11" '
        f'fill="#44444c">{escape(_shortened(box.detail))}</text></g>'
    )


def _curve(route: Sequence[Point]) -> str:
    """A path that leaves and arrives vertically, straight where its ends are one above another."""
    (x, y), *rest = route
    parts = [f"M{x:.1f} {y:.1f}"]
    for next_x, next_y in rest:
        if abs(next_x - x) < 0.5:
            parts.append(f"L{next_x:.1f} {next_y:.1f}")
        else:
            middle = (y + next_y) / 2
            parts.append(
                f"C{x:.1f} {middle:.1f} {next_x:.1f} {middle:.1f} {next_x:.1f} {next_y:.1f}"
            )
        x, y = next_x, next_y
    return " ".join(parts)


def _legend_width(family: int) -> float:
    return len(_FAMILIES[family][0]) * 6.2 + 32


def _legend(families: Sequence[int]) -> list[str]:
    parts = []
    x = _MARGIN
    for family in families:
        name, fill, stroke, _ = _FAMILIES[family]
        parts.append(
            f'<rect x="{x:.1f}" y="10" width="12" height="12" rx="3" fill="{fill}" '
            f'stroke="{stroke}"/><text x="{x + 17:.1f}" y="20" font-size="11" '
            f'fill="#44444c">{name}</text>'
        )
        x += _legend_width(family)
    return parts
