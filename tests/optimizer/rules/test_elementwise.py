"""Elementwise calls on stacks: broadcasting, dtypes, forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from retiarii.ir.types import Attrs, BatchSize, TensorType
from retiarii.optimizer.rules.base import Call, Form, Fusion
from retiarii.optimizer.rules.registry import lower_group
from retiarii.testing.equivalence import call_of_function, check, check_function, check_module
from retiarii.testing.isolation import check_isolation

FORMS = [Form.MEMBERS, Form.CHANNELS]
FULL = (2, 4, 3, 5)


def _random(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    if dtype.is_floating_point:
        return torch.randn(shape, dtype=dtype)
    return torch.randint(1, 9, shape).to(dtype)


@st.composite
def _broadcasting(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast against each other."""
    rank = draw(st.integers(0, 4))
    whole = FULL[4 - rank :]
    shapes = []
    for _ in range(2):
        own = draw(st.integers(0, rank))
        kept = draw(st.lists(st.booleans(), min_size=own, max_size=own))
        shapes.append(tuple(s if k else 1 for s, k in zip(whole[rank - own :], kept, strict=True)))
    return shapes[0], shapes[1]


@settings(max_examples=150)
@given(
    _broadcasting(),
    st.sampled_from([torch.add, torch.mul, torch.maximum, torch.atan2, torch.lt]),
    st.sampled_from(FORMS),
    st.sampled_from([(False, False), (True, False), (False, True), (True, True)]),
    st.integers(1, 3),
)
def test_operands_broadcast_as_those_of_a_member(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    op: Callable[..., Any],
    form: Form,
    shared: tuple[bool, bool],
    size: int,
) -> None:
    left, right = (_random(*s) for s in shapes)
    check_function(op, left, right, form=form, shared=shared, size=size)


@settings(max_examples=100)
@given(
    _broadcasting(),
    *[st.sampled_from([torch.float64, torch.float32, torch.int64, torch.int32, torch.uint8])] * 2,
    st.sampled_from([(False, False), (True, False), (False, True)]),
    st.sampled_from([torch.add, torch.mul, torch.true_divide, torch.lt]),
)
def test_results_are_of_the_dtype_that_a_member_makes(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    one: torch.dtype,
    other: torch.dtype,
    shared: tuple[bool, bool],
    op: Callable[..., Any],
) -> None:
    left, right = _random(*shapes[0], dtype=one), _random(*shapes[1], dtype=other)
    call, _ = call_of_function(op, (left, right), {})
    fusion = Fusion(call, 3, shared, tuple(Form.PLAIN if s else Form.MEMBERS for s in shared))
    if lower_group(fusion) is not None:
        rows = [[_random(*shapes[0], dtype=one), _random(*shapes[1], dtype=other)] for _ in "abc"]
        for row in rows:
            row[:] = [rows[0][i] if shared[i] else row[i] for i in range(2)]
        check(call, op, rows, shared, gradients=False)


def test_a_member_s_number_counts_less_for_the_dtype_than_a_tensor() -> None:
    whole = torch.ones(3, dtype=torch.float32)
    check_function(torch.mul, whole, torch.tensor(2.5, dtype=torch.float64))
    check_function(torch.mul, torch.tensor([3, 4]), torch.tensor(2, dtype=torch.int32))


def test_a_number_of_half_precision_is_not_cast() -> None:
    half = torch.ones(3, dtype=torch.float16)
    call, _ = call_of_function(torch.mul, (half, torch.tensor(2.5)), {})
    assert lower_group(Fusion(call, 2, (False, False), (Form.MEMBERS,) * 2)) is None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    ("op", "args", "kwargs"),
    [
        (torch.add, [FULL, 2.5], {"alpha": 2}),
        (torch.rsub, [FULL, 1], {}),
        (torch.lerp, [FULL, FULL, 0.3], {}),
        (torch.lerp, [FULL, (4, 1, 1), ()], {}),
        (torch.addcmul, [FULL, (4, 1, 1), (5,)], {"value": 2}),
        (torch.clamp, [FULL], {"min": (4, 1, 1), "max": (2, 4, 1, 1)}),
        (torch.clamp, [FULL], {"min": -0.5}),
        (torch.pow, [2.0, FULL], {}),
        (F.gelu, [FULL], {"approximate": "tanh"}),
        (F.relu, [FULL], {"inplace": False}),
        (F.prelu, [FULL, (4,)], {}),
        (F.prelu, [FULL, (1,)], {}),
        (F.prelu, [(2, 4), (4,)], {}),
        (F.prelu, [(5,), (1,)], {}),
    ],
)
def test_attributes_and_further_operands(
    op: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], form: Form, size: int
) -> None:
    def made(value: Any) -> Any:
        return _random(*value) if isinstance(value, tuple) else value

    named = {k: made(v) for k, v in kwargs.items()}
    check_function(op, *map(made, args), form=form, size=size, **named)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("parameters", [1, 4])
