"""Parameters laid end to end, and their gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from retiarii.training.cohort.blocks import reduced
from retiarii.training.cohort.stacks import FlatParameters


def last(t):
    """Members in channels-last format, where they have four dimensions."""
    if t.ndim != 5:
        return t
    return t.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


@pytest.mark.parametrize("lay_out", [lambda t: t, last], ids=["plain", "channels-last"])
def test_values_and_formats_stay_and_the_data_are_one_buffer(cohorts, lay_out):
    pair = cohorts.pair(lay_out=lay_out)
    (block,) = pair.flat.blocks
    apart = cohorts.pair().stacked
    assert block.data.numel() == sum(p.numel() for p in pair.stacked)
    for index, (p, other) in enumerate(zip(pair.stacked, apart, strict=True)):
        assert torch.equal(p, other)
        assert p.untyped_storage().data_ptr() == block.data.untyped_storage().data_ptr()
        assert p.stride() == (lay_out(other.detach()).stride() if p.ndim == 5 else other.stride())
        assert p.is_leaf
        assert p.requires_grad, index
    pair.assert_equal(0.0)
    block.data.zero_()
    assert not any(p.any() for p in pair.stacked)


@pytest.mark.parametrize("lay_out", [lambda t: t, last], ids=["plain", "channels-last"])
@pytest.mark.parametrize("grads_too", [False, True])
def test_gradients_lie_as_the_parameters_do(cohorts, lay_out, grads_too):
    pair = cohorts.pair(lay_out=lay_out)
    grads = pair.grads(3)
    given_ = [lay_out(g) for g in grads] if grads_too else grads
    flat = pair.flat.gather(given_)
    assert flat.present is None
    for view, grad in zip(pair.flat.views(flat.tensors), grads, strict=True):
        assert torch.equal(view, grad)
    for model, own in enumerate(pair.alone):
        for part, p in zip(pair.flat.member_of(flat.tensors, model), own, strict=True):
            assert torch.equal(part, p.grad)


def by_parameter(pair, present):
    """Presence, given by block and segment, for each parameter and member."""
    ((block,), (flags,)) = pair.flat.blocks, present
    rows = [[] for _ in pair.stacked]
    for span in block.spans:
        rows[span.parameter] = list(flags[span.first_segment :][: span.members])
    return rows


def test_from_autograd(cohorts):
    pair = cohorts.pair()
    loss = sum((p * p).sum() for p in pair.stacked[1:])
    found = torch.autograd.grad(loss, pair.stacked, allow_unused=True)
    flat = pair.flat.gather(found)
    assert by_parameter(pair, flat.present) == [[False] * 3, [True] * 2, [True] * 4, [True]]
    first, *rest = pair.flat.views(flat.tensors)
    assert not first.any()
    for view, p in zip(rest, pair.stacked[1:], strict=True):
        torch.testing.assert_close(view, 2 * p.detach())
    assert pair.flat.gather(found).present is flat.present


def test_presence_may_be_given_for_each_member(cohorts):
    pair = cohorts.pair()
    rows = [[True, False, True], [True, True], [False, True, True, True], [True]]
    present = pair.flat.gather(pair.grads(0), rows).present
    assert by_parameter(pair, present) == rows
    present = pair.flat.gather(pair.grads(0, missing=(1,)), rows).present
    assert by_parameter(pair, present) == [rows[0], [False, False], *rows[2:]]


def test_one_value_a_model_becomes_one_an_element(cohorts):
    pair = cohorts.pair()
    (spread,) = pair.flat.expand(pair.flat.vector([1.0, 2.0, 3.0]))
    assert spread.dtype == torch.float64
    for model in range(3):
        assert all((v == model + 1).all() for v in pair.flat.member_of([spread], model))
    assert pair.flat.expand(pair.flat.vector([0.5, 0.5, 0.5])) == [0.5]
    (mask,) = pair.flat.expand(torch.tensor([True, False, False]))
    assert mask.dtype == torch.bool
    assert int(mask.sum()) == sum(p.numel() for p in pair.alone[0])


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_sums_and_expansion_of_any_stacks(cohorts, data):
    members = st.lists(st.integers(0, 4), min_size=1, max_size=4)
    owners = data.draw(st.lists(members, min_size=1, max_size=5))
    sizes = [data.draw(st.integers(0, 9)) for _ in owners]
    params = [
        nn.Parameter(torch.randn(len(o), n, dtype=torch.float64))
        for o, n in zip(owners, sizes, strict=True)
    ]
    flat = FlatParameters(params, owners, models=5)
    (block,) = flat.blocks
    values = torch.arange(5, dtype=torch.float64)
    for view, o in zip(flat.views([block.expand(values)]), owners, strict=True):
        assert all((row == k).all() for row, k in zip(view, o, strict=True))
    for region in block.regions:
        spread = region.expand(values).expand(region.of(block.data).shape)
        assert torch.equal(spread, region.of(block.expand(values)))
    assert sum(r.of(block.data).numel() for r in block.regions) == block.data.numel()
    squares = flat.squared_norms(flat.gather(params))
    expected = [0.0] * 5
    for p, o in zip(params, owners, strict=True):
        for g, k in enumerate(o):
            expected[k] += p[g].detach().square().sum().item()
    torch.testing.assert_close(squares, torch.tensor(expected, dtype=torch.float64))
    lengths = torch.tensor(block.lengths)
    torch.testing.assert_close(reduced(block.data, lengths), block.segment_sums(block.data))


def test_a_sum_that_is_not_finite_stays_with_its_model(cohorts):
    pair = cohorts.pair()
    grads = pair.flat.gather(pair.grads(0))
    before = pair.flat.squared_norms(grads)
    pair.flat.member_of(grads.tensors, 1)[0].view(-1)[0] = float("nan")
    after = pair.flat.squared_norms(grads)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert after[1].isnan()


def test_types_are_kept_apart():
    params = [
        nn.Parameter(torch.ones(2, 3)),
        nn.Parameter(torch.ones(2, 3, dtype=torch.float64)),
        nn.Parameter(torch.ones(())),
    ]
    flat = FlatParameters(params, [(0, 1), (1, 1), 0])
    assert [b.data.dtype for b in flat.blocks] == [torch.float32, torch.float64]
    assert [len(s) for s in flat.slots] == [2, 3]
    grads = flat.gather([None, torch.full((2, 3), 2.0, dtype=torch.float64), torch.tensor(3.0)])
    assert grads.present == ((False, False, True), (True, True))
    assert flat.squared_norms(grads).tolist() == [9.0, 24.0]
    assert [v.shape for v in flat.views(grads.tensors)] == [p.shape for p in params]
    assert flat.member(grads.tensors, flat.slots[0][1]).shape == ()


def test_no_parameters_at_all():
    flat = FlatParameters([], [], models=2)
    assert flat.gather([]).tensors == ()
    assert flat.slots == ((), ())
    assert flat.squared_norms(flat.gather([])).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("owners", "options", "message"),
    [
        ([(0, 1, 1)], {}, "3 owners"),
        ([(0, 2)], {"models": 2}, "belongs to model 2"),
        ([(0, 1)], {"order": [[(0, 0)], []]}, "the order of model 1"),
        ([(0, 1)], {"order": [[(0, 0), (0, 0)], [(0, 1)]]}, "the order of model 0"),
    ],
)
def test_what_does_not_fit_is_refused(owners, options, message):
    with pytest.raises(ValueError, match=message):
        FlatParameters([nn.Parameter(torch.ones(2, 3))], owners, **options)


def test_parameters_that_it_cannot_hold():
    param = nn.Parameter(torch.ones(2, 3))
    with pytest.raises(ValueError, match="twice"):
        FlatParameters([param, param], [(0, 1), (0, 1)])
    with pytest.raises(ValueError, match="complex"):
        FlatParameters([nn.Parameter(torch.ones(2, dtype=torch.complex64))], [(0, 1)])


def test_a_sparse_gradient():
    table = nn.Embedding(5, 3, sparse=True)
    flat = FlatParameters([table.weight], [0])
    loss = table(torch.tensor([1, 1, 4])).sum()
    gradient = flat.gather(torch.autograd.grad(loss, [table.weight]))
    expected = torch.tensor([0.0, 2.0, 0.0, 0.0, 1.0]).repeat_interleave(3)
    assert torch.equal(gradient.tensors[0], expected)


def test_a_training_step_through_the_views(cohorts):
    """Autograd and in-place updates of the buffer go together."""
    pair = cohorts.pair()
    for _ in range(3):
        loss = sum((p - 1).square().sum() for p in pair.stacked)
        grads = pair.flat.gather(torch.autograd.grad(loss, pair.stacked))
        with torch.no_grad():
            pair.flat.blocks[0].data.sub_(grads.tensors[0], alpha=0.5)
    assert all(torch.equal(p, torch.ones_like(p)) for p in pair.stacked)


def test_both_kinds_of_regions_are_tried(cohorts, request):
    (block,) = cohorts.pair().flat.blocks
    shapes = [tuple(region.of(block.data).shape) for region in block.regions]
    in_rows = "in-rows" in request.node.name
    assert shapes == ([(40,), (4, 12)] if in_rows else [(88,)])
