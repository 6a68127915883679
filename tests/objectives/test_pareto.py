"""Fronts, crowding and hypervolume, against plain definitions."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest

from retiarii.objectives.pareto import crowding, dominates, front, hypervolume, progress, reference
from retiarii.objectives.standing import Standing


def drawn(number: int, axes: int, seed: int, levels: int = 6) -> list[tuple[float, ...]]:
    rng = random.Random(seed)
    return [tuple(float(rng.randrange(levels)) for _ in range(axes)) for _ in range(number)]


def test_dominates() -> None:
    assert dominates((2.0, 1.0), (1.0, 1.0))
    assert not dominates((1.0, 1.0), (1.0, 1.0))
    assert not dominates((2.0, 0.0), (1.0, 1.0))


@pytest.mark.parametrize("axes", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_front_is_what_nothing_dominates(axes: int, seed: int) -> None:
    points = drawn(40, axes, seed)
    plain = [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]
    assert front(points) == plain


@pytest.mark.parametrize("axes", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_hypervolume_counts_cells(axes: int, seed: int) -> None:
    """On whole numbers the volume is the number of unit cells below some point."""
    points = drawn(9, axes, seed, levels=5)
    cells = sum(
        any(all(c < v for c, v in zip(cell, point, strict=True)) for point in points)
        for cell in product(range(5), repeat=axes)
    )
    assert hypervolume(points, (0.0,) * axes) == pytest.approx(cells)


def test_points_below_the_reference_add_nothing() -> None:
    assert hypervolume([(3.0, 0.0), (1.0, 2.0)], (0.0, 1.0)) == pytest.approx(1.0)
    assert hypervolume([], (0.0, 0.0)) == 0.0


def test_reference_is_a_tenth_below_the_worst() -> None:
    below, best = reference([(0.0, 5.0), (10.0, 5.0)])
    assert below == pytest.approx((-1.0, 4.9))  # a range of nothing counts as one
    assert best == (10.0, 5.0)


def test_progress_by_hand() -> None:
    # Both ranges are 1, and the box has sides of 1.1: a corner covers 1.1 * 0.1 of it, the
    # middle (0.5, 0.5) adds 0.6 * 0.6 less what the corners cover.
    points = [(0.0, 1.0), (1.0, 0.0), (0.5, 0.5), (0.2, 0.2)]
    box = 1.1 * 1.1
    two = 1.1 * 0.1 + 0.1 * 1.1 - 0.1 * 0.1
    three = two + 0.5 * 0.5
    assert progress(points) == pytest.approx([0.11 / box, two / box, three / box, three / box])


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_progress_never_falls_and_does_not_depend_on_units(axes: int) -> None:
    points = drawn(50, axes, 3)
    found = progress(points)
    assert found == sorted(found)
    assert 0 < found[-1] <= 1
    scaled = [tuple(7.5 * v - 100 for v in p) for p in points]
    assert progress(scaled) == pytest.approx(found)
    assert progress([]) == []


def test_crowding_by_hand() -> None:
    found = crowding([(0.0, 4.0), (1.0, 3.0), (4.0, 0.0)])
    assert found == [math.inf, 4.0 / 4.0 + 4.0 / 4.0, math.inf]


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_standing_is_the_part_that_is_better(axes: int) -> None:
    points = drawn(60, axes, 1)
    standing = Standing()
    for number, point in enumerate(points):
        standing.add(10 * number, point)
    scores = standing.scores()
    assert list(scores) == [10 * n for n in range(60)]
    for number, point in enumerate(points):
        above = sum(dominates(other, point) for other in points)
        share = 60 * scores[10 * number] + above
        assert -1e-9 <= share <= 0.5
        assert above == 0 or share == pytest.approx(0.0)


def test_the_ends_of_a_front_stand_above_what_is_crowded() -> None:
    standing = Standing()
    for number, point in enumerate([(0.0, 9.0), (4.0, 4.0), (4.1, 3.9), (9.0, 0.0), (1.0, 1.0)]):
        standing.add(number, point)
    scores = standing.scores()
    assert scores[0] == scores[3] == max(scores.values())
    assert scores[4] == min(scores.values()) < 0 < scores[1]
