"""Layered layout of a directed acyclic graph, top to bottom: where boxes and edges go.

Ranks by longest path, dummies on edges that span ranks, barycenter ordering, and x positions by
weighted isotonic regression: the places nearest to their neighbours that keep boxes apart.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

_GAP_X = 28.0
_GAP_EDGE = 14.0
_GAP_Y = 40.0
_PORT = 12.0
_PORT_SPAN = 26.0
_ORDER_SWEEPS = 12
_PLACE_SWEEPS = 24
# How much more than a box an edge's bend insists on its place: long edges come out straight.
_BEND_WEIGHT = 3.0

Point = tuple[float, float]
_Vertex = int | tuple[int, int]  # a box, or (edge, rank): a bend


@dataclass(frozen=True, slots=True)
class Layout:
    """Positions in pixels.

    Attributes:
        centers: the middle of each box.
        routes: for each edge, the points it goes through, from box to box.
        width: of the picture.
        height: of the picture.
    """

    centers: tuple[Point, ...]
    routes: tuple[tuple[Point, ...], ...]
    width: float
    height: float


def lay_out(
    widths: Sequence[float],
    edges: Sequence[tuple[int, int]],
    *,
    height: float,
    margin: float,
    late: frozenset[int] = frozenset(),
) -> Layout:
    """Places boxes and routes edges.

    Args:
        widths: of each box; boxes are in topological order.
        edges: (from, to) of each edge.
        height: of every box.
        margin: around the picture.
        late: boxes to be placed directly above what reads them (parameters).
    """
    ranks = _ranks(len(widths), edges, late)
    layers, chains = _layers(ranks, edges)
    above, below = _links(chains)
    _order(layers, above, below)
    wide: dict[_Vertex, float] = dict(enumerate(widths))
    x = _place(layers, above, below, wide)
    left = min((x[v] - wide.get(v, 0.0) / 2 for v in x), default=0.0)
    right = max((x[v] + wide.get(v, 0.0) / 2 for v in x), default=0.0)

    def at(vertex: _Vertex) -> Point:
        rank = ranks[vertex] if isinstance(vertex, int) else vertex[1]
        return x[vertex] - left + margin, margin + height / 2 + rank * (height + _GAP_Y)

    leaving = _ports(edges, chains, 0, at)
    entering = _ports(edges, chains, 1, at)
    routes = []
    for number, chain in enumerate(chains):
        (x0, y0), *bends, (x1, y1) = (at(v) for v in chain)
        x0, x1 = x0 + leaving[number], x1 + entering[number]
        through: list[Point] = [(x0, y0 + height / 2)]
        for bend_x, bend_y in bends:
            # A bend is as tall as a box, so that an edge passes beside boxes and not over them.
            through += [(bend_x, bend_y - height / 2), (bend_x, bend_y + height / 2)]
        routes.append((*through, (x1, y1 - height / 2)))
    return Layout(
        tuple(at(box) for box in range(len(widths))),
        tuple(routes),
        right - left + 2 * margin,
        2 * margin + len(layers) * (height + _GAP_Y) - _GAP_Y,
    )


def _ports(
    edges: Sequence[tuple[int, int]],
    chains: list[list[_Vertex]],
    end: int,
    at: Callable[[_Vertex], Point],
) -> list[float]:
    """How far from a box's middle each edge starts (``end`` 0) or ends (1), so that they part."""
    fans: dict[int, list[int]] = {}
    for number, edge in enumerate(edges):
        fans.setdefault(edge[end], []).append(number)
    shift = [0.0] * len(edges)
    for fan in fans.values():
        if len(fan) > 1:
            step = min(_PORT, 2 * _PORT_SPAN / (len(fan) - 1))
            fan.sort(key=lambda n: at(chains[n][1 if end == 0 else -2])[0])
            for place, number in enumerate(fan):
                shift[number] = (place - (len(fan) - 1) / 2) * step
    return shift


def _ranks(count: int, edges: Sequence[tuple[int, int]], late: frozenset[int]) -> list[int]:
    ranks = [0] * count
    for source, target in sorted(edges, key=lambda e: e[1]):
        ranks[target] = max(ranks[target], ranks[source] + 1)
    readers: dict[int, int] = {}
    for source, target in edges:
        readers[source] = min(readers.get(source, ranks[target]), ranks[target])
    for box in late:
        if box in readers:
            ranks[box] = readers[box] - 1
    lowest = min(ranks, default=0)
    return [rank - lowest for rank in ranks]


def _layers(
    ranks: Sequence[int], edges: Sequence[tuple[int, int]]
) -> tuple[list[list[_Vertex]], list[list[_Vertex]]]:
    """The vertices of each rank, and each edge as a chain of vertices on adjacent ranks."""
    layers: list[list[_Vertex]] = [[] for _ in range(max(ranks, default=-1) + 1)]
    for box, rank in enumerate(ranks):
        layers[rank].append(box)
    chains: list[list[_Vertex]] = []
    for number, (source, target) in enumerate(edges):
        bends: list[_Vertex] = [(number, r) for r in range(ranks[source] + 1, ranks[target])]
        for bend in bends:
            assert isinstance(bend, tuple)
            layers[bend[1]].append(bend)
        chains.append([source, *bends, target])
    return layers, chains


