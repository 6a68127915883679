"""Random calls: each member draws, bit for bit, what it alone would draw."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from retiarii.ir.ops import module_attrs
from retiarii.ir.types import Attrs, BatchSize, TensorType
from retiarii.optimizer import kernels
from retiarii.optimizer.rules.base import Call, Form, Fusion
from retiarii.optimizer.rules.registry import lower_group
from retiarii.testing.equivalence import call_of_function, check, check_random, fused

FORMS = [Form.MEMBERS, Form.CHANNELS]
BOTH = pytest.mark.parametrize("form", FORMS)
SHAPE = (2, 4, 3, 5)
DROPOUTS = [F.dropout, F.alpha_dropout, F.feature_alpha_dropout]
BY_RANK = [(F.dropout1d, 3), (F.dropout1d, 2), (F.dropout2d, 4), (F.dropout3d, 5), (F.dropout3d, 4)]


def _streams(size: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(30 + g) for g in range(size)]


def _try(
    op: Callable[..., Any],
    shape: tuple[int, ...],
    *args: Any,
    form: Form = Form.MEMBERS,
    shared: bool = False,
    size: int = 3,
    positive: bool = False,
    **kwargs: Any,
) -> None:
    """Draws as the members alone, forward and backward."""
    rows = [[torch.rand(shape) - (0 if positive else 0.5)] for _ in range(size)]
    rows = [rows[0]] * size if shared else rows
    call, _ = call_of_function(op, (rows[0][0], *args), kwargs)

    def alone(x: Tensor) -> Any:
        return op(x, *args, **kwargs)

    check_random(call, alone, rows, [shared], form)


@settings(max_examples=80)
@given(
    op=st.sampled_from(DROPOUTS),
    p=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    training=st.booleans(),
    shape=st.sampled_from([SHAPE, (3, 20), (2, 3, 7)]),
    form=st.sampled_from(FORMS),
    shared=st.booleans(),
    size=st.integers(1, 3),
)
def test_dropouts(
    op: Callable[..., Any],
    p: float,
    training: bool,
    shape: tuple[int, ...],
    form: Form,
    shared: bool,
    size: int,
) -> None:
    _try(op, shape, p=p, training=training, form=form, shared=shared, size=size)


@BOTH
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("op", "rank"), BY_RANK)
@pytest.mark.parametrize("p", [0.4, 1.0])
def test_dropouts_of_channels(
    op: Callable[..., Any], rank: int, p: float, shared: bool, form: Form
) -> None:
    _try(op, (2, 4, 3, 2, 3)[:rank], p=p, form=form, shared=shared)


@BOTH
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", [(1, 0, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0), (2, 0, 3, 1)])
@pytest.mark.parametrize(
    ("op", "more"),
    [
        (F.dropout, {"p": 0.3}),
        (F.alpha_dropout, {"p": 0.3, "training": True}),
        (torch.rand_like, {}),
        (torch.randn_like, {}),
        (torch.randint_like, {"low": 0, "high": 9}),
    ],
)
def test_draws_in_the_order_of_memory(
    op: Callable[..., Any],
    more: dict[str, Any],
    order: tuple[int, ...],
    dtype: torch.dtype,
    shared: bool,
    form: Form,
) -> None:
    rows = [[torch.rand(SHAPE, dtype=dtype)] for _ in range(3)]
    rows = [rows[0]] * 3 if shared else rows
    call, _ = call_of_function(op, (rows[0][0],), more)

    def alone(x: Tensor) -> Any:
        back = [order.index(d) for d in range(x.ndim)]
        return op(x.permute(order).contiguous().permute(back), **more)

    check_random(replace(call, order=order), alone, rows, [shared], form)


def test_samples_of_one_dimension_under_dropout2d() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _try(F.dropout2d, (2, 4, 3), p=0.4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    rows = [[torch.ones(40, dtype=dtype)] for _ in range(2)]
    call, _ = call_of_function(F.dropout, (rows[0][0],), {"p": 0.3})
    check_random(call, lambda x: F.dropout(x, 0.3), rows)


@BOTH
@pytest.mark.parametrize("op", [F.dropout, F.dropout2d, F.alpha_dropout, F.rrelu])
def test_gradients_are_those_of_the_members(op: Callable[..., Any], form: Form) -> None:
    rows = [[torch.randn(SHAPE, dtype=torch.float64)] for _ in range(3)]
    apart = [r[0].clone().requires_grad_() for r in rows]
    together = [[r[0].clone().requires_grad_()] for r in rows]
    for x, stream in zip(apart, _streams(3), strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(stream.get_state())
            (op(x, training=True) ** 2).sum().backward()
    call, _ = call_of_function(op, (rows[0][0],), {"training": True})
    _, got = fused(call, together, [False], _streams(3), form)
    torch.stack([(row[0] ** 2).sum() for row in got]).sum().backward()
    for x, (y,) in zip(apart, together, strict=True):
        torch.testing.assert_close(y.grad, x.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.3), nn.Dropout2d(), nn.AlphaDropout(0.2), nn.RReLU(), nn.RReLU(0.1, 0.2)]
)
def test_layers_follow_the_mode(layer: nn.Module, training: bool) -> None:
    layer.train(training)
    kind = TensorType(SHAPE, torch.float32)
    op = type(layer).__name__
    call = Call(op, module_attrs(layer), (kind,), (kind,), training=training)
    check_random(call, layer, [[torch.randn(SHAPE)] for _ in range(3)])


@BOTH
def test_nothing_is_drawn_where_nothing_is_dropped(form: Form) -> None:
    for kwargs in ({"p": 0.0}, {"training": False}):
        call, _ = call_of_function(F.dropout, (torch.ones(SHAPE),), kwargs)
        found = lower_group(Fusion(call, 2, (False,), (form,)))
        assert found is not None
        assert found.text == "$0"
        assert found.results == (form,)


def test_the_mask_does_not_depend_on_the_memory_format() -> None:
    stack = torch.ones(2, 12, 5, 5)
    last = stack.contiguous(memory_format=torch.channels_last)
    one, two = (kernels.dropout(x, 0.5, _streams(3), "channels") for x in (stack, last))
    assert torch.equal(one, two)
    assert two.is_contiguous(memory_format=torch.channels_last)


@BOTH
@pytest.mark.parametrize("op", [F.dropout, F.dropout2d, F.alpha_dropout])
def test_a_nan_stays_with_its_member(op: Callable[..., Any], form: Form) -> None:
    call, _ = call_of_function(op, (torch.randn(SHAPE),), {"training": True})
    rows = [[torch.randn(SHAPE)] for _ in range(3)]
    sick = [rows[0], [torch.full(SHAPE, float("nan"))], rows[2]]
    runs = [fused(call, given, [False], _streams(3), form)[1] for given in (rows, sick)]
    for g in range(3):
        assert torch.equal(runs[0][g][0], runs[1][g][0]) is (g != 1)


def test_members_draw_from_their_streams_only() -> None:
    call, _ = call_of_function(F.dropout, (torch.ones(50),), {})
    rows = [[torch.ones(50)] for _ in range(3)]
    all_three = fused(call, rows, [False], _streams(3))[1]
    last = fused(call, rows[:1], [False], _streams(3)[2:])[1]
    assert torch.equal(all_three[2][0], last[0][0])
    assert not torch.equal(all_three[0][0], all_three[1][0])


@BOTH
@pytest.mark.parametrize("shared", [True, False])
def test_tensors_in_the_likeness_of_another(shared: bool, form: Form) -> None:
    for op in (torch.rand_like, torch.randn_like):
        _try(op, SHAPE, form=form, shared=shared)
        _try(op, SHAPE, dtype=torch.float64, form=form, shared=shared)
    _try(torch.randint_like, SHAPE, 2, 9, form=form, shared=shared)
    _try(torch.bernoulli, SHAPE, 0.3, form=form, shared=shared)


@BOTH
@pytest.mark.parametrize("shared", [True, False])
def test_draws_that_depend_on_the_input(shared: bool, form: Form) -> None:
    for op in (torch.bernoulli, torch.poisson):
        _try(op, SHAPE, form=form, shared=shared, positive=True)
    _try(torch.multinomial, (3, 6), 2, form=form, shared=shared, positive=True)
    _try(torch.normal, SHAPE, 0.5, form=form, shared=shared)
    for hard in (True, False):
        _try(F.gumbel_softmax, SHAPE, tau=0.7, hard=hard, dim=1, form=form, shared=shared)


@BOTH
@pytest.mark.parametrize("indices", [True, False])
def test_fractional_windows_are_drawn_for_each_member(indices: bool, form: Form) -> None:
    _try(F.fractional_max_pool2d, (2, 3, 8, 9), 2, 4, return_indices=indices, form=form)
    _try(F.fractional_max_pool3d, (2, 3, 5, 6, 7), 2, None, (0.5, 0.6, 0.7), indices, form=form)


def test_tensors_of_sizes_alone() -> None:
    for op, args in (
        (torch.rand, (2, 3)),
        (torch.randn, (30,)),
        (torch.randint, (2, 9, (4,))),
        (torch.randperm, (8,)),
        (torch.normal, (1.0, 2.0, (20,))),
    ):
        call, _ = call_of_function(op, args, {})
        check_random(call, lambda op=op, args=args: op(*args), [[]] * 3)


def test_a_size_that_follows_the_batch() -> None:
    kind = TensorType((2, 3), torch.float32)
    call = Call("randn", Attrs(size=(BatchSize(), 3)), (), (kind,))
    found = lower_group(Fusion(call, 2, (), ()))
    assert found is not None
    names = {"kernels": kernels, "torch": torch, "batch": 5, "device": torch.device("cpu")}
    made = eval(found.text.replace("$streams", "streams"), {**names, "streams": _streams(2)})
    assert made.shape == (2, 5, 3)
    assert torch.equal(made[1], torch.randn(5, 3, generator=_streams(2)[1]))


def test_integers_are_not_dropped_out() -> None:
    kind = TensorType((3,), torch.int64)
    call = Call("dropout", Attrs(p=0.5), (kind,), (kind,))
    assert lower_group(Fusion(call, 2, (False,), (Form.MEMBERS,))) is None


def test_rrelu_in_evaluation_draws_nothing() -> None:
    rows = [[torch.randn(3, 4, dtype=torch.float64)] for _ in range(3)]
    call, _ = call_of_function(F.rrelu, (rows[0][0],), {})
    check(call, F.rrelu, rows)
