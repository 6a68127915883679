"""One harness for all rules: members run one by one by torch, and as one fused call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from retiarii.ir.ops import bind_call, function_op, module_attrs, module_op, op_spec
from retiarii.ir.types import Attrs, TensorType
from retiarii.optimizer.evaluate import flat, member, runner, stacked
from retiarii.optimizer.rules.base import Call, Form, Fusion, Lowering
from retiarii.optimizer.rules.registry import lower_group


def fused(
    call: Call,
    members: Sequence[Sequence[Tensor]],
    shared: Sequence[bool],
    streams: Sequence[torch.Generator] | None = None,
    form: Form = Form.MEMBERS,
) -> tuple[Lowering, list[list[Tensor]]]:
    """What the rule's code makes of the members' inputs: results[member][index]."""
    size = len(members)
    forms = tuple(
        Form.PLAIN if s else form if len(t.shape) >= 2 else Form.MEMBERS
        for s, t in zip(shared, call.inputs, strict=True)
    )
    lowering = lower_group(Fusion(call, size, tuple(shared), forms))
    assert lowering is not None, f"no rule fuses {call.op}"
    values: list[Tensor] = []
    for i, asked in enumerate(lowering.inputs):
        column = [m[i] for m in members]
        if asked is Form.PLAIN:
            assert shared[i], f"input {i} is not shared"
            values.append(column[0])
        else:
            values.append(stacked(column, asked))
    batch = members[0][0].shape[0] if members[0] and members[0][0].ndim else 1
    run = runner(lowering.text, len(values), batch, torch.device("cpu"), streams)
    out = flat(run(*values))
    assert len(out) == len(call.results), (len(out), call.results)
    # Buffers that the call has written are read back by the caller, from the stacks.
    written = [
        [member(values[i], f, g, size) for i, f in enumerate(lowering.inputs)] for g in range(size)
    ]
    results = [
        [member(t, f, g, size) for t, f in zip(out, lowering.results, strict=True)]
        for g in range(size)
    ]
    for row, inputs in zip(results, written, strict=True):
        row.extend(inputs)
    return lowering, results


def call_of_function(
    function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], training: bool = True
) -> tuple[Call, list[Tensor]]:
    """The call of a torch function on one member's arguments, and its tensors."""
    match = function_op(function)
    assert match is not None, function
    tensors, attrs = bind_call(match.spec, args, kwargs)
    out = function(*args, **kwargs)
    results = tuple(map(TensorType.of, flat(out)))
    inputs = tuple(map(TensorType.of, tensors))
    return Call(match.op, Attrs(attrs), inputs, results, None, (), training), tensors


def call_of_module(module: nn.Module, operands: Sequence[Tensor], **attrs: Any) -> Call:
    op = module_op(type(module))
    assert op is not None, type(module)
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    types = tuple(TensorType.of(t) for t in (*operands, *state.values()))
    saved = {k: v.clone() for k, v in state.items()}
    with torch.no_grad():
        out = functional_call(module, saved, tuple(operands), attrs)
    results = tuple(map(TensorType.of, flat(out)))
    return Call(
        op,
        Attrs({**module_attrs(module), **attrs}),
        types,
        results,
        None,
        tuple(state),
        module.training,
    )


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, equal_nan=True)


def check(
    call: Call,
    alone: Callable[..., Any],
    members: Sequence[Sequence[Tensor]],
    shared: Sequence[bool] | None = None,
    form: Form = Form.MEMBERS,
    gradients: bool = True,
) -> None:
    """Outputs, gradients and written buffers equal those of ``alone(*inputs)``, member by member.

    Args:
        call: the call.
        alone: computes one member.
        members: members[g][i] is input i of member g; a shared input is one tensor in all rows.
        shared: which inputs are shared; none by default.
        form: the form in which stacked inputs lie before the call.
        gradients: whether torch can differentiate the call.
    """
    shared = [False] * len(call.inputs) if shared is None else list(shared)

    def prepared() -> list[list[Tensor]]:
        kept: dict[int, Tensor] = {}
        rows = []
        for row in members:
            made = []
            for i, tensor in enumerate(row):
                if shared[i] and i in kept:
                    made.append(kept[i])
                    continue
                leaf = tensor.detach().clone()
                if leaf.is_floating_point() or leaf.is_complex():
                    # Buffers are no leaves that take gradients.
                    name = call.state[i - len(call.operands)] if i >= len(call.operands) else ""
                    buffer = name.startswith(("running", "num_batches"))
                    leaf.requires_grad_(gradients and not buffer)
                made.append(leaf)
                kept[i] = leaf
            rows.append(made)
        return rows

    apart, together = prepared(), prepared()
    expected = [flat(alone(*row)) for row in apart]
    _, got = fused(call, together, shared, form=form)
    count = len(call.results)
    for g, outputs in enumerate(expected):
        assert len(outputs) == count
        for a, b in zip(outputs, got[g][:count], strict=True):
            assert a.shape == b.shape, (a.shape, b.shape)
            assert a.dtype == b.dtype
            close(b, a)
        for i in range(len(call.operands), len(call.inputs)):
            if not apart[g][i].requires_grad:
                close(got[g][count + i], apart[g][i])

    def backward(outputs: list[list[Tensor]]) -> None:
        torch.manual_seed(7)
        total = torch.zeros((), dtype=torch.float64)
        for row in outputs:
            for out in row[:count]:
                if out.requires_grad:
                    weights = torch.randn(out.shape, dtype=out.dtype)
                    total = total + (out * weights).sum().real
        if total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]

    backward(expected)
    backward(got)
    for a_row, b_row in zip(apart, together, strict=True):
        for a, b in zip(a_row, b_row, strict=True):
            # No gradient is as good as one of zeros.
            zeros = torch.zeros_like(a)
            close(zeros if b.grad is None else b.grad, zeros if a.grad is None else a.grad)


