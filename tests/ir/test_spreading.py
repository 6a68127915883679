"""Channels through views: where they go, and which can only change together."""

from __future__ import annotations

from math import prod

import torch
from hypothesis import given
from hypothesis import strategies as st

from retiarii.ir.edit.spreading import Units, gathered, spread, traced


def numbers(shape: tuple[int, ...], axis: int) -> torch.Tensor:
    """Positions along one axis."""
    line = torch.arange(shape[axis]).view([-1 if i == axis else 1 for i in range(len(shape))])
    return line.expand(shape).contiguous()


def test_joined_channels_are_numbered_by_their_smallest() -> None:
    units = Units(6)
    units.join(4, 1)
    units.join(5, 4)
    assert units.roots([5, -1, 0]) == [1, -1, 0]
    assert units.numbered() == (0, 1, 2, 3, 1, 1)


def test_a_position_of_several_channels() -> None:
    units = Units(4)
    assert gathered([0, 1, 2, -1], [0, 0, 1, 1], 3, units, join=False) is None
    assert gathered([0, 1, 2, -1], [0, 0, 1, 1], 3, units, join=True) == [0, 2, -1]
    assert units.numbered() == (0, 0, 1, 2)
    assert gathered([0, 1, 2, -1], [0, 0, 1, 1], 3, units, join=False) == [0, 2, -1]


def test_heads_stay_whole() -> None:
    units = Units(12)
    found = spread(numbers((2, 12), 1).view(2, 3, 4), range(12), units)
    assert found == (1, [0, 4, 8])
    assert units.numbered() == (0,) * 4 + (1,) * 4 + (2,) * 4


def test_heads_below_queries_keys_and_values() -> None:
    units = Units(2)
    made = numbers((2, 18), 1).view(2, 3, 2, 3)
    assert traced({0: numbers((2, 18), 0).view(2, 3, 2, 3), 1: made}, 2, [0, 1], units) == (
        1,
        [0, 0, 0, 1, 1, 1] * 3,
    )
    # Where so far only the queries have them, the others get them too.
    assert spread(made, [0, 0, 0, 1, 1, 1, *[-1] * 12], units) == (2, [0, 1])
    assert units.numbered() == (0, 1)


def test_heads_that_share_keys_are_joined() -> None:
    units = Units(6)
    shape = (2, 3, 2, 5)
    made = {axis: numbers(shape, axis).reshape(2, 6, 5) for axis in range(4)}
    assert traced(made, 1, range(6), units) == (1, [0, 2, 4])
    assert units.numbered() == (0, 0, 1, 1, 2, 2)


def test_what_comes_from_nowhere() -> None:
    assert traced({0: numbers((2, 3), 0)}, 1, [0, 1, 2], Units(3)) is None


@given(
    shape=st.lists(st.integers(2, 4), min_size=2, max_size=4).map(tuple),
    data=st.data(),
)
def test_there_and_back(shape: tuple[int, ...], data: st.DataObject) -> None:
    """What one axis of a split has is found again at the other end, and is the same from there."""
    axis = data.draw(st.integers(0, len(shape) - 1))
    order = data.draw(st.permutations(range(len(shape))))
    flat = numbers((prod(shape),), 0).view(shape).permute(order)
    place = order.index(axis)
    units = Units(shape[axis])
    found = traced({0: flat}, place, range(shape[axis]), units)
    assert found is not None
    assert found[1] == numbers(shape, axis).reshape(-1).tolist()
    assert spread(flat, found[1], units) == (place, list(range(shape[axis])))
    assert units.numbered() == tuple(range(shape[axis]))
