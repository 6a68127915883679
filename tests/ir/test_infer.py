"""Inference: its memory, its symbols, its errors, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from retiarii.errors import ShapeError
from retiarii.ir.infer import StateSpec, TypeCache, infer, module_state
from retiarii.ir.ops import module_attrs
from retiarii.ir.types import (
    Attrs,
    BatchSize,
    InputDevice,
    Operand,
    Result,
    TensorType,
    Training,
)


def f32(*shape: int) -> TensorType:
    return TensorType(shape, torch.float32)


def test_a_call_seen_before_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    forward = nn.Linear.forward

    def counted(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        runs.append(1)
        return forward(self, x)

    monkeypatch.setattr(nn.Linear, "forward", counted)
    cache = TypeCache()
    for _ in range(3):
        # Equal, not identical: attributes and types are made anew each time.
        attrs = module_attrs(nn.Linear(3, 4))
        assert infer("Linear", attrs, (f32(2, 3),), cache) == ((f32(2, 4),), None)
    assert len(runs) == 1
    infer("Linear", attrs, (f32(5, 3),), cache)
    assert len(runs) == 2
    assert len(cache.layers) == 1


def test_attributes_that_look_equal_to_python_are_kept_apart() -> None:
    cache = TypeCache()
    whole = infer("full", Attrs(size=(2,), fill_value=1), (), cache)
    real = infer("full", Attrs(size=(2,), fill_value=1.0), (), cache)
    truth = infer("full", Attrs(size=(2,), fill_value=True), (), cache)
    assert [t[0][0].dtype for t in (whole, real, truth)] == [
        torch.int64,
        torch.float32,
        torch.bool,
    ]


def test_several_results_come_with_their_structure() -> None:
    types, result = infer("LSTM", module_attrs(nn.LSTM(4, 5)), (f32(3, 2, 4),), TypeCache())
    assert types == (f32(3, 2, 5), f32(1, 2, 5), f32(1, 2, 5))
    assert result == (Result(0), (Result(1), Result(2)))
    attention = module_attrs(nn.MultiheadAttention(4, 2)).merged({"need_weights": False})
    types, result = infer("MultiheadAttention", attention, (f32(3, 2, 4),) * 3, TypeCache())
    assert types == (f32(3, 2, 4),)
    assert result == (Result(0), None)
    types, result = infer("chunk", Attrs(chunks=2, dim=1), (f32(2, 4),), TypeCache())
    assert result == (Result(0), Result(1))


def test_symbols_are_read_at_the_example_s_batch() -> None:
    cache = TypeCache(batch=6)
    size = (BatchSize(divisor=2), BatchSize(), 3)
    types, _ = infer("view", Attrs(size=size), (f32(54),), cache)
    assert types == (f32(3, 6, 3),)
    nested = Attrs(index=(slice(None, BatchSize(divisor=3)), Operand(1)))
    index = TensorType((4,), torch.int64)
    assert infer("getitem", nested, (f32(6, 9), index), cache)[0] == (f32(2, 4),)
    assert infer("dropout", Attrs(training=Training()), (f32(2),), cache)[0] == (f32(2),)
    made = Attrs(size=(BatchSize(), 4), device=InputDevice())
    assert infer("zeros", made, (), cache)[0] == (f32(6, 4),)


def test_no_device_is_touched_and_no_random_number_drawn() -> None:
    before = torch.get_rng_state()
    cache = TypeCache()
    infer("rand", Attrs(size=(3,)), (), cache)
    infer("to", Attrs(device="cuda"), (f32(3),), cache)
    infer("zeros", Attrs(size=(3,), device=torch.device("cuda")), (), cache)
    infer("Linear", module_attrs(nn.Linear(10**6, 10**6, device="meta")), (f32(1, 10**6),), cache)
    infer("normal", Attrs(mean=0.0, std=1.0, size=(2,)), (), cache)
    infer("uniform", Attrs(), (f32(3),), cache)
    assert torch.equal(before, torch.get_rng_state())


def test_the_caller_s_modes_do_not_see_it() -> None:
    seen: list[Any] = []

    class Spy(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    attrs = module_attrs(nn.Conv2d(1, 1, 1))
    with Spy():
        infer("Conv2d", attrs, (f32(1, 1, 2, 2),), TypeCache())
        infer("relu", Attrs(), (f32(1),), TypeCache())
        module_state("Conv2d", attrs)
    assert seen == []
    with torch.device("cpu"):
        assert infer("zeros", Attrs(size=(2,)), (), TypeCache())[0] == (f32(2),)


def test_batch_norm_of_one_value_a_channel_has_a_type() -> None:
    attrs = module_attrs(nn.BatchNorm1d(3))
    cache = TypeCache()
    assert infer("BatchNorm1d", attrs, (f32(1, 3),), cache)[0] == (f32(1, 3),)
    # Afterwards the layer trains again, and still refuses what does not fit.
    assert infer("BatchNorm1d", attrs, (f32(4, 3),), cache)[0] == (f32(4, 3),)
    with pytest.raises(ShapeError):
        infer("BatchNorm1d", attrs, (f32(4, 5),), cache)


def test_a_call_that_fails_names_the_op_and_both_types() -> None:
    with pytest.raises(ShapeError) as caught:
        infer("matmul", Attrs(), (f32(2, 3), f32(4, 5)), TypeCache())
    error = caught.value
    assert "matmul" in error.cause
    assert "float32[2, 3] and float32[4, 5]" in error.cause
    assert "\n" not in error.cause
    assert error.fix


def test_a_failure_is_not_remembered_as_a_result() -> None:
    cache = TypeCache()
    for _ in range(2):
        with pytest.raises(ShapeError):
            infer("matmul", Attrs(), (f32(2, 3), f32(4, 5)), cache)
    assert not cache.calls


def test_a_layer_that_cannot_be_made_says_so() -> None:
    attrs = module_attrs(nn.Conv2d(4, 4, 1)).merged({"groups": 3})
    with pytest.raises(ShapeError, match="cannot be made"):
        infer("Conv2d", attrs, (f32(1, 4, 2, 2),), TypeCache())
    with pytest.raises(ShapeError, match="cannot be made"):
        module_state("Conv2d", attrs)


def test_state_of_a_layer() -> None:
    state = module_state("BatchNorm2d", module_attrs(nn.BatchNorm2d(4)), TypeCache())
    assert list(state) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert state["weight"] == StateSpec(f32(4), "parameter")
    assert state["num_batches_tracked"] == StateSpec(TensorType((), torch.int64), "buffer")
    attention = module_state("MultiheadAttention", module_attrs(nn.MultiheadAttention(4, 2)))
    assert list(attention) == list(nn.MultiheadAttention(4, 2).state_dict())
    with pytest.raises(TypeError):
        state["weight"] = state["bias"]  # type: ignore[index]


def test_what_holds_nothing_has_no_state() -> None:
    assert not module_state("ReLU", Attrs(inplace=False))
    assert not module_state("relu", Attrs())
    assert not module_state("input", Attrs())


def test_state_is_remembered() -> None:
    cache = TypeCache()
    first = module_state("Linear", module_attrs(nn.Linear(3, 4)), cache)
    assert module_state("Linear", module_attrs(nn.Linear(3, 4)), cache) is first


def test_double_layers() -> None:
    attrs = module_attrs(nn.Linear(3, 4, dtype=torch.float64))
    kind = TensorType((2, 3), torch.float64)
    assert infer("Linear", attrs, (kind,), TypeCache())[0] == (TensorType((2, 4), torch.float64),)
    with pytest.raises(ShapeError, match="beside parameters of float32"):
        infer("Linear", module_attrs(nn.Linear(3, 4)), (kind,), TypeCache())
    with pytest.raises(ShapeError, match="does not take"):
        infer("matmul", Attrs(), (f32(2, 2), TensorType((2, 2), torch.float64)), TypeCache())
    # A normalisation may keep its statistics in another precision.
    half = TensorType((2, 3), torch.bfloat16)
    assert infer("BatchNorm1d", module_attrs(nn.BatchNorm1d(3)), (half,), TypeCache())[0] == (half,)


def test_functions_that_write_see_no_caller_s_tensor() -> None:
    cache = TypeCache()
    x = torch.zeros(2, 3)
    attrs = Attrs(index=0, value=1.0)
    assert infer("setitem", attrs, (TensorType.of(x),), cache)[0] == (f32(2, 3),)
    assert not x.any()
