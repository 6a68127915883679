"""Results that are known without making a call are what the call makes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from retiarii.ir.ops import OPS
from retiarii.ir.tracing.layers import Layers
from retiarii.ir.tracing.results import _BINARY, _PER_SAMPLE, _UNARY, Results
from retiarii.ir.types import Attrs

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Conv1d": lambda: nn.Conv1d(4, 6, 3, stride=2),
    "Conv2d": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "Conv3d": lambda: nn.Conv3d(4, 6, 2),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2),
    "Linear": lambda: nn.Linear(6, 3),
    "MaxPool2d": lambda: nn.MaxPool2d(2, ceil_mode=True),
    "AvgPool2d": lambda: nn.AvgPool2d(3, stride=1),
    "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d((1, 2)),
}


def meta(*shape: int, gradient: bool = False, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    made = torch.empty(shape, device="meta", dtype=dtype, requires_grad=gradient)
    return made * 1 if gradient else made


def facts(made: torch.Tensor) -> tuple[Any, ...]:
    return made.shape, made.stride(), made.dtype, made.requires_grad, made.is_leaf, made.device


def never() -> Any:
    raise AssertionError("the call was made")


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("op", sorted(_UNARY))
def test_functions_of_one_tensor(op: str, gradient: bool) -> None:
    x = meta(2, 3, 5, gradient=gradient)
    found = Results().of_function(op, Attrs(), [x], never)
    assert facts(found) == facts(OPS[op].target(x))


@pytest.mark.parametrize(
    "shapes", [((2, 3), (2, 3)), ((2, 3), (3,)), ((1, 3), (2, 3)), ((), (2, 3))]
)
@pytest.mark.parametrize("op", sorted(_BINARY))
def test_functions_of_two_tensors(op: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    x, y = meta(*shapes[0], gradient=True), meta(*shapes[1])
    found = Results().of_function(op, Attrs(), [x, y], never)
    assert facts(found) == facts(OPS[op].target(x, y))
    with torch.no_grad():
        assert not Results().of_function(op, Attrs(), [x, y], never).requires_grad


@pytest.mark.parametrize(
    ("op", "attrs", "operands"),
    [
        ("add", {}, [meta(2, 3), meta(2, 3, dtype=torch.float64)]),
        ("add", {"other": 1j}, [meta(2, 3)]),
        ("div", {"rounding_mode": "floor"}, [meta(2, 3), meta(2, 3)]),
        ("mul", {"other": 2.5}, [meta(2, 3, dtype=torch.int64)]),
        ("add", {}, [meta(1, 3), meta(2, 1)]),
        ("add", {}, [meta(2, 3), meta(4, 3)]),
        ("add", {}, [meta(3, 2).t(), meta(2, 3)]),
        ("relu", {}, [meta(3, 2).t()]),
        ("lt", {"other": 2}, [meta(2, 3)]),
        ("maximum", {}, [meta(2, 3), meta(2, 3)]),
    ],
)
def test_all_else_is_called(op: str, attrs: dict[str, Any], operands: list[torch.Tensor]) -> None:
    made = meta(7)
    assert Results().of_function(op, Attrs(attrs), operands, lambda: made) is made


@pytest.mark.parametrize("op", sorted(_PER_SAMPLE))
@pytest.mark.parametrize("dims", range(2, 6))
def test_layers_do_the_same_to_each_sample(op: str, dims: int) -> None:
    if dims not in _PER_SAMPLE[op]:
        return
    torch.manual_seed(0)
    module = LAYERS[op]().to("meta")
    recognised = Layers().attrs_of(module)
    assert recognised is not None
    results = Results()
    shape = (4, 6, 6, 6, 6)[: dims - 1] if op != "Linear" else (6,) * (dims - 1)
    for batch in (2, 8, 1, 25):
        x = meta(batch, *shape, gradient=True)
        call = never if batch != 2 else functools.partial(module, x)
        found = results.of_layer(module, op, recognised[1], [x], call)
        assert facts(found) == facts(module(x))
    other = meta(2, *shape)
    assert results.of_layer(module, op, recognised[1], [other], lambda: other) is other