def check_random(
    call: Call,
    alone: Callable[..., Any],
    members: Sequence[Sequence[Tensor]],
    shared: Sequence[bool] | None = None,
    form: Form = Form.MEMBERS,
) -> None:
    """Each member draws, bit for bit, what it alone draws, and leaves its stream as that does."""
    shared = [False] * len(call.inputs) if shared is None else list(shared)
    streams = [torch.Generator().manual_seed(11 + g) for g in range(len(members))]
    expected, after = [], []
    for row, stream in zip(members, streams, strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(stream.get_state())
            expected.append(flat(alone(*row)))
            after.append(torch.get_rng_state())
    before = torch.get_rng_state()
    _, got = fused(call, members, shared, streams, form)
    assert torch.equal(before, torch.get_rng_state()), "the global stream was drawn from"
    for own, row, state, stream in zip(expected, got, after, streams, strict=True):
        for a, b in zip(own, row[: len(call.results)], strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            torch.testing.assert_close(b, a, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(state, stream.get_state()), "another number of draws"


def check_module(
    make: Callable[[], nn.Module],
    *operands: Tensor,
    size: int = 3,
    shared: Sequence[bool] | None = None,
    form: Form = Form.MEMBERS,
    training: bool = True,
    **attrs: Any,
) -> None:
    """Members are ``size`` layers with parameters of their own, on inputs of their own."""
    layers = [make().double().train(training) for _ in range(size)]
    for layer in layers:
        with torch.no_grad():
            for p in layer.parameters():
                p.copy_(torch.randn_like(p))
    call = call_of_module(layers[0], operands, **attrs)
    shared = [False] * len(operands) if shared is None else list(shared)
    rows = []
    for layer in layers:
        own = [
            o if s or not o.is_floating_point() else torch.randn_like(o)
            for o, s in zip(operands, shared, strict=True)
        ]
        state = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
        rows.append([*own, *state.values()])

    def alone(*inputs: Tensor) -> Any:
        values = dict(zip(call.state, inputs[len(operands) :], strict=True))
        return functional_call(layers[0], values, tuple(inputs[: len(operands)]), attrs)

    check(call, alone, rows, [*shared, *[False] * len(call.state)], form)


def check_function(
    function: Callable[..., Any],
    *args: Any,
    size: int = 3,
    shared: Sequence[bool] | None = None,
    form: Form = Form.MEMBERS,
    positive: bool = False,
    **kwargs: Any,
) -> None:
    """Members call ``function`` on float tensors of their own in the place of those given."""
    call, tensors = call_of_function(function, args, kwargs)
    shared = [False] * len(tensors) if shared is None else list(shared)

    def fresh(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        made = torch.randn_like(tensor)
        return made.abs() + 0.1 if positive else made

    rows = [
        [t if s else fresh(t) for t, s in zip(tensors, shared, strict=True)] for _ in range(size)
    ]

    def alone(*inputs: Tensor) -> Any:
        left = list(inputs)

        def place(value: Any) -> Any:
            if isinstance(value, Tensor):
                return left.pop(0)
            if isinstance(value, (list, tuple)):
                return type(value)(place(v) for v in value)
            return value

        placed = [place(a) for a in args]
        return function(*placed, **{k: place(v) for k, v in kwargs.items()})

    assert op_spec(call.op) is not None
    check(call, alone, rows, shared, form)
