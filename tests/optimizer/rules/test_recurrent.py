"""Recurrent layers of many members, step by step together."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from retiarii.ir.ops import bind_call, module_attrs, module_op, op_spec
from retiarii.ir.types import Attrs, TensorType
from retiarii.optimizer import kernels
from retiarii.optimizer.rules.base import Call, Form, Fusion
from retiarii.optimizer.rules.registry import lower_group
from retiarii.testing.equivalence import check, check_module, flat, fused


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


LAYERS = [nn.RNN, nn.GRU, nn.LSTM]
CELLS = [nn.RNNCell, nn.GRUCell, nn.LSTMCell]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 3, "bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "bias": False},
]


def call_with_states(layer: nn.Module, x: Tensor, hx: Any) -> Call:
    op = module_op(type(layer))
    assert op is not None
    operands, attrs = bind_call(op_spec(op), (x, hx) if hx is not None else (x,), {})
    state = dict(layer.named_parameters())
    types = [TensorType.of(t) for t in (*operands, *state.values())]
    results = tuple(map(TensorType.of, flat(layer(*((x, hx) if hx is not None else (x,))))))
    attrs = Attrs({**module_attrs(layer), **attrs})
    return Call(op, attrs, tuple(types), results, None, tuple(state), layer.training)


def check_with_states(
    layer: nn.Module, x: Tensor, hx: Any, size: int = 2, shared: bool = False
) -> None:
    """Like `check_module`, with first states, which may be shared."""
    layer = layer.double()
    call = call_with_states(layer, x, hx)
    first = flat(hx)
    rows = [
        [
            torch.randn_like(x),
            *(h if shared else torch.randn_like(h) for h in first),
            *map(torch.randn_like, layer.parameters()),
        ]
        for _ in range(size)
    ]

    def alone(x: Tensor, *rest: Tensor) -> Any:
        states, parameters = rest[: len(first)], rest[len(first) :]
        values = dict(zip(call.state, parameters, strict=True))
        own = states if isinstance(hx, tuple) else states[0]
        return functional_call(layer, values, (x, own))

    check(call, alone, rows, [False, *[shared] * len(first), *[False] * len(call.state)])


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("attrs", SETTINGS)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_layer(kind: Any, attrs: dict[str, Any], batch_first: bool, size: int) -> None:
    make = lambda: kind(3, 4, batch_first=batch_first, **attrs)  # noqa: E731
    check_module(make, randn(2, 5, 3), size=size)
    check_module(make, randn(2, 5, 3), size=size, shared=[True])
    check_module(make, randn(2, 1, 3), size=size)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_layer_on_one_sample_and_on_channels(kind: Any, batch_first: bool) -> None:
    make = lambda: kind(3, 4, num_layers=2, bidirectional=True, batch_first=batch_first)  # noqa: E731
    check_module(make, randn(5, 3))
    check_module(make, randn(2, 5, 3), form=Form.CHANNELS)


def test_relu() -> None:
    check_module(lambda: nn.RNN(3, 4, nonlinearity="relu", num_layers=2), randn(2, 5, 3))
    check_module(lambda: nn.RNNCell(3, 4, nonlinearity="relu"), randn(5, 3))


@pytest.mark.parametrize("attrs", SETTINGS)
@pytest.mark.parametrize("states", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_projection(attrs: dict[str, Any], states: bool, batched: bool) -> None:
    x = randn(5, 2, 3) if batched else randn(5, 3)
    make = lambda: nn.LSTM(3, 4, proj_size=2, **attrs)  # noqa: E731
    if states:
        hx = states_of(make(), batched, (2, 4))
        check_with_states(make(), x, hx)
    else:
        check_module(make, x)


def states_of(layer: Any, batched: bool, widths: tuple[int, ...]) -> Any:
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    made = tuple(randn(count, *((2,) if batched else ()), width) for width in widths)
    return made if isinstance(layer, nn.LSTM) else made[0]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("attrs", SETTINGS)
@pytest.mark.parametrize(("batched", "batch_first"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("shared", [True, False])
def test_first_states(
    kind: Any, attrs: dict[str, Any], batched: bool, batch_first: bool, shared: bool
) -> None:
    layer = kind(3, 4, batch_first=batch_first, **attrs)
    x = randn(2, 2, 3) if batched else randn(5, 3)
    check_with_states(layer, x, states_of(layer, batched, (4, 4)), shared=shared)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [(), (5,)])
@pytest.mark.parametrize("size", [1, 3])
def test_cell(kind: Any, bias: bool, batch: tuple[int, ...], size: int) -> None:
    check_module(lambda: kind(3, 4, bias=bias), randn(*batch, 3), size=size)
    hx = (randn(*batch, 4), randn(*batch, 4)) if kind is nn.LSTMCell else randn(*batch, 4)
    check_with_states(kind(3, 4, bias=bias), randn(*batch, 3), hx, size=size)


def lowers(layer: nn.Module, training: bool) -> bool:
    call = call_with_states(layer.train(training), torch.randn(5, 2, 3), None)
    count = len(call.inputs)
    return lower_group(Fusion(call, 2, (False,) * count, (Form.MEMBERS,) * count)) is not None


def test_dropout_between_layers_fuses_in_evaluation_only() -> None:
    assert not lowers(nn.LSTM(3, 4, num_layers=2, dropout=0.5), True)
    assert lowers(nn.LSTM(3, 4, num_layers=2, dropout=0.5), False)
    check_module(lambda: nn.GRU(3, 4, num_layers=2, dropout=0.5), randn(5, 2, 3), training=False)


def test_second_derivatives_are_refused() -> None:
    x = randn(2, 5, 1, 3).requires_grad_()
    weights = kernels.Weights(randn(2, 4, 3), randn(2, 4, 4))
    out, _ = kernels.rnn(x, [[weights]])
    (grad,) = torch.autograd.grad(out.square().sum(), [x], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("kind", LAYERS)
def test_frozen_weights_take_no_gradient(kind: Any) -> None:
    layers = [kind(3, 4).requires_grad_(False) for _ in range(2)]
    call = call_with_states(layers[0], torch.randn(5, 2, 3), None)
    x = torch.randn(5, 2, 3, requires_grad=True)
    rows = [[x, *layer.parameters()] for layer in layers]
    _, got = fused(call, rows, [False] * 5)
    (grad,) = torch.autograd.grad(got[0][0].sum() + got[1][0].sum(), [x])
    want = torch.autograd.grad(sum(layer(x)[0].sum() for layer in layers), [x])[0]
    torch.testing.assert_close(grad, want)


@pytest.mark.parametrize("kind", LAYERS)
def test_autocast(kind: Any) -> None:
    layer = kind(3, 4, bidirectional=True)
    x = torch.randn(5, 2, 3)
    call = call_with_states(layer, x, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, got = fused(call, [[x, *layer.parameters()]], [False] * len(call.inputs))
    out = got[0][0]
    torch.testing.assert_close(out.float(), layer(x)[0], rtol=0.05, atol=0.05)
    for grad in torch.autograd.grad(out.float().sum(), list(layer.parameters())):
        assert grad.dtype is torch.float32


@pytest.mark.parametrize(("kind", "bad"), list(product(LAYERS, [0, 1, 2])))
def test_what_is_wrong_in_one_member_stays_there(kind: Any, bad: int) -> None:
    layers = [kind(3, 4, bidirectional=True).double() for _ in range(3)]
    x = randn(5, 2, 3)
    call = call_with_states(layers[0], x, None)
    leaves = [p for layer in layers for p in layer.parameters()]
    own = len(leaves) // 3

    def run() -> list[list[Tensor]]:
        rows = [[x, *layer.parameters()] for layer in layers]
        _, got = fused(call, rows, [True, *[False] * own])
        total = sum((t.square().sum() for r in got for t in r[:2]), start=torch.zeros(()))
        grads = torch.autograd.grad(total, leaves)
        return [
            [*(t.detach() for t in r[:2]), *grads[own * g : own * g + own]]
            for g, r in enumerate(got)
        ]

    before = run()
    with torch.no_grad():
        leaves[own * bad][0, 0] = float("nan")
    after = run()
    assert not after[bad][0].isfinite().all()
    for g in {0, 1, 2} - {bad}:
        assert all(map(torch.equal, before[g], after[g]))
