"""Which points no other beats, how crowded they are, and the volume that they dominate.

Points are tuples of numbers, one for each objective, of which more is always better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Values = tuple[float, ...]

# The reference point lies so much of the range below the worst value that was seen.
MARGIN = 0.1


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether ``one`` is as good everywhere, and better somewhere."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def front(points: Sequence[Values]) -> list[int]:
    """The indices of the points that no other dominates, in order; equal points are all in it."""
    order = sorted(range(len(points)), key=lambda i: points[i], reverse=True)
    kept: list[int] = []
    # What dominates a point is not behind it in lexicographic order.
    for index in order:
        if not any(dominates(points[other], points[index]) for other in kept):
            kept.append(index)
    return sorted(kept)


def crowding(points: Sequence[Values]) -> list[float]:
    """How far each point is from its neighbours (Deb et al., NSGA-II, 2002, section III-B).

    The sum over objectives of the distance between the neighbours on both sides, as a part of the
    range; infinite at the ends.
    """
    found = [0.0] * len(points)
    for axis in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda i: (points[i][axis], i))
        low, high = points[order[0]][axis], points[order[-1]][axis]
        found[order[0]] = found[order[-1]] = math.inf
        if high <= low:
            continue
        for before, at, after in zip(order, order[1:], order[2:], strict=False):
            found[at] += (points[after][axis] - points[before][axis]) / (high - low)
    return found


def reference(points: Iterable[Values]) -> tuple[Values, Values]:
    """The reference point and the best values of ``points``.

    The reference is, for each objective, the worst value minus a tenth of the range, so that the
    ends of a front count too. Where all values are equal, the range is taken as 1.
    """
    columns = list(zip(*points, strict=True))
    best = tuple(max(column) for column in columns)
    worst = [min(column) for column in columns]
    spans = [(b - w) or 1.0 for b, w in zip(best, worst, strict=True)]
    return tuple(w - MARGIN * s for w, s in zip(worst, spans, strict=True)), best


def hypervolume(points: Iterable[Values], below: Values) -> float:
    """The volume between ``below`` and the points: of what they dominate, counted once.

    Exact, by slicing along the last objective (Zitzler and Thiele, 1998, is the measure).

    Args:
        points: any; those that are not above ``below`` in all objectives add nothing.
        below: the reference point.
    """
    inside = {
        tuple(v - r for v, r in zip(point, below, strict=True))
        for point in points
        if all(v > r for v, r in zip(point, below, strict=True))
    }
    return _volume(sorted(inside))


def _volume(points: Sequence[Values]) -> float:
    """The volume of the boxes from the origin to each point."""
    if not points:
        return 0.0
    if len(points[0]) == 1:
        return max(point[0] for point in points)
    if len(points[0]) == 2:
        return _area(points)
    total, above = 0.0, sorted(points, key=lambda point: point[-1], reverse=True)
    slab: list[Values] = []
    for at, point in enumerate(above):
        slab.append(point[:-1])
        low = above[at + 1][-1] if at + 1 < len(above) else 0.0
        if point[-1] > low:
            slab = [slab[i] for i in front(slab)]
            total += (point[-1] - low) * _volume(slab)
    return total


def _area(points: Sequence[Values]) -> float:
    total = top = 0.0
    for x, y in sorted(points, key=lambda point: (-point[0], -point[1])):
        if y > top:
            total += x * (y - top)
            top = y
    return total


def progress(points: Sequence[Values]) -> list[float]:
    """The hypervolume of the first 1, 2, ... points, as a part of the box that holds all of them.

    Of the box between the reference point and the best values: 1 is a single point that is best in
    everything. See `reference`.
    """
    if not points:
        return []
    below, best = reference(points)
    spans = [b - r for b, r in zip(best, below, strict=True)]
    scaled = [tuple((v - r) / s for v, r, s in zip(p, below, spans, strict=True)) for p in points]
    zero = (0.0,) * len(below)
    known: list[Values] = []
    found: list[float] = []
    for point in scaled:
        if not any(dominates(other, point) or other == point for other in known):
            known = [other for other in known if not dominates(point, other)]
            known.append(point)
            found.append(hypervolume(known, zero))
        else:
            found.append(found[-1])
    return found
