"""Views, moves, joins and places: where the dimensions of members are in a stack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from retiarii.ir.types import Attrs, BatchSize, Operand, TensorType
from retiarii.optimizer import kernels
from retiarii.optimizer.rules.base import Call, Form, Fusion, Lowering
from retiarii.optimizer.rules.registry import lower_group
from retiarii.testing.equivalence import call_of_function, check, check_function, check_module
from retiarii.testing.isolation import check_isolation

FORMS = [Form.MEMBERS, Form.CHANNELS]
BOTH = pytest.mark.parametrize("form", FORMS)
SHAPE = (2, 4, 3, 5)
DIM = st.integers(-4, 3)
T = torch.Tensor


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


def _lowering(op: Any, *args: Any, form: Form = Form.CHANNELS, **kwargs: Any) -> Lowering:
    call, tensors = call_of_function(op, args, kwargs)
    found = lower_group(Fusion(call, 3, (False,) * len(tensors), (form,) * len(tensors)))
    assert found is not None
    return found


CALLS: list[tuple[Callable[..., Any], tuple[int, ...], tuple[Any, ...]]] = [
    (T.view, SHAPE, (2, -1)),
    (T.view, SHAPE, (2, 4, -1)),
    (T.view, SHAPE, (2, 2, 2, 3, 5)),
    (T.view, SHAPE, (-1,)),
    (T.view, (2, 12), (2, 3, 4)),
    (T.reshape, SHAPE, (8, 15)),
    (T.reshape, (), (1, 1)),
    (torch.flatten, SHAPE, ()),
    (torch.flatten, SHAPE, (1,)),
    (torch.flatten, SHAPE, (2,)),
    (torch.flatten, SHAPE, (0, -2)),
    (torch.flatten, (2, 4, 1, 1), (1,)),
    (torch.flatten, (), ()),
    (torch.ravel, SHAPE, ()),
    (torch.unflatten, SHAPE, (1, (2, 2))),
    (torch.unflatten, SHAPE, (-1, (5, -1))),
    (torch.permute, SHAPE, ((0, 2, 3, 1),)),
    (torch.permute, SHAPE, ((0, 1, 3, 2),)),
    (torch.permute, SHAPE, ((-1, 0, 2, 1),)),
    (torch.movedim, SHAPE, (1, -1)),
    (torch.movedim, SHAPE, ((0, 1), (-1, -2))),
    (torch.t, (3, 4), ()),
    (torch.t, (3,), ()),
    (torch.squeeze, (2, 1, 3, 1), ()),
    (torch.squeeze, (2, 1, 3, 1), (-1,)),
    (torch.squeeze, (2, 1, 3, 1), ((1, 3),)),
    (torch.squeeze, SHAPE, (1,)),
    (torch.squeeze, (1,), ()),
    *((torch.unsqueeze, SHAPE, (d,)) for d in (0, 1, 2, 4, -1, -4)),
    (T.expand, (2, 4, 1, 1), (2, 4, 3, 3)),
    (T.expand, (2, 4, 1, 1), (-1, -1, 3, 3)),
    (T.expand, (4, 1), (2, 4, 3)),
    (T.expand, (), (2, 3)),
    (torch.broadcast_to, (4, 1), ((2, 4, 3),)),
    (T.repeat, (4, 2), (2, 1, 3)),
    (T.repeat, (), (2,)),
    (torch.tile, (4, 2), ((3,),)),
    (torch.tile, (4, 2), ((2, 1, 3),)),
    (torch.repeat_interleave, SHAPE, (2,)),
    (torch.repeat_interleave, SHAPE, (2, 1)),
    (torch.split, SHAPE, ([1, 3], 1)),
    (torch.split, SHAPE, (2, -1)),
    (torch.tensor_split, SHAPE, (2, -1)),
    (torch.tensor_split, SHAPE, ((1, 3), 1)),
    (torch.roll, SHAPE, (2,)),
    (torch.roll, SHAPE, ((1, 2), (1, -1))),
    (torch.flip, SHAPE, ((0, 1),)),
    (torch.fliplr, SHAPE, ()),
    (torch.flipud, SHAPE, ()),
    (torch.rot90, SHAPE, (1, (1, 2))),
    (torch.rot90, SHAPE, (3, (2, 3))),
    (T.unfold, SHAPE, (-1, 3, 2)),
    (T.unfold, SHAPE, (1, 2, 1)),
    (torch.diagonal, SHAPE, (1,)),
    (torch.diagonal, SHAPE, (0, 2, -1)),
    (torch.diag, (3, 4), (1,)),
    (torch.diag, (3,), (-1,)),
    (torch.diag_embed, SHAPE, (1, 0, -1)),
    (torch.tril, (3, 4), (-1,)),
    (torch.triu, SHAPE, ()),
    (T.contiguous, SHAPE, ()),
    (torch.clone, SHAPE, ()),
    (torch.zeros_like, SHAPE, ()),
    (torch.full_like, SHAPE, (2.5,)),
    (T.new_ones, SHAPE, (3, 2)),
    (T.new_full, SHAPE, ((2,), 7)),
]


@BOTH
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("op", "shape", "args"), CALLS)
def test_of_one_tensor(
    op: Callable[..., Any],
    shape: tuple[int, ...],
    args: tuple[Any, ...],
    shared: bool,
    size: int,
    form: Form,
) -> None:
    check_function(op, _random(*shape), *args, size=size, shared=[shared], form=form)


@settings(max_examples=80)
@given(
    op=st.sampled_from([torch.transpose, torch.diagonal]),
    dims=st.tuples(DIM, DIM).filter(lambda d: d[0] % 4 != d[1] % 4),
    size=st.integers(1, 3),
    form=st.sampled_from(FORMS),
)
def test_two_dimensions(
    op: Callable[..., Any], dims: tuple[int, int], size: int, form: Form
) -> None:
    names = ("dim0", "dim1") if op is torch.transpose else ("dim1", "dim2")
    check_function(op, _random(*SHAPE), size=size, form=form, **dict(zip(names, dims, strict=True)))


@settings(max_examples=60)
@given(
    op=st.sampled_from([torch.chunk, torch.split, torch.tensor_split]),
    pieces=st.integers(1, 3),
    dim=DIM,
    size=st.integers(1, 3),
    form=st.sampled_from(FORMS),
)
def test_pieces(op: Callable[..., Any], pieces: int, dim: int, size: int, form: Form) -> None:
    check_function(op, _random(*SHAPE), pieces, dim=dim, size=size, form=form)


@BOTH
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
@pytest.mark.parametrize("shared", [[False] * 3, [True, False, False], [False, True, True]])
@pytest.mark.parametrize("size", [1, 3])
def test_joins(dim: int, shared: list[bool], size: int, form: Form) -> None:
    tensors = [_random(*SHAPE) for _ in range(3)]
    check_function(torch.cat, tensors, dim=dim, shared=shared, size=size, form=form)
    check_function(torch.stack, tensors, dim=dim, shared=shared, size=size, form=form)


@BOTH
@pytest.mark.parametrize("shared", [[False] * 3, [True, False, False]])
def test_joins_of_unequal_widths(shared: list[bool], form: Form) -> None:
    for rest in ((3, 5), (7,), ()):
        tensors = [_random(2, width, *rest) for width in (4, 1, 3)]
        check_function(torch.cat, tensors, dim=1, shared=shared, form=form)
    check_function(torch.cat, [_random(3), _random(2)], form=form)


@BOTH
@pytest.mark.parametrize("op", [torch.hstack, torch.vstack, torch.dstack, torch.column_stack])
def test_named_joins(op: Callable[..., Any], form: Form) -> None:
    for shape in ((3,), (3, 4), (2, 3, 4)):
        check_function(op, [_random(*shape), _random(*shape)], form=form)


@pytest.mark.parametrize("shared", [(), (1,)])
@pytest.mark.parametrize("last", [True, False])
def test_joined_channels_keep_their_memory_format(shared: tuple[int, ...], last: bool) -> None:
    kind = torch.channels_last if last else torch.contiguous_format
    members = [[_random(2, width, 3, 5) for width in (4, 2)] for _ in range(3)]
    for row in members:
        row[1] = members[0][1] if shared else row[1]
    stacks = [torch.cat([row[i] for row in members], 1) for i in range(2)]
    if shared:
        stacks[1] = members[0][1]
    stacks = [s.contiguous(memory_format=kind).requires_grad_() for s in stacks]
    joined = kernels.cat_channels(stacks, 3, shared)
    expected = torch.cat([torch.cat(row, 1) for row in members], 1)
    torch.testing.assert_close(joined, expected, rtol=0, atol=0)
    assert joined.is_contiguous(memory_format=kind)
    joined.sum().backward()
    assert stacks[0].grad is not None
    assert stacks[0].grad.is_contiguous(memory_format=kind)


def test_pieces_of_channels_keep_their_memory_format() -> None:
    stack = _random(2, 12, 3, 5).contiguous(memory_format=torch.channels_last)
    found = _lowering(torch.narrow, _random(*SHAPE), 1, 1, 2)
    assert found.results == (Form.CHANNELS,)
    names = {"torch": torch, "kernels": kernels, "stack": stack}
    made = eval(found.text.replace("$0", "stack"), names)
    expected = stack.unflatten(1, (3, 4))[:, :, 1:3].flatten(1, 2)
    assert torch.equal(made, expected)
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_joins_of_tensors_given_by_name_are_not_fused() -> None:
    kind = TensorType(SHAPE, torch.float64)
    whole = TensorType((4, 4, 3, 5), torch.float64)
    call = Call("cat", Attrs(tensors=(Operand(1), Operand(0))), (kind, kind), (whole,))
    assert lower_group(Fusion(call, 2, (False, False), (Form.MEMBERS,) * 2)) is None


@BOTH
@pytest.mark.parametrize("indexing", ["ij", "xy"])
def test_grids(indexing: str, form: Form) -> None:
    for axes in ([_random(3), _random(4)], [_random(3), _random(2), _random()], [_random(2)]):
        for shared in (False, True):
            flags = [shared, *[False] * (len(axes) - 1)]
            check_function(torch.meshgrid, *axes, indexing=indexing, shared=flags, form=form)


@BOTH
def test_shapes_of_another_tensor(form: Form) -> None:
    x, small = _random(*SHAPE), _random(4, 1, 1)
    for shared in ([False, False], [True, False], [False, True]):
        check_function(T.expand_as, small, x, shared=shared, form=form)
        check_function(T.view_as, x, _random(8, 15), shared=shared, form=form)
        check_function(torch.broadcast_tensors, small, x, shared=shared, form=form)


INDICES = [
    *(0, -1, slice(1, None), None, Ellipsis, (slice(None), 0), (slice(None), slice(1, 3))),
    *((Ellipsis, 0), (None, 0), (0, slice(None), None), (slice(None, None, 2), slice(None), 1)),
    (slice(None), slice(None), slice(1, 3), slice(None, None, 2)),
    *((slice(None), [0, 2]), [1, 0, 1], (0, [0, 2]), ([0, 1], [1, 2]), (Ellipsis, [0, 1])),
]


@BOTH
@pytest.mark.parametrize("index", INDICES, ids=str)
def test_subscripts(index: Any, form: Form) -> None:
    check_function(T.__getitem__, _random(*SHAPE), index, form=form)


@pytest.mark.parametrize("index", [(0, slice(None), [0, 1]), ([0, 1], slice(None), [0, 1])])
def test_a_subscript_that_moves_dimensions_to_the_front_is_not_fused(index: Any) -> None:
    call, _ = call_of_function(T.__getitem__, (_random(*SHAPE), index), {})
    assert lower_group(Fusion(call, 2, (False,), (Form.MEMBERS,))) is None


@BOTH
def test_subscripts_with_tensors_are_fused_where_all_share_them(form: Form) -> None:
    rows = torch.tensor([1, 0, 1])
    for index in (rows, (slice(None), rows), (Ellipsis, rows), (slice(None), torch.tensor(2))):
        check_function(T.__getitem__, _random(*SHAPE), index, shared=[False, True], form=form)
    call, _ = call_of_function(T.__getitem__, (_random(*SHAPE), rows), {})
    assert lower_group(Fusion(call, 2, (False, False), (form, form))) is None
    call, _ = call_of_function(T.__getitem__, (_random(2, 3), _random(2, 3) > 0), {})
    assert lower_group(Fusion(call, 2, (False, True), (form, Form.PLAIN))) is None


@BOTH
@pytest.mark.parametrize(
    ("index", "value"),
    [(0, 1.5), ((slice(None), 1), (5,)), ((Ellipsis, 0), (4, 1)), ((slice(None), [0, 2]), 2.0)],
)
def test_writes_at_places(index: Any, value: Any, form: Form) -> None:
    written = _random(*value) if isinstance(value, tuple) else value
    operands = [_random(*SHAPE)] + ([written] if isinstance(value, tuple) else [])
    call, _ = call_of_function(T.__setitem__, (operands[0].clone(), index, written), {})
    kind = TensorType(SHAPE, torch.float64)
    call = Call(call.op, call.attrs, call.inputs, (kind,))

    def alone(x: torch.Tensor, given: Any = value) -> torch.Tensor:
        made = x.clone()
        made[index] = given
        return made

    rows = [[torch.randn_like(o) for o in operands] for _ in range(3)]
    check(call, alone, rows, form=form)
    if len(operands) == 2:
        check(call, alone, [[r[0], operands[1]] for r in rows], [False, True], form)


@BOTH
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_gathers_and_scatters(dim: int, form: Form) -> None:
    x, y = _random(3, 4, 5), _random(3, 4, 5)
    index = torch.stack([torch.randperm(x.shape[dim])[:2] for _ in range(6)])
    index = index.t().reshape(2, 6, 1).movedim(0, dim % 3 if dim >= 0 else dim)
    index = index[tuple(slice(0, n) for n in (3, 4, 5))]
    one = torch.tensor([1, 0])
    for shared in (False, True):
        check_function(torch.gather, x, dim, index, shared=[False, shared], form=form)
        check_function(torch.take_along_dim, x, index, dim=dim, shared=[False, shared], form=form)
        for op in (torch.scatter, torch.scatter_add):
            src = y[tuple(slice(0, n) for n in index.shape)]
            check_function(op, x, dim, index, src, shared=[False, shared, False], form=form)
        check_function(torch.index_select, x, dim, one, shared=[False, shared], form=form)
        check_function(torch.index_fill, x, dim, one, 2.0, shared=[False, shared], form=form)
        two = y.narrow(dim, 0, 2)
        for op in (torch.index_add, torch.index_copy):
            check_function(op, x, dim, one, two, shared=[False, shared, False], form=form)
        check_function(torch.take, x, torch.tensor([[3, -1]]), shared=[False, shared], form=form)
    check_function(torch.select, x, dim, 1, form=form)
    check_function(torch.narrow, x, dim, 1, 2, form=form)
    check_function(torch.select_scatter, x, y.select(dim, 0), dim, 1, form=form)
    check_function(torch.slice_scatter, x, y.narrow(dim, 0, 2), dim, 1, 3, form=form)


@BOTH
def test_sizes_follow_the_batch(form: Form) -> None:
    given, half = TensorType(SHAPE, torch.float64), slice(BatchSize(1, 2), None)
    cases: list[tuple[Call, Callable[..., Any]]] = [
        (
            Call("reshape", Attrs(shape=(BatchSize(), 4, 15)), (given,), (_of(2, 4, 15),)),
            lambda x: x.reshape(len(x), 4, 15),
        ),
        (
            Call("view", Attrs(size=(BatchSize(2), -1)), (given,), (_of(4, 30),)),
            lambda x: x.reshape(2 * len(x), -1),
        ),
        (
            Call("getitem", Attrs(index=half), (given,), (_of(1, 4, 3, 5),)),
            lambda x: x[len(x) // 2 :],
        ),
        (
            Call("expand", Attrs(size=(BatchSize(), 4, 3, 5)), (_of(1, 4, 1, 1),), (given,)),
            lambda x: x.expand(6, 4, 3, 5),
        ),
        (
            Call("new_zeros", Attrs(size=(BatchSize(), 7)), (given,), (_of(2, 7),)),
            lambda x: x.new_zeros(len(x), 7),
        ),
    ]
    for call, alone in cases[:3] + cases[4:]:
        rows = [[_random(6, *t.shape[1:]) for t in call.inputs] for _ in range(3)]
        check(call, alone, rows, form=form)
    call = cases[3][0]
    found = lower_group(Fusion(call, 3, (False,), (form,)))
    assert found is not None
    assert "expand((batch, " in found.text or "expand((3, batch, " in found.text


def _of(*shape: int) -> TensorType:
    return TensorType(shape, torch.float64)


@BOTH
def test_layers(form: Form) -> None:
    for layer in (nn.Flatten(), nn.Flatten(2), nn.Unflatten(1, (2, 2)), nn.Identity()):
        check_module(lambda layer=layer: layer, _random(*SHAPE), form=form)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("op", "args", "results"),
    [
        (torch.flatten, (1,), Form.MEMBERS),
        (torch.flatten, (2,), Form.CHANNELS),
        (torch.transpose, (2, 3), Form.CHANNELS),
        (torch.squeeze, (), Form.CHANNELS),
        (torch.chunk, (3, 2), Form.CHANNELS),
        (T.__getitem__, ((slice(None), slice(None), 0),), Form.CHANNELS),
        (T.expand, (-1, -1, 3, 5), Form.CHANNELS),
    ],
)
def test_channels_stay_where_batch_and_channels_do(
    op: Callable[..., Any], args: tuple[Any, ...], results: Form
) -> None:
    found = _lowering(op, _random(2, 4, 3, 1) if op is torch.squeeze else _expandable(op), *args)
    assert set(found.results) == {results}
    assert found.inputs == (results,)


def _expandable(op: Callable[..., Any]) -> torch.Tensor:
    return _random(2, 4, 1, 1) if op is T.expand else _random(*SHAPE)


@pytest.mark.parametrize("channels_last", [True, False])
def test_pooled_images_are_flattened_without_a_copy(channels_last: bool) -> None:
    kind = torch.channels_last if channels_last else torch.contiguous_format
    stack = _random(2, 12, 1, 1).contiguous(memory_format=kind)
    members = stack.unflatten(1, (3, 4)).transpose(0, 1)
    found = _lowering(torch.flatten, _random(2, 4, 1, 1), 1)
    assert found.inputs == (Form.MEMBERS,)
    flat = eval(found.text.replace("$0", "members"), {"members": members})
    assert flat.data_ptr() == stack.data_ptr()


@BOTH
def test_a_nan_stays_with_its_member(form: Form) -> None:
    pair = [torch.randn(SHAPE), torch.randn(SHAPE)]
    call, _ = call_of_function(torch.cat, (pair,), {"dim": 1})
    check_isolation(call, [[torch.randn(SHAPE) for _ in pair] for _ in range(3)], form=form)
    for op, args in ((torch.flatten, (1,)), (torch.roll, (1,)), (torch.chunk, (2, 1))):
        call, _ = call_of_function(op, (pair[0], *args), {})
        check_isolation(call, [[torch.randn(SHAPE)] for _ in range(3)], form=form)
