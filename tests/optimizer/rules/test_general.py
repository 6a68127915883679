"""Functions that go through ``torch.vmap``, and those that must not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from retiarii.optimizer.rules import general
from retiarii.optimizer.rules.base import Call, Form, Fusion
from retiarii.testing.equivalence import call_of_function, check_function

T = torch.Tensor


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


ROWS = torch.tensor([2, 0])
CALLS: list[tuple[Callable[..., Any], list[Any], dict[str, Any]]] = [
    (torch.cdist, [_random(3, 4), _random(5, 4)], {}),
    (torch.cdist, [_random(30, 4), _random(30, 4)], {}),
    (torch.cdist, [_random(2, 3, 4), _random(2, 5, 4)], {"p": 1.0}),
    (F.cosine_similarity, [_random(3, 4), _random(3, 4)], {"dim": 0}),
    (torch.cross, [_random(2, 3), _random(2, 3)], {"dim": 1}),
    (torch.dstack, [[_random(3), _random(3)]], {}),
    (torch.index_add, [_random(3, 4), 0, ROWS, _random(2, 4)], {"alpha": 2}),
    (torch.index_copy, [_random(3, 4), 0, ROWS, _random(2, 4)], {}),
    (torch.index_fill, [_random(3, 4), 0, ROWS, 1.5], {}),
    (torch.index_select, [_random(3, 4), 0, ROWS], {}),
    (torch.kron, [_random(3, 4), _random(2, 2)], {}),
    (F.one_hot, [torch.tensor([1, 3]), 5], {}),
    (F.pairwise_distance, [_random(3, 4), _random(3, 4)], {"keepdim": True}),
    (torch.take_along_dim, [_random(3, 4), torch.tensor([5, 2])], {}),
    (T.view, [_random(3, 4), torch.int64], {}),
    (torch.vstack, [[_random(3), _random(2, 3)]], {}),
]


@pytest.mark.parametrize(("op", "args", "kwargs"), CALLS)
@pytest.mark.parametrize("size", [1, 3])
def test_equal_under_vmap(
    op: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], size: int
) -> None:
    call, tensors = call_of_function(op, args, kwargs)
    count = len(tensors)
    found = general.rule(Fusion(call, size, (False,) * count, (Form.MEMBERS,) * count))
    assert found is not None
    assert found.text.startswith("torch.vmap(")
    ways = [[False] * count, *([i == s for i in range(count)] for s in range(count))]
    for shared in ways if count > 1 else ways[:1]:
        check_function(op, *args, shared=shared, size=size, **kwargs)


def test_every_function_that_may_go_through_vmap_is_tried() -> None:
    tried = {call_of_function(op, args, kwargs)[0].op for op, args, kwargs in CALLS}
    assert tried == general.KNOWN


@pytest.mark.parametrize(
    ("op", "args"),
    [
        (torch.median, [_random(3, 4)]),  # not in the list: gradients of equal elements differ
        (F.one_hot, [torch.tensor([1, 3])]),  # as many classes as the data has
    ],
)
def test_not_under_vmap(op: Callable[..., Any], args: list[Any]) -> None:
    call, _ = call_of_function(op, args, {})
    assert general.rule(Fusion(call, 2, (False,), (Form.MEMBERS,))) is None


def test_the_trial_leaves_vmap_as_it_was() -> None:
    functorch: Any = torch._C._functorch
    before = functorch._is_vmap_fallback_enabled()
    call, _ = call_of_function(torch.kron, (_random(2, 2), _random(2, 2)), {})
    assert general.rule(Fusion(call, 2, (False, False), (Form.MEMBERS,) * 2)) is not None
    assert functorch._is_vmap_fallback_enabled() == before


def test_results_of_another_type_are_not_believed() -> None:
    call, _ = call_of_function(torch.kron, (_random(2, 2), _random(2, 2)), {})
    wrong = Call(call.op, call.attrs, call.inputs, call.inputs[:1])
    assert general.rule(Fusion(wrong, 2, (False, False), (Form.MEMBERS,) * 2)) is None