_Links = Mapping[_Vertex, list[_Vertex]]


def _links(chains: list[list[_Vertex]]) -> tuple[_Links, _Links]:
    above: dict[_Vertex, list[_Vertex]] = {}
    below: dict[_Vertex, list[_Vertex]] = {}
    for chain in chains:
        for upper, lower in pairwise(chain):
            above.setdefault(lower, []).append(upper)
            below.setdefault(upper, []).append(lower)
    return above, below


def _order(layers: list[list[_Vertex]], above: _Links, below: _Links) -> None:
    """Orders each layer so that few edges cross: barycenter sweeps, the best of them kept."""
    best = [list(layer) for layer in layers]
    fewest = _crossings(layers, below)
    for sweep in range(_ORDER_SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        links = above if down else below
        for rank in range(1, len(layers)) if down else range(len(layers) - 2, -1, -1):
            fixed = layers[rank - 1 if down else rank + 1]
            place = {vertex: i for i, vertex in enumerate(fixed)}
            own = {vertex: i for i, vertex in enumerate(layers[rank])}

            def middle(
                vertex: _Vertex, place: Mapping[_Vertex, int] = place, own: _Own = own
            ) -> float:
                near = [place[n] for n in links.get(vertex, ())]  # noqa: B023
                return sum(near) / len(near) if near else float(own[vertex])

            layers[rank].sort(key=middle)
        crossings = _crossings(layers, below)
        if crossings < fewest:
            fewest, best = crossings, [list(layer) for layer in layers]
    layers[:] = best


_Own = Mapping[_Vertex, int]


def _crossings(layers: list[list[_Vertex]], below: _Links) -> int:
    count = 0
    for upper, lower in pairwise(layers):
        place = {vertex: i for i, vertex in enumerate(lower)}
        seen: list[int] = []
        for vertex in upper:
            ends = sorted(place[n] for n in below.get(vertex, ()))
            count += sum(len(seen) - bisect_left(seen, end + 1) for end in ends)
            for end in ends:
                insort(seen, end)
    return count


def _place(
    layers: list[list[_Vertex]], above: _Links, below: _Links, wide: Mapping[_Vertex, float]
) -> dict[_Vertex, float]:
    """x of each vertex: as near to its neighbours as the boxes beside it allow."""
    x: dict[_Vertex, float] = {}
    for layer in layers:
        offsets = _offsets(layer, wide)
        x.update({v: o - offsets[-1] / 2 for v, o in zip(layer, offsets, strict=True)})
    for sweep in range(_PLACE_SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            wanted = []
            weights = []
            for vertex in layer:
                near = above.get(vertex, []) if down else below.get(vertex, [])
                if sweep >= _PLACE_SWEEPS - 2:  # at last, what lies midway
                    near = [*above.get(vertex, []), *below.get(vertex, [])]
                spots = [x[n] for n in near]
                wanted.append(sum(spots) / len(spots) if spots else x[vertex])
                weights.append(1.0 if isinstance(vertex, int) else _BEND_WEIGHT)
            _settle(layer, wide, wanted, weights, x)
    for layer in layers:  # what is an only child of an only parent stands right below it
        wanted = [x[v] for v in layer]
        for i, vertex in enumerate(layer):
            near = above.get(vertex, [])
            if len(near) == 1 and len(below[near[0]]) == 1:
                wanted[i] = x[near[0]]
        _settle(layer, wide, wanted, [1.0] * len(layer), x)
    return x


def _settle(
    layer: list[_Vertex],
    wide: Mapping[_Vertex, float],
    wanted: list[float],
    weights: list[float],
    x: dict[_Vertex, float],
) -> None:
    """Moves a layer as near to the wanted places as its widths allow."""
    offsets = _offsets(layer, wide)
    fitted = _monotone([w - o for w, o in zip(wanted, offsets, strict=True)], weights)
    x.update({v: f + o for v, f, o in zip(layer, fitted, offsets, strict=True)})


def _offsets(layer: list[_Vertex], wide: Mapping[_Vertex, float]) -> list[float]:
    """x of each vertex when the layer is packed as tightly as is allowed, from zero."""
    offsets = [0.0]
    for left, right in pairwise(layer):
        gap = _GAP_X if isinstance(left, int) and isinstance(right, int) else _GAP_EDGE
        offsets.append(offsets[-1] + (wide.get(left, 0.0) + wide.get(right, 0.0)) / 2 + gap)
    return offsets


def _monotone(wanted: list[float], weights: list[float]) -> list[float]:
    """The rising sequence nearest to ``wanted`` in weighted squares (pooling neighbours)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(wanted, weights, strict=True):
        pool = (value, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, heavy, length = pools.pop()
            total = heavy + pool[1]
            pool = ((mean * heavy + pool[0] * pool[1]) / total, total, length + pool[2])
        pools.append(pool)
    return [mean for mean, _, length in pools for _ in range(length)]
