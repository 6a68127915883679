"""Embeddings of many members as one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from retiarii.optimizer import kernels
from retiarii.optimizer.rules.base import Form, Fusion
from retiarii.optimizer.rules.registry import lower_group
from retiarii.testing.equivalence import call_of_function, call_of_module, check, fused


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def indices(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.randint(0, 7, shape, dtype=dtype)


def check_layer(
    make: Callable[[], nn.Module],
    operands: list[Callable[[], Tensor]],
    shared: list[bool],
    size: int,
) -> None:
    """Members look up indices of their own."""
    layer = make().double()
    first = [o() for o in operands]
    call = call_of_module(layer, first)
    rows = [
        [*(f if s else o() for o, f, s in zip(operands, first, shared, strict=True)), randn(7, 4)]
        for _ in range(size)
    ]

    def alone(*inputs: Tensor) -> Any:
        return functional_call(layer, {"weight": inputs[-1]}, inputs[:-1])

    check(call, alone, rows, [*shared, False])


@pytest.mark.parametrize("shape", [(), (5,), (3, 5), (2, 3, 5), (0, 5)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"padding_idx": 2},
        {"padding_idx": -1},
        {"scale_grad_by_freq": True},
        {"padding_idx": 0, "scale_grad_by_freq": True},
    ],
)
def test_layer(
    shape: tuple[int, ...], dtype: torch.dtype, shared: bool, size: int, attrs: dict[str, Any]
) -> None:
    check_layer(
        lambda: nn.Embedding(7, 4, **attrs), [lambda: indices(*shape, dtype=dtype)], [shared], size
    )


@pytest.mark.parametrize("shared", [(a, b) for a in (False, True) for b in (False, True)])
@pytest.mark.parametrize(
    "attrs", [{}, {"padding_idx": -2}, {"padding_idx": 3}, {"scale_grad_by_freq": True}]
)
def test_function(shared: tuple[bool, bool], attrs: dict[str, Any]) -> None:
    x, w = indices(4, 6), randn(7, 4)
    call, _ = call_of_function(F.embedding, [x, w], attrs)
    rows = [[x if shared[0] else indices(4, 6), w if shared[1] else randn(7, 4)] for _ in range(3)]
    check(call, lambda *inputs: F.embedding(*inputs, **attrs), rows, shared)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 0, -3])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_bags(mode: str, padding: int | None, dtype: torch.dtype, shared: bool, size: int) -> None:
    make = lambda: nn.EmbeddingBag(7, 4, mode=mode, padding_idx=padding)  # noqa: E731
    check_layer(make, [lambda: indices(3, 5, dtype=dtype)], [shared], size)
    # The last bag of some members is empty.
    starts = lambda: torch.tensor([0, 2, 2, int(torch.randint(3, 7, ()))], dtype=dtype)  # noqa: E731
    operands = [lambda: indices(6, dtype=dtype), starts]
    check_layer(make, operands, [shared, False], size)
    check_layer(make, operands, [False, shared], size)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_bag_function(data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from(["sum", "mean", "max"]))
    attrs: dict[str, Any] = {
        "mode": mode,
        "padding_idx": data.draw(st.sampled_from([None, 1, -1])),
    }
    flat = data.draw(st.booleans())
    weighted = mode == "sum" and data.draw(st.booleans())
    x = indices(9) if flat else indices(3, 3)
    named = {
        **({"offsets": torch.tensor([0, 4, 5])} if flat else {}),
        **({"per_sample_weights": randn(*x.shape)} if weighted else {}),
    }
    call, tensors = call_of_function(F.embedding_bag, [x, randn(7, 4)], {**named, **attrs})
    shared = [data.draw(st.booleans()) for _ in tensors]

    def own(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.randn_like(tensor)
        return tensor if tensor.shape == (3,) else indices(*tensor.shape)

    rows = [[t if s else own(t) for t, s in zip(tensors, shared, strict=True)] for _ in range(2)]

    def alone(x: Tensor, w: Tensor, *more: Tensor) -> Tensor:
        return F.embedding_bag(x, w, **dict(zip(named, more, strict=True)), **attrs)

    check(call, alone, rows, shared)


@pytest.mark.parametrize("attrs", [{"max_norm": 1.0}, {"sparse": True}])
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_what_writes_the_table_or_has_sparse_gradients_is_left_alone(
    attrs: dict[str, Any], kind: type[nn.Module]
) -> None:
    call = call_of_module(kind(7, 4, **attrs), [indices(3, 5)])
    assert lower_group(Fusion(call, 2, (False, False), (Form.MEMBERS,) * 2)) is None


def test_bags_by_frequency_are_left_alone() -> None:
    call = call_of_module(nn.EmbeddingBag(7, 4, scale_grad_by_freq=True), [indices(3, 5)])
    assert lower_group(Fusion(call, 2, (False, False), (Form.MEMBERS,) * 2)) is None


def test_bags_with_a_last_offset_are_left_alone() -> None:
    layer = nn.EmbeddingBag(7, 4, include_last_offset=True)
    call = call_of_module(layer, [indices(6), torch.tensor([0, 2, 6])])
    assert lower_group(Fusion(call, 2, (False,) * 3, (Form.MEMBERS,) * 3)) is None


@pytest.mark.parametrize("bad", [-1, 7])
@pytest.mark.parametrize("shared", [True, False])
def test_no_member_reads_the_table_of_another(bad: int, shared: bool) -> None:
    x = torch.tensor([[bad, 1]]) if shared else torch.tensor([[0, 1], [bad, 2], [3, 4]])
    with pytest.raises((IndexError, RuntimeError)):
        kernels.embedding(x, randn(3, 7, 4))
    with pytest.raises((IndexError, RuntimeError)):
        kernels.embedding_bag(x[:, None].expand(3, -1, -1), randn(3, 7, 4), padding_idx=0)


def test_bags_that_begin_late_are_refused() -> None:
    with pytest.raises(RuntimeError, match="offsets"):
        kernels.embedding_bag(indices(2, 6), randn(2, 7, 4), torch.tensor([[0, 2], [1, 2]]))


@pytest.mark.parametrize("bag", [False, True])
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_what_is_wrong_in_one_member_stays_there(bag: bool, bad: int) -> None:
    x = torch.arange(7).repeat(2, 1)
    layer = (nn.EmbeddingBag if bag else nn.Embedding)(7, 4, padding_idx=1).double()
    call = replace(call_of_module(layer, [x]), state=("weight",))
    tables = [randn(7, 4).requires_grad_() for _ in range(3)]

    def run() -> list[list[Tensor]]:
        _, got = fused(call, [[x, w] for w in tables], [True, False])
        total = sum((r[0].square().sum() for r in got), start=torch.zeros(()))
        grads = torch.autograd.grad(total, tables)
        return [[r[0].detach(), grad] for r, grad in zip(got, grads, strict=True)]

    before = run()
    with torch.no_grad():
        tables[bad][0, 0] = float("nan")
    after = run()
    assert not after[bad][0].isfinite().all()
    for g in {0, 1, 2} - {bad}:
        assert all(map(torch.equal, before[g], after[g]))
