"""Slices, joins and gathered operations: values and gradients as torch's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retiarii.optimizer.kernels import gathered
from retiarii.optimizer.kernels.gathered import gathered_relu, gathered_scale, gathered_sum
from retiarii.optimizer.kernels.routing import (
    layout_of,
    parts,
    spread,
    to_channels,
    to_members,
    touch,
    write_back,
)

MEMBERS = 5


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    made = set()
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, MEMBERS - 1))
        made.add((start, draw(st.integers(start + 1, MEMBERS))))
    return tuple(sorted(made))


def stacked(dim: int, last: bool) -> Tensor:
    made = torch.Generator().manual_seed(1)
    shape = (MEMBERS, 2, 3, 3) if dim == 0 else (2, 3 * MEMBERS, 3, 3)
    value = torch.randn(shape, generator=made, dtype=torch.float64)
    if last:
        value = value.contiguous(memory_format=torch.channels_last)
    return value.requires_grad_()


def gradient(outputs: Sequence[Tensor], value: Tensor, skip: int | None = None) -> Tensor:
    used = [o for i, o in enumerate(outputs) if i != skip]
    total = sum((o * torch.linspace(1, 2, o.numel(), dtype=o.dtype).view_as(o)).sum() for o in used)
    (grad,) = torch.autograd.grad(total, value)
    return grad


@settings(max_examples=80, derandomize=True)
@given(ranges=ranges(), dim=st.integers(0, 1), last=st.booleans(), skip=st.integers(0, 5))
def test_parts(ranges: tuple[tuple[int, int], ...], dim: int, last: bool, skip: int) -> None:
    """Whatever overlaps, and whatever is left out, of slices, of readers and of gradients."""
    value = stacked(dim, last)
    width = value.shape[dim] // MEMBERS
    expected = [value.narrow(dim, a * width, (b - a) * width) for a, b in ranges]
    got = parts(value, dim, MEMBERS, ranges)
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.equal(ours, theirs)
    left_out = skip if len(ranges) > 1 else None
    torch.testing.assert_close(
        gradient(got, value, left_out), gradient(expected, value, left_out), rtol=1e-12, atol=1e-12
    )


def test_parts_differentiate_twice() -> None:
    value = stacked(1, False)

    def run(value: Tensor) -> Tensor:
        a, b = parts(value.square(), 1, MEMBERS, ((0, 3), (1, 5)))
        return a.sum() + b.pow(2).sum()

    assert torch.autograd.gradcheck(run, value)
    assert torch.autograd.gradgradcheck(run, value)


def test_parts_without_gradients_are_views() -> None:
    value = stacked(0, False).detach()
    (part,) = parts(value, 0, MEMBERS, ((1, 3),))
    assert part.data_ptr() == value[1].data_ptr()


def _bounds(cut: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(pairwise((0, *accumulate(cut))))


CUTS = [((5,), (5,)), ((2, 3), (5,)), ((1, 4), (3, 2)), ((1, 1, 3), (2, 2, 1))]


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("cached", [0, 1 << 20])
def test_gathered_operations(
    cuts: tuple[Sequence[int], ...],
    dim: int,
    last: bool,
    cached: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both ways: small pieces are joined first, large ones computed into their places."""
    monkeypatch.setattr(gathered, "_CACHED", cached)
    one, two = stacked(dim, last), stacked(dim, last)
    width = one.shape[dim] // MEMBERS
    left, right = (
        value.split([c * width for c in cut], dim)
        for value, cut in zip((one, two), cuts, strict=True)
    )
    cases: list[tuple[Tensor, Tensor, Tensor]] = [
        (
            gathered_sum(dim, (*_bounds(cuts[0]), *_bounds(cuts[1])), (*left, *right)),
            one + two,
            two,
        ),
        (gathered_relu(dim, left), torch.relu(one), one),
        (gathered_scale(dim, left, -0.5), one * -0.5, one),
    ]
    for got, expected, value in cases:
        assert torch.equal(got, expected)
        assert layout_of(got) is layout_of(one)
        assert torch.equal(gradient([got], value), gradient([expected], value))


