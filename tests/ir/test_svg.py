from __future__ import annotations

import random
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from retiarii.ir.forms.layout import lay_out
from retiarii.ir.forms.svg import to_svg
from retiarii.ir.types import Ref

NS = "{http://www.w3.org/2000/svg}"


def drawn(graph: Any) -> ElementTree.Element:
    return ElementTree.fromstring(to_svg(graph))


def test_every_node_and_edge_is_drawn(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 4)
    y = m.layer(nn.Linear(4, 8), x, path="fc")
    z = m.add("relu", y, name="act")
    root = drawn(m.graph(z))
    texts = [t.text for t in root.iter(f"{NS}text")]
    assert {"x", "fc", "act", "output 0"} <= set(texts)
    assert "Linear  2×8" in texts
    arrows = [p for p in root.iter(f"{NS}path") if p.get("marker-end")]
    assert len(arrows) == 3
    tooltip = next(t.text for t in root.iter(f"{NS}title") if str(t.text).startswith("fc:"))
    assert "in_features = 4" in tooltip
    assert "float32[2, 8]" in tooltip


def test_names_are_escaped(maker: Any) -> None:
    m = maker()
    name = '<script>&"'
    root = drawn(m.graph(m.add("relu", m.input("x", 2, 4), name=name)))
    assert name in [t.text for t in root.iter(f"{NS}text")]


def test_ops_of_one_family_have_one_colour(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 4, 8, 8)
    y = m.layer(nn.Conv2d(4, 4, 1), x, path="a")
    z = m.layer(nn.ConvTranspose2d(4, 4, 1), y, path="b")
    w = m.layer(nn.BatchNorm2d(4), z, path="c")
    root = drawn(m.graph(w))
    fill = {}
    for group in root.iter(f"{NS}g"):
        rect, texts = group.find(f"{NS}rect"), group.findall(f"{NS}text")
        if rect is not None and texts:
            fill[texts[0].text] = rect.get("fill")
    assert fill["a"] == fill["b"] != fill["c"]


def test_a_graph_without_edges_is_drawn(maker: Any) -> None:
    m = maker()
    assert "output 0" in to_svg(m.graph(m.input("x", 2, 4)))


def test_several_results_are_labelled(maker: Any) -> None:
    m = maker()
    rnn = m.layer(nn.LSTM(4, 4), m.input("x", 5, 2, 4), path="rnn")
    root = drawn(m.graph(Ref(rnn.node, 2)))
    assert "2" in [t.text for t in root.iter(f"{NS}text")]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 40))
def test_boxes_stay_apart_and_edges_run_down(seed: int, count: int) -> None:
    rng = random.Random(seed)
    widths = [rng.uniform(40, 200) for _ in range(count)]
    edges = [
        (rng.randrange(target), target)
        for target in range(1, count)
        for _ in range(rng.randint(1, 3))
    ]
    layout = lay_out(widths, edges, height=40, margin=20)
    rows: dict[float, list[int]] = {}
    for box, (_, y) in enumerate(layout.centers):
        rows.setdefault(y, []).append(box)
    for boxes in rows.values():
        boxes.sort(key=lambda b: layout.centers[b][0])
        for left, right in pairwise(boxes):
            gap = layout.centers[right][0] - layout.centers[left][0]
            assert gap >= (widths[left] + widths[right]) / 2
    for (source, target), route in zip(edges, layout.routes, strict=True):
        assert route[0][1] == layout.centers[source][1] + 20
        assert route[-1][1] == layout.centers[target][1] - 20
        assert all(a[1] <= b[1] for a, b in pairwise(route))
    for box, (x, y) in enumerate(layout.centers):
        assert widths[box] / 2 + 19 <= x <= layout.width - widths[box] / 2 - 19
        assert 20 <= y <= layout.height - 20


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_long_edges_pass_beside_boxes(seed: int) -> None:
    rng = random.Random(seed)
    count = 20
    widths = [rng.uniform(40, 200) for _ in range(count)]
    edges = [(i, i + 1) for i in range(count - 1)]
    edges += [tuple(sorted(rng.sample(range(count), 2))) for _ in range(6)]  # type: ignore[misc]
    layout = lay_out(widths, edges, height=40, margin=20)
    for route in layout.routes:
        for x, y in route[1:-1]:
            for box, (cx, cy) in enumerate(layout.centers):
                inside = abs(x - cx) < widths[box] / 2 and abs(y - cy) < 20
                assert not inside
