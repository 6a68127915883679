"""Every row of the op table: fused and equal to the members alone, or listed with a reason.

The calls are those with which `tests/ir` tries each row.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from retiarii.ir.ops import (
    OPS,
    arrange_call,
    bind_call,
    constructor_attrs,
    function_op,
    module_attrs,
    module_op,
)
from retiarii.ir.types import Attrs, TensorType
from retiarii.optimizer.rules.base import Call, Form, Fusion
from retiarii.optimizer.rules.registry import lower_group
from retiarii.testing.equivalence import check, check_random, flat

SIZE = 3


def _table(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "ir" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"samples_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_FUNCTIONS = _table("test_op_functions")
_MODULES = _table("test_op_modules")

_ALIKE = "it reads no tensor: what it makes is the same for all models, and made once"
_DROPS = "what is dropped inside of it is drawn by torch's own kernel, in its own order"
_UNDEFINED = "what it holds is not defined"
# Rows that run unmerged, whatever their attributes are: the members run one by one.
UNMERGED: dict[str, str] = {
    **dict.fromkeys(["zeros", "ones", "full", "arange", "linspace", "logspace", "eye"], _ALIKE),
    **dict.fromkeys(["tril_indices", "triu_indices"], _ALIKE),
    **dict.fromkeys(["empty", "empty_like", "new_empty"], _UNDEFINED),
    "index_put": "places in several dimensions, each member's own: rare, and not worth a rule",
    "masked_scatter": "how much it reads of the source depends on the data",
}
# Calls that do, of rows that are fused otherwise: by their number among the samples.
UNMERGED_CALLS: dict[tuple[str, int], str] = {
    ("scaled_dot_product_attention", 3): _DROPS,
    ("getitem", 2): "the size of what a mask picks depends on the data",
    **dict.fromkeys(
        [("median", 0), ("nanmedian", 0)],
        "torch shares the gradient between equal elements, but along a dimension it does not",
    ),
}
# Layers that do in training only.
UNMERGED_TRAINING = {("LSTM", 0): _DROPS, ("MultiheadAttention", 1): _DROPS}
# Calls that torch itself cannot differentiate, or only by some of their inputs.
NO_GRADIENTS = {"floor_divide", "remainder", "scatter", "batch_norm", "instance_norm"}


def _double(value: Tensor) -> Tensor:
    return value.detach().double() if value.dtype is torch.float32 else value.detach().clone()


def _function(sample: Callable[[], Any]) -> tuple[Call, list[Tensor], Callable[..., Any]]:
    seen = _FUNCTIONS._observe(sample)
    match = function_op(seen.called)
    assert match is not None
    tensors, bound = bind_call(match.spec, seen.args, seen.kwargs)
    attrs = Attrs({k: v for k, v in bound.items() if k != "inplace"})
    spec = OPS[match.op]
    operands = [_double(t) for t in tensors]

    def alone(*inputs: Tensor) -> Any:
        args, named = arrange_call(spec, attrs, inputs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if spec.method is not None:
                return getattr(args[0], spec.method)(*args[1:], **named)
            return spec.target(*args, **named)

    results = tuple(TensorType.of(t) for t in flat(alone(*operands)))
    types = tuple(TensorType.of(t) for t in operands)
    return Call(match.op, attrs, types, results), operands, alone


def _others(operands: Sequence[Tensor], op: str) -> list[list[Tensor]]:
    """Members' tensors: the same elements elsewhere, so that they stay in the op's domain."""
    made = [list(operands)]
    for g in range(1, SIZE):
        generator = torch.Generator().manual_seed(g)
        made.append([_moved(t, op, g, generator) for t in operands])
    return made


def _moved(tensor: Tensor, op: str, g: int, generator: torch.Generator) -> Tensor:
    if op in ("searchsorted", "bucketize"):
        return tensor * (1 - 0.2 * g) if tensor.is_floating_point() else tensor
    if not tensor.is_floating_point() and tensor.dtype is not torch.bool:
        return tensor
    order = torch.randperm(tensor.numel(), generator=generator)
    return tensor.flatten()[order].reshape(tensor.shape)


def _ways(count: int) -> list[tuple[Form, tuple[bool, ...]]]:
    apart = (False,) * count
    ways = [(form, apart) for form in (Form.MEMBERS, Form.CHANNELS)]
    if count > 1:
        ways += [(Form.CHANNELS, tuple(i == s for i in range(count))) for s in range(count)]
        ways += [(Form.MEMBERS, tuple(i == s for i in range(count))) for s in range(count)]
    return ways


def _lowers(call: Call, form: Form, shared: Sequence[bool]) -> bool:
    forms = tuple(
        Form.PLAIN if s else form if len(t.shape) > 1 else Form.MEMBERS
        for s, t in zip(shared, call.inputs, strict=True)
    )
    return lower_group(Fusion(call, SIZE, tuple(shared), forms)) is not None


FUNCTION_CASES = [
    pytest.param(op, number, id=f"{op}-{number}")
    for op, samples in _FUNCTIONS.SAMPLES.items()
    for number in range(len(samples))
]


@pytest.mark.parametrize(("op", "number"), FUNCTION_CASES)
def test_a_function_is_fused_exactly_or_listed(op: str, number: int) -> None:
    call, operands, alone = _function(_FUNCTIONS.SAMPLES[op][number])
    random = OPS[op].is_random(call.attrs)
    fused = False
    for form, shared in _ways(len(operands)):
        if not _lowers(call, form, shared):
            continue
        fused = True
        members = _others(operands, op)
        for row in members:
            for i, is_shared in enumerate(shared):
                row[i] = operands[i] if is_shared else row[i]
        if random:
            check_random(call, alone, members, shared, form)
        else:
            check(call, alone, members, shared, form, gradients=op not in NO_GRADIENTS)
    listed = op in UNMERGED or (op, number) in UNMERGED_CALLS
    assert fused != listed, f"{op}-{number} is {'' if fused else 'not '}fused"


MODULE_CASES = [
    pytest.param(op, number, training, id=f"{op}-{number}-{'train' if training else 'eval'}")
    for op, samples in _MODULES.SAMPLES.items()
    for number in range(len(samples))
    for training in (True, False)
]


@pytest.mark.parametrize(("op", "number", "training"), MODULE_CASES)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_layer_is_fused_exactly_or_listed(op: str, number: int, training: bool) -> None:
    sample, args, kwargs = _MODULES.SAMPLES[op][number]
    layer: nn.Module = type(sample)(**_constructor(sample)).double().train(training)
    call, alone, rows = _layer(layer, args, kwargs)
    random = OPS[op].is_random(call.attrs) and (training or op.startswith("Fractional"))
    fused = False
    for form in (Form.MEMBERS, Form.CHANNELS):
        shared = (False,) * len(call.inputs)
        if not _lowers(call, form, shared):
            continue
        fused = True
        (check_random if random else check)(call, alone, rows, shared, form)
    listed = op in UNMERGED or (op, number) in UNMERGED_CALLS
    listed = listed or (training and (op, number) in UNMERGED_TRAINING)
    assert fused != listed, f"{op}-{number} is {'' if fused else 'not '}fused"


def _constructor(layer: nn.Module) -> dict[str, Any]:
    op = module_op(type(layer))
    assert op is not None
    return constructor_attrs(OPS[op], module_attrs(layer))


def _layer(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Call, Callable[..., Any], list[list[Tensor]]]:
    op = module_op(type(layer))
    assert op is not None
    given = (_doubled(args), _doubled(kwargs))
    operands, attrs = bind_call(OPS[op], given[0], given[1])
    state = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}

    def alone(*inputs: Tensor) -> Any:
        values = dict(zip(state, inputs[len(operands) :], strict=True))
        places = {id(t): i for i, t in enumerate(operands)}
        put = partial(_put, places=places, values=inputs)
        return functional_call(layer, values, put(given[0]), put(given[1]))

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        out = alone(*operands, *(t.clone() for t in state.values()))
    types = tuple(TensorType.of(t) for t in (*operands, *state.values()))
    results = tuple(TensorType.of(t) for t in flat(out))
    all_attrs = module_attrs(layer).merged(attrs)
    call = Call(op, all_attrs, types, results, None, tuple(state), layer.training)
    rows = _others([*operands, *(t.detach() for t in state.values())], op)
    return call, alone, [[t.clone() for t in row] for row in rows]


def _put(value: Any, places: dict[int, int], values: Sequence[Tensor]) -> Any:
    if isinstance(value, Tensor):
        return values[places[id(value)]]
    if isinstance(value, dict):
        return {k: _put(v, places, values) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_put(v, places, values) for v in value)
    return value


def _doubled(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _double(value)
    if isinstance(value, dict):
        return {k: _doubled(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_doubled(v) for v in value)
    return value


def test_every_row_is_tried() -> None:
    rows = {name for name, spec in OPS.items() if spec.kind != "structural"}
    assert rows - _FUNCTIONS.SAMPLES.keys() - _MODULES.SAMPLES.keys() == {"by_mode"}
    assert set(UNMERGED) <= rows
    tried = {p.values[:2] for p in (*FUNCTION_CASES, *MODULE_CASES)}
    assert {*UNMERGED_CALLS, *UNMERGED_TRAINING} <= tried
