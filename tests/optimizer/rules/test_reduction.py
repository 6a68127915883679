"""Reductions, scans and orderings of stacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from retiarii.optimizer.rules.base import Form, Fusion
from retiarii.optimizer.rules.registry import lower_group
from retiarii.testing.equivalence import call_of_function, check, check_function
from retiarii.testing.isolation import check_isolation

FORMS = [Form.MEMBERS, Form.CHANNELS]
SHAPE = (2, 4, 3, 5)
OVER_MANY = [
    *(torch.sum, torch.mean, torch.nansum, torch.nanmean, torch.amax, torch.amin, torch.std),
    *(torch.var, torch.var_mean, torch.std_mean, torch.logsumexp, torch.norm),
    torch.linalg.vector_norm,
]
OVER_ONE = [
    *(torch.prod, torch.argmax, torch.argmin, torch.max, torch.min, torch.aminmax, torch.median),
    *(torch.nanmedian, torch.mode),
]
ALONG = [
    *(F.softmax, F.log_softmax, F.softmin, torch.cumsum, torch.cumprod, torch.cummax),
    *(torch.cummin, torch.logcumsumexp, torch.argsort, torch.sort),
]
DIM = st.integers(-4, 3)


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


@settings(max_examples=120)
@given(
    op=st.sampled_from(OVER_MANY),
    dims=st.one_of(DIM, st.sets(st.integers(0, 3), min_size=1, max_size=2).map(tuple)),
    keep=st.booleans(),
    size=st.integers(1, 3),
    form=st.sampled_from(FORMS),
    shared=st.booleans(),
)
def test_over_some_dimensions(
    op: Callable[..., Any], dims: Any, keep: bool, size: int, form: Form, shared: bool
) -> None:
    check_function(
        op, _random(*SHAPE), dim=dims, keepdim=keep, size=size, form=form, shared=[shared]
    )


@settings(max_examples=60)
@given(
    op=st.sampled_from(OVER_ONE),
    dim=DIM,
    keep=st.booleans(),
    size=st.integers(1, 3),
    form=st.sampled_from(FORMS),
)
def test_over_one_dimension(
    op: Callable[..., Any], dim: int, keep: bool, size: int, form: Form
) -> None:
    check_function(op, _random(*SHAPE), dim=dim, keepdim=keep, size=size, form=form)


@settings(max_examples=60)
@given(
    op=st.sampled_from(ALONG),
    dim=DIM,
    size=st.integers(1, 3),
    form=st.sampled_from(FORMS),
    shared=st.booleans(),
)
def test_along_a_dimension(
    op: Callable[..., Any], dim: int, size: int, form: Form, shared: bool
) -> None:
    check_function(op, _random(*SHAPE), dim=dim, size=size, form=form, shared=[shared])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [SHAPE, (3, 4), (5,), ()])
@pytest.mark.parametrize(
    "op",
    [
        *(torch.sum, torch.mean, torch.prod, torch.max, torch.min, torch.amax, torch.argmax),
        *(torch.norm, torch.all, torch.any, torch.count_nonzero, torch.aminmax),
    ],
)
def test_all_of_a_member_is_not_all_of_the_stack(
    op: Callable[..., Any], shape: tuple[int, ...], form: Form
) -> None:
    check_function(op, _random(*shape), form=form)


@pytest.mark.parametrize("form", FORMS)
def test_dimensions_of_one_are_kept(form: Form) -> None:
    for op in (torch.sum, torch.mean, torch.argmax, torch.argmin):
        for shape in (SHAPE, (3,)):
            check_function(op, _random(*shape), dim=None, keepdim=True, form=form)


def test_the_variance_of_all_of_a_member() -> None:
    for shape in (SHAPE, (5,)):
        check_function(torch.var, _random(*shape))


def test_equal_elements_share_the_gradient_as_alone() -> None:
    x = torch.ones(2, 3, dtype=torch.float64)
    for op in (torch.max, torch.min, torch.amax):
        call, _ = call_of_function(op, (x,), {})
        check(call, op, [[x], [2 * x]])
    for op in (torch.median, torch.nanmedian):
        call, _ = call_of_function(op, (x,), {})
        assert lower_group(Fusion(call, 2, (False,), (Form.MEMBERS,))) is None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_pieces_of_an_order(form: Form, dim: int) -> None:
    x = _random(*SHAPE)
    check_function(torch.topk, x, 2, dim=dim, form=form)
    check_function(torch.kthvalue, x, 2, dim=dim, form=form)
    check_function(torch.sort, x, dim=dim, descending=True, form=form)
    check_function(torch.quantile, x, 0.3, dim=dim, form=form)
    check_function(torch.diff, x, n=1, dim=dim, form=form)
    if x.shape[dim] % 2 == 0:
        check_function(F.glu, x, dim=dim, form=form)


@pytest.mark.parametrize("form", FORMS)
def test_quantiles_come_first(form: Form) -> None:
    several = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)
    for dim in (None, 1, -1):
        check_function(
            torch.quantile, _random(*SHAPE), several, dim=dim, form=form, shared=[False, True]
        )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("order", "shape", "dim"),
    [
        *((None, SHAPE, None), (1, (3, 4), None), ("fro", (3, 4), None), (3, (5,), None)),
        *(("nuc", SHAPE, (0, 1)), (2, SHAPE, -1), (float("inf"), SHAPE, (2, 3))),
    ],
)
def test_norms_of_vectors_and_matrices(order: Any, shape: Any, dim: Any, form: Form) -> None:
    check_function(torch.linalg.norm, _random(*shape), order, dim, form=form)


@pytest.mark.parametrize("p", [1, 2.0, "fro", float("inf")])
def test_norm(p: Any) -> None:
    for shape in (SHAPE, (4, 3), (3,), ()):
        check_function(torch.norm, _random(*shape), p)
    check_function(torch.norm, _random(*SHAPE), p, dim=1, form=Form.CHANNELS)


def test_distances() -> None:
    for shared in ([False, False], [True, False]):
        check_function(torch.dist, _random(3, 4), _random(3, 4), 1, shared=shared)
        check_function(torch.dist, _random(3, 4), _random(4), shared=shared)


@pytest.mark.parametrize("form", FORMS)
def test_places_in_sorted_rows(form: Form) -> None:
    rows, one = _random(3, 4).sort(-1)[0], _random(4).sort()[0]
    for shared in ([False, False], [True, False], [False, True]):
        check_function(torch.searchsorted, rows, _random(3, 5), shared=shared, form=form)
        check_function(torch.searchsorted, one, _random(3, 5), shared=shared, form=form)


@pytest.mark.parametrize(
    ("op", "dims", "form"),
    [
        (torch.mean, (2, 3), Form.CHANNELS),
        (torch.mean, (-1,), Form.CHANNELS),
        (torch.amax, (1,), Form.MEMBERS),
        (torch.sum, (0,), Form.MEMBERS),
    ],
)
def test_channels_stay_where_neither_batch_nor_channels_are_reduced(
    op: Callable[..., Any], dims: tuple[int, ...], form: Form
) -> None:
    call, _ = call_of_function(op, (_random(*SHAPE),), {"dim": dims})
    lowering = lower_group(Fusion(call, 3, (False,), (Form.CHANNELS,)))
    assert lowering is not None
    assert lowering.results == (form,)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("op", [torch.sum, torch.logsumexp, F.softmax, torch.cumsum])
def test_a_nan_stays_with_its_member(op: Callable[..., Any], form: Form) -> None:
    call, _ = call_of_function(op, (torch.randn(SHAPE),), {"dim": 1})
    check_isolation(call, [[torch.randn(SHAPE)] for _ in range(3)], form=form)


@pytest.mark.parametrize(
    ("op", "kwargs"), [(F.softmax, {}), (torch.norm, {"p": "nuc"}), (torch.cumsum, {"dim": 0})]
)
def test_what_is_not_known_is_not_fused(op: Callable[..., Any], kwargs: dict[str, Any]) -> None:
    x = _random() if op is torch.cumsum else _random(3, 3)
    if op is F.softmax:
        with pytest.warns(UserWarning, match="dim"):
            call, _ = call_of_function(op, (x,), kwargs)
    else:
        call, _ = call_of_function(op, (x,), kwargs)
    assert lower_group(Fusion(call, 2, (False,), (Form.MEMBERS,))) is None