@pytest.mark.parametrize("shape", [FULL, (3, 4), (2, 4, 6)])
@pytest.mark.parametrize("shared", [True, False])
def test_prelu_s_own_slopes(
    form: Form, parameters: int, shape: tuple[int, ...], shared: bool
) -> None:
    check_module(lambda: nn.PReLU(parameters), _random(*shape), form=form, shared=[shared])


@pytest.mark.parametrize("layer", [nn.ReLU(inplace=True), nn.Hardswish(), nn.ELU(0.5), nn.GELU()])
def test_layers_that_are_functions(layer: nn.Module) -> None:
    call = Call(
        type(layer).__name__,
        Attrs(inplace=True) if isinstance(layer, nn.ReLU) else _attrs(layer),
        (TensorType(FULL, torch.float64),),
        (TensorType(FULL, torch.float64),),
    )
    rows = [[_random(*FULL)] for _ in range(3)]
    check(call, lambda x: layer(x.clone()), rows)


def _attrs(layer: nn.Module) -> Attrs:
    return Attrs(alpha=0.5) if isinstance(layer, nn.ELU) else Attrs()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [0.5, float("-inf"), ()])
@pytest.mark.parametrize("shared", [[False] * 3, [False, True, False], [True, False, True]])
def test_masked_fill(form: Form, value: Any, shared: list[bool]) -> None:
    mask = torch.rand(4, 1, 1) > 0.5
    filled = _random() if value == () else value
    given = shared if value == () else shared[:2]
    check_function(torch.masked_fill, _random(*FULL), mask, filled, form=form, shared=given)


def test_where_takes_numbers() -> None:
    mask = _random(*FULL) > 0
    for form in FORMS:
        check_function(torch.where, mask, 0.0, _random(*FULL), form=form)
        check_function(torch.where, mask, _random(4, 1, 1), _random(*FULL), form=form)


@pytest.mark.parametrize("form", FORMS)
def test_conversions(form: Form) -> None:
    x = _random(*FULL)
    check_function(torch.Tensor.float, x, form=form)
    check_function(torch.Tensor.to, x, torch.int64, form=form)
    check_function(torch.Tensor.to, x, torch.ones(1, dtype=torch.float32), form=form)
    check_function(torch.Tensor.type_as, x, torch.ones(2, dtype=torch.int32), form=form)
    check_function(torch.Tensor.type, x, torch.float32, form=form)
    check_function(torch.Tensor.bool, _random(3), form=form)


def test_a_tensor_takes_the_values_of_another() -> None:
    call, _ = call_of_function(torch.Tensor.copy_, (_random(2, 3), _random(3)), {})
    rows = [[_random(2, 3), _random(3)] for _ in range(3)]
    check(call, lambda x, y: x.clone().copy_(y), rows)


def test_buckets() -> None:
    edges = _random(4).sort()[0]
    call, _ = call_of_function(torch.bucketize, (_random(*FULL), edges), {"right": True})
    rows = [[_random(*FULL), edges * (g + 1)] for g in range(3)]

    def alone(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.bucketize(x, b, right=True)

    check(call, alone, rows)
    check(call, alone, [[r[0], edges] for r in rows], [False, True])


def test_a_size_of_the_batch_is_an_expression() -> None:
    kind = TensorType((2, 3), torch.float64)
    call = Call("mul", Attrs(other=BatchSize(2, 1, 1)), (kind,), (kind,))
    lowering = lower_group(Fusion(call, 2, (False,), (Form.MEMBERS,)))
    assert lowering is not None
    assert "2 * batch + 1" in lowering.text
    rows = [[_random(5, 3)] for _ in range(2)]  # another batch than the example's
    check(call, lambda x: x * (2 * len(x) + 1), rows)


def test_neighbours_channels_are_not_copied_for_a_gate() -> None:
    x = TensorType(FULL, torch.float64)
    gate = TensorType((4, 1, 1), torch.float64)
    call = Call("mul", Attrs(), (x, gate), (x,))
    lowering = lower_group(Fusion(call, 3, (False, False), (Form.CHANNELS, Form.MEMBERS)))
    assert lowering is not None
    assert lowering.inputs == (Form.CHANNELS, Form.MEMBERS)
    assert lowering.results == (Form.CHANNELS,)


@pytest.mark.parametrize("attrs", [Attrs(other="$1"), Attrs(other=object())])
def test_what_cannot_be_written_is_not_fused(attrs: Attrs) -> None:
    kind = TensorType((2, 3), torch.float64)
    call = Call("eq", attrs, (kind,), (kind,))
    assert lower_group(Fusion(call, 2, (False,), (Form.MEMBERS,))) is None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("op", [torch.mul, torch.maximum, torch.sub])
def test_a_nan_stays_with_its_member(op: Callable[..., Any], form: Form) -> None:
    call, _ = call_of_function(op, (_random(*FULL), _random(4, 1, 1)), {})
    rows = [[torch.randn(FULL), torch.randn(4, 1, 1)] for _ in range(3)]
    check_isolation(call, rows, form=form)