@settings(max_examples=60, derandomize=True)
@given(
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    dim=st.integers(0, 1),
    last=st.booleans(),
    small=st.booleans(),
    data=st.data(),
)
def test_sums_of_unlike_numbers_of_terms(
    counts: list[int], dim: int, last: bool, small: bool, data: st.DataObject
) -> None:
    """Members with one to four terms, each from anywhere, added in their order."""
    terms = [
        (member, data.draw(st.integers(0, MEMBERS - 1)))
        for row in range(max(counts))
        for member, count in enumerate(counts)
        if count > row
    ]
    value, other = stacked(dim, last), stacked(dim, last)
    pieces, alone = ([v.chunk(MEMBERS, dim)[source] for _, source in terms] for v in (value, other))
    expected: dict[int, Tensor] = {}
    for (member, _), term in zip(terms, alone, strict=True):
        expected[member] = expected[member] + term if member in expected else term
    whole = torch.cat([expected[m] for m in sorted(expected)], dim)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathered, "_CACHED", 1 << 20 if small else 0)
        got = gathered_sum(dim, tuple((m, m + 1) for m, _ in terms), pieces)
    assert torch.equal(got, whole)
    torch.testing.assert_close(
        gradient([got], value), gradient([whole], other), rtol=1e-12, atol=1e-12
    )


def test_a_sum_leaves_its_terms_alone() -> None:
    one, two = torch.ones(2, 3), torch.ones(1, 3)
    assert gathered_sum(0, ((0, 2), (1, 2)), (one, two)).tolist() == [[1.0] * 3, [2.0] * 3]
    assert torch.equal(one, torch.ones(2, 3))


@pytest.mark.parametrize(
    "make",
    [
        gathered_relu,
        lambda d, p: gathered_scale(d, p, 2.0),
        lambda d, p: gathered_sum(d, ((0, 2), (2, 5), (1, 3)), (*p, p[0])),
    ],
)
@pytest.mark.parametrize("cached", [0, 1 << 20])
def test_gathered_operations_differentiate_twice(
    make: Callable[..., Tensor], cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathered, "_CACHED", cached)
    value = stacked(0, False)

    def run(value: Tensor) -> Tensor:
        return make(0, (value[:2] ** 2, value[2:] ** 3)).square()

    assert torch.autograd.gradcheck(run, value)
    assert torch.autograd.gradgradcheck(run, value)


def test_a_nan_passes_a_gathered_relu() -> None:
    piece = torch.tensor([[float("nan"), -1.0, float("inf")]])
    got = gathered_relu(0, (piece, piece))
    assert got.isnan().tolist() == [[True, False, False]] * 2


def test_pieces_of_several_types_are_joined_as_torch_joins_them() -> None:
    one, two = torch.ones(1, 2), torch.ones(1, 2, dtype=torch.float64)
    got = gathered_sum(0, ((0, 1), (1, 2), (0, 1)), (one, two, two))
    assert got.dtype is torch.float64
    assert got.tolist() == [[2.0, 2.0], [1.0, 1.0]]


def test_forms() -> None:
    value = stacked(1, False)
    members = to_members(value, MEMBERS)
    assert members.shape == (MEMBERS, 2, 3, 3, 3)
    assert torch.equal(members[1], value[:, 3:6])
    assert torch.equal(to_channels(members), value)
    plain = value[:, :3]
    assert torch.equal(spread(plain, 2), torch.cat((plain, plain), 1))


def test_write_back() -> None:
    homes = torch.zeros(3, 2), torch.zeros(1, 2)
    write_back(torch.arange(6.0).view(3, 2), (homes[0][1:], homes[1]))
    assert homes[0].tolist() == [[0, 0], [0, 1], [2, 3]]
    assert homes[1].tolist() == [[4, 5]]


def test_touch() -> None:
    value = torch.ones(2, requires_grad=True)
    parameter = torch.ones(3, requires_grad=True)
    touch(value, parameter).sum().backward()
    assert value.grad is not None
    assert parameter.grad is not None
    assert (value.grad.tolist(), parameter.grad.tolist()) == ([1, 1], [0, 0, 0])
