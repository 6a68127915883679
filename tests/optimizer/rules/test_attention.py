"""Attention of many members as one batch."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from retiarii.ir.types import Operand, TensorType
from retiarii.optimizer import kernels
from retiarii.optimizer.rules.base import Call, Form, Fusion
from retiarii.optimizer.rules.registry import lower_group
from retiarii.testing.equivalence import (
    call_of_function,
    call_of_module,
    check,
    check_function,
    check_module,
    fused,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def hidden(*shape: int) -> Tensor:
    """A mask of which no row is all False."""
    mask = torch.rand(shape) < 0.6
    mask[..., 0] = True
    return mask


# Few scores a head, and many.
LENGTHS = [(5, 6), (34, 33)]


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 2, 3)])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("attrs", [{}, {"is_causal": True}, {"scale": 0.3}])
@pytest.mark.parametrize("size", [1, 2])
def test_dot_product(
    batch: tuple[int, ...], lengths: tuple[int, int], attrs: dict[str, Any], size: int
) -> None:
    n, m = lengths
    q, k, v = randn(*batch, n, 4), randn(*batch, m, 4), randn(*batch, m, 3)
    check_function(F.scaled_dot_product_attention, q, k, v, size=size, **attrs)


@pytest.mark.parametrize("shared", list(product([False, True], repeat=3)))
@pytest.mark.parametrize("form", [Form.MEMBERS, Form.CHANNELS])
def test_dot_product_of_shared_factors(shared: tuple[bool, ...], form: Form) -> None:
    q, k, v = randn(2, 3, 5, 4), randn(2, 3, 6, 4), randn(2, 3, 6, 4)
    check_function(F.scaled_dot_product_attention, q, k, v, shared=shared, form=form)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_dot_product_of_grouped_heads(lengths: tuple[int, int]) -> None:
    n, m = lengths
    q, k, v = randn(2, 6, n, 4), randn(2, 2, m, 4), randn(2, 2, m, 4)
    check_function(F.scaled_dot_product_attention, q, k, v, enable_gqa=True)
    check_function(F.scaled_dot_product_attention, q, k, v, hidden(n, m), enable_gqa=True)


MASKS = [(), (2,), (2, 3), (2, 1), (1, 3), (1, 1)]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("batch", MASKS)
@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("floating", [True, False])
def test_dot_product_with_a_mask(
    lengths: tuple[int, int], batch: tuple[int, ...], rows: bool, shared: bool, floating: bool
) -> None:
    n, m = lengths
    shape = ((*batch, 1) if len(batch) == 1 else batch) + ((n if rows else 1), m)
    q, k, v = randn(2, 3, n, 4), randn(2, 3, m, 4), randn(2, 3, m, 4)
    mask = randn(*shape) if floating else hidden(*shape)
    marks = [False, False, False, shared]
    check_function(F.scaled_dot_product_attention, q, k, v, mask, shared=marks, size=2)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("shared", [True, False])
def test_rows_that_see_nothing(lengths: tuple[int, int], shared: bool) -> None:
    n, m = lengths
    q, k, v = randn(2, 3, n, 4), randn(2, 3, m, 4), randn(2, 3, m, 4)
    mask = hidden(n, m)
    mask[1] = False
    marks = [False, False, False, shared]
    check_function(F.scaled_dot_product_attention, q, k, v, mask, shared=marks)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("batch", [(), (2, 1), (1, 1)])
def test_rows_that_are_minus_infinity(
    lengths: tuple[int, int], shared: bool, batch: tuple[int, ...]
) -> None:
    n, m = lengths
    mask = torch.zeros(*batch, n, m, dtype=torch.float64)
    mask[..., 1, :] = -torch.inf
    rows = [[randn(2, 3, n, 4), randn(2, 3, m, 4), randn(2, 3, m, 4), mask] for _ in range(2)]
    call, _ = call_of_function(F.scaled_dot_product_attention, rows[0], {})
    check(call, F.scaled_dot_product_attention, rows, [False, False, False, shared])


@pytest.mark.parametrize("rank", [2, 3])
def test_dot_product_with_a_mask_and_fewer_dimensions(rank: int) -> None:
    q, k, v = (t[(0,) * (4 - rank)] for t in (randn(2, 3, 5, 4) for _ in range(3)))
    for shared in (True, False):
        marks = [False, False, False, shared]
        check_function(F.scaled_dot_product_attention, q, k, v, hidden(5, 5), shared=marks)


def test_dot_product_with_dropout_is_left_alone() -> None:
    x = randn(2, 3, 5, 4)
    call, _ = call_of_function(F.scaled_dot_product_attention, [x, x, x], {"dropout_p": 0.5})
    assert lower_group(Fusion(call, 2, (False,) * 3, (Form.MEMBERS,) * 3)) is None


LAYERS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"add_bias_kv": True, "add_zero_attn": True, "bias": False},
    {"kdim": 4, "vdim": 5},
    {"kdim": 4, "add_bias_kv": True},
]
CALLS: list[dict[str, Any]] = [
    {},
    {"need_weights": False},
    {"average_attn_weights": False},
]


def operands(layer: dict[str, Any], batched: bool, first: bool) -> list[Tensor]:
    widths = (6, layer.get("kdim", 6), layer.get("vdim", 6))
    shapes = [(n, 2, w) if batched else (n, w) for n, w in zip((3, 5, 5), widths, strict=True)]
    made = [randn(*shape) for shape in shapes]
    return [t.transpose(0, 1).contiguous() for t in made] if batched and first else made


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("attrs", CALLS)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_layer(
    layer: dict[str, Any], attrs: dict[str, Any], batched: bool, first: bool, training: bool
) -> None:
    check_module(
        lambda: nn.MultiheadAttention(6, 2, batch_first=first, **layer),
        *operands(layer, batched, first),
        size=2,
        training=training,
        **attrs,
    )


def check_layer(
    layer: dict[str, Any],
    inputs: list[Tensor],
    attrs: dict[str, Any],
    shared: list[bool],
    tensors: dict[str, Tensor],
    size: int = 2,
    training: bool = True,
) -> None:
    """`check_module` for operands that are passed by name."""
    layers = [nn.MultiheadAttention(6, 2, **layer).double().train(training) for _ in range(size)]
    plain = call_of_module(layers[0], inputs, **attrs)
    named = {name: Operand(len(inputs) + i) for i, name in enumerate(tensors)}
    every = [*inputs, *tensors.values()]
    state = dict(layers[0].named_parameters())
    call = call_with(plain, named, every, list(state.values()))

    def own(tensor: Tensor) -> Tensor:
        return torch.randn_like(tensor) if tensor.is_floating_point() else tensor

    rows = [
        [
            *(t if s else own(t) for t, s in zip(every, shared, strict=True)),
            *(torch.randn_like(p) for p in member.parameters()),
        ]
        for member in layers
    ]

    def alone(*values: Tensor) -> Any:
        count = len(inputs)
        kwargs = {**attrs, **dict(zip(tensors, values[count:], strict=False))}
        parameters = dict(zip(state, values[len(every) :], strict=True))
        return functional_call(layers[0], parameters, values[:count], kwargs)

    check(call, alone, rows, [*shared, *[False] * len(state)])


def call_with(
    plain: Call, named: dict[str, Operand], operands: list[Tensor], state: list[Tensor]
) -> Call:
    types = tuple(TensorType.of(t) for t in (*operands, *state))
    return replace(plain, attrs=plain.attrs.merged(named), inputs=types)


@pytest.mark.parametrize("layer", [{}, {"add_bias_kv": True, "add_zero_attn": True}])
@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("floating", [True, False])
@pytest.mark.parametrize("which", ["attention", "heads", "padding", "both"])
@pytest.mark.parametrize("batched", [True, False])
def test_layer_with_masks(
    layer: dict[str, Any], weights: bool, shared: bool, floating: bool, which: str, batched: bool
) -> None:
    def mask(*shape: int) -> Tensor:
        return randn(*shape) if floating else ~hidden(*shape)

    count = 4 if batched else 2
    padding = mask(2, 5) if batched else mask(5)
    tensors = {
        "attention": {"attn_mask": mask(3, 5)},
        "heads": {"attn_mask": mask(count, 3, 5)},
        "padding": {"key_padding_mask": padding},
        "both": {"key_padding_mask": padding, "attn_mask": mask(3, 5)},
    }[which]
    marks = [False] * 3 + [shared] * len(tensors)
    inputs = operands(layer, batched, first=False)
    check_layer(layer, inputs, {"need_weights": weights}, marks, tensors)


@pytest.mark.parametrize("weights", [True, False])
def test_layer_with_a_causal_mask(weights: bool) -> None:
    x = randn(5, 2, 6)
    mask = nn.Transformer.generate_square_subsequent_mask(5).double()
    attrs = {"need_weights": weights, "is_causal": True}
    layer = nn.MultiheadAttention(6, 2).double()
    plain = call_of_module(layer, [x, x, x], need_weights=weights)
    named = {"attn_mask": Operand(3), "is_causal": True}
    call = call_with(plain, named, [x, x, x, mask], list(layer.parameters()))
    rows = [
        [*(randn(5, 2, 6),) * 3, mask, *map(torch.randn_like, layer.parameters())] for _ in "ab"
    ]

    def alone(q: Tensor, k: Tensor, v: Tensor, m: Tensor, *state: Tensor) -> Any:
        names = [name for name, _ in layer.named_parameters()]
        values = dict(zip(names, state, strict=True))
        return functional_call(layer, values, (q, k, v), {**attrs, "attn_mask": m})

    check(call, alone, rows, [False] * 3 + [True] + [False] * 4)


def test_one_tensor_as_query_key_and_value() -> None:
    layers = [nn.MultiheadAttention(6, 2).double() for _ in range(2)]
    call = call_of_module(layers[0], [randn(5, 2, 6)] * 3)
    lowering = lower_group(Fusion(call, 2, (False,) * 7, (Form.MEMBERS,) * 7))
    assert lowering is not None
    x = randn(2, 5, 2, 6)
    state = [torch.stack(p) for p in zip(*(m.parameters() for m in layers), strict=True)]
    text = lowering.text.replace("$1", "$0").replace("$2", "$0").replace("$", "v")
    values = {"v0": x, **{f"v{i + 3}": t for i, t in enumerate(state)}, "kernels": kernels}
    got = eval(text, values)
    for g, layer in enumerate(layers):
        for a, b in zip(got, layer(x[g], x[g], x[g]), strict=True):
            torch.testing.assert_close(a[g], b, rtol=1e-10, atol=1e-10)


def test_layer_with_dropout_fuses_in_evaluation_only() -> None:
    x = randn(5, 2, 6)
    check_module(lambda: nn.MultiheadAttention(6, 2, dropout=0.5), x, x, x, training=False)
    call = call_of_module(nn.MultiheadAttention(6, 2, dropout=0.5).double(), [x, x, x])
    assert lower_group(Fusion(call, 2, (False,) * 7, (Form.MEMBERS,) * 7)) is None


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_what_is_wrong_in_one_member_stays_there(
    lengths: tuple[int, int], value: float, bad: int
) -> None:
    n, m = lengths
    rows = [[randn(2, 3, n, 4), randn(2, 3, m, 4), randn(2, 3, m, 4)] for _ in range(3)]
    call, _ = call_of_function(F.scaled_dot_product_attention, rows[0], {})
    leaves = [t.requires_grad_() for row in rows for t in row]

    def run() -> list[list[Tensor]]:
        _, got = fused(call, rows, [False] * 3)
        total = sum((r[0].square().sum() for r in got), start=torch.zeros(()))
        grads = torch.autograd.grad(total, leaves)
        return [[r[0].detach(), *grads[3 * g : 3 * g + 3]] for g, r in enumerate(got)]

    before = run()
    with torch.no_grad():
        rows[bad][1].view(-1)[0] = value
    after = run()
    assert not after[bad][0].isfinite().all()
    for g in {0, 1, 2} - {bad}:
        assert all(map(torch.equal, before[g], after[g]))
