"""Products of many members as one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retiarii.ir.types import Attrs, TensorType
from retiarii.optimizer.rules.base import Call, Form, Fusion
from retiarii.optimizer.rules.registry import lower_group
from retiarii.testing.equivalence import call_of_function, check_function, fused


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


SHARED = [[False, False], [True, False], [False, True], [True, True]]
LEFT = [(4,), (3, 4), (2, 3, 4), (5, 2, 3, 4), (1, 3, 4), (5, 1, 3, 4)]
RIGHT = [(4,), (4, 6), (2, 4, 6), (5, 2, 4, 6), (5, 1, 4, 6)]


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize(("left", "right"), list(product(LEFT, RIGHT)))
def test_matmul(left: tuple[int, ...], right: tuple[int, ...], shared: list[bool]) -> None:
    check_function(torch.matmul, randn(*left), randn(*right), shared=shared)


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("form", [Form.MEMBERS, Form.CHANNELS])
@pytest.mark.parametrize("size", [1, 2])
def test_matmul_of_every_form(shared: list[bool], form: Form, size: int) -> None:
    for left, right in [((3, 4), (4, 6)), ((2, 3, 4), (4, 6)), ((2, 3, 4), (2, 4, 6))]:
        check_function(
            torch.matmul, randn(*left), randn(*right), shared=shared, form=form, size=size
        )


CASES: list[tuple[Callable[..., Any], list[tuple[int, ...]], dict[str, Any]]] = [
    (torch.mm, [(3, 4), (4, 6)], {}),
    (torch.bmm, [(2, 3, 4), (2, 4, 6)], {}),
    (torch.mv, [(3, 4), (4,)], {}),
    (torch.dot, [(4,), (4,)], {}),
    (torch.inner, [(4,), (4,)], {}),
    (torch.inner, [(3, 4), (4,)], {}),
    (torch.inner, [(3, 4), (2, 6, 4)], {}),
    (torch.outer, [(3,), (4,)], {}),
    (torch.tensordot, [(2, 3, 4), (3, 4, 5)], {}),
    (torch.tensordot, [(2, 3), (3, 5)], {"dims": 1}),
    (torch.tensordot, [(2, 3), (5,)], {"dims": 0}),
    (torch.tensordot, [(2, 3, 4), (4, 5, 2)], {"dims": ([0, -1], [2, 0])}),
    (torch.tensordot, [(2, 3, 4), (5, 3)], {"dims": ([1], [-1])}),
]


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize(("function", "shapes", "attrs"), CASES)
def test_products(
    function: Callable[..., Any],
    shapes: list[tuple[int, ...]],
    attrs: dict[str, Any],
    shared: list[bool],
) -> None:
    for size in (1, 3):
        check_function(function, *(randn(*s) for s in shapes), shared=shared, size=size, **attrs)


ADDED: list[tuple[Callable[..., Any], list[tuple[int, ...]]]] = [
    (torch.addmm, [(3, 6), (3, 4), (4, 6)]),
    (torch.addmm, [(6,), (3, 4), (4, 6)]),
    (torch.addmm, [(3, 1), (3, 4), (4, 6)]),
    (torch.addmm, [(), (3, 4), (4, 6)]),
    (torch.addmv, [(3,), (3, 4), (4,)]),
    (torch.addmv, [(1,), (3, 4), (4,)]),
    (torch.baddbmm, [(2, 3, 6), (2, 3, 4), (2, 4, 6)]),
    (torch.baddbmm, [(1, 6), (2, 3, 4), (2, 4, 6)]),
    (torch.addbmm, [(3, 6), (2, 3, 4), (2, 4, 6)]),
    (torch.addbmm, [(6,), (2, 3, 4), (2, 4, 6)]),
]


@pytest.mark.parametrize("shared", list(product([False, True], repeat=3)))
@pytest.mark.parametrize(("function", "shapes"), ADDED)
def test_added_products(
    function: Callable[..., Any], shapes: list[tuple[int, ...]], shared: tuple[bool, ...]
) -> None:
    for attrs in ({}, {"beta": 0.5, "alpha": -2}, {"beta": 0}):
        tensors = [randn(*s) for s in shapes]
        check_function(function, *tensors, shared=shared, size=2, **attrs)


EQUATIONS = [
    ("ij,jk->ik", [(2, 3), (3, 4)]),
    ("ij,jk", [(2, 3), (3, 4)]),
    ("ba,cb", [(2, 3), (4, 2)]),
    (" b h i d , b h j d -> b h i j ", [(2, 3, 4, 5), (2, 3, 6, 5)]),
    ("...ij,...jk->...ik", [(5, 2, 3), (3, 4)]),
    ("...ij,jk", [(5, 2, 3), (3, 4)]),
    ("b...,b...->...", [(2, 3, 4), (2, 4)]),
    ("ii->i", [(3, 3)]),
    ("ii", [(3, 3)]),
    ("ijk->", [(2, 3, 4)]),
    ("i,j,k->kji", [(2,), (3,), (4,)]),
    ("bG,GZ->bZ", [(2, 3), (3, 4)]),
    ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
    ("ij,ij->ij", [(2, 1), (2, 3)]),
    (",ij->ij", [(), (2, 3)]),
]


@pytest.mark.parametrize(("equation", "shapes"), EQUATIONS)
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    for shared in product([False, True], repeat=len(shapes)):
        for size in (1, 2):
            check_function(
                torch.einsum, equation, *(randn(*s) for s in shapes), shared=shared, size=size
            )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_any_einsum_of_two_tensors(data: st.DataObject) -> None:
    sizes = {"a": 2, "b": 3, "c": 1, "G": 2, "q": 4}
    term = st.lists(st.sampled_from(sorted(sizes)), max_size=4).map("".join)
    left, right = data.draw(term), data.draw(term)
    named = sorted(set(left + right))
    kept = data.draw(st.lists(st.sampled_from(named), unique=True)) if named else []
    equation = f"{left},{right}" + data.draw(st.sampled_from(["", f"->{''.join(kept)}"]))
    shapes = [tuple(sizes[c] for c in t) for t in (left, right)]
    shared = data.draw(st.tuples(st.booleans(), st.booleans()))
    check_function(torch.einsum, equation, *(randn(*s) for s in shapes), shared=shared, size=2)


def test_einsum_without_a_free_letter_is_left_alone() -> None:
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    half = TensorType((1,) * 26, torch.float64)
    whole = TensorType((1,) * 52, torch.float64)
    attrs = Attrs(equation=f"{letters[:26]},{letters[26:]}->{letters}")
    call = Call("einsum", attrs, (half, half), (whole,))
    assert lower_group(Fusion(call, 2, (False, False), (Form.MEMBERS,) * 2)) is None


def test_integers_keep_their_dtype() -> None:
    a, b = torch.arange(6).view(2, 3), torch.arange(12).view(3, 4)
    check_function(torch.matmul, a, b)
    check_function(torch.einsum, "ij,jk->ik", a, b)
    check_function(torch.outer, a[0], b[0])
    check_function(torch.outer, a[0].int(), randn(4))


def test_half_precision_dot_is_left_alone() -> None:
    # Torch adds up its products in another precision than a sum has.
    kind = TensorType((4,), torch.bfloat16)
    call = Call("dot", Attrs(), (kind, kind), (TensorType((), torch.bfloat16),))
    assert lower_group(Fusion(call, 2, (False, False), (Form.MEMBERS,) * 2)) is None


def test_wide_product_of_columns() -> None:
    call, _ = call_of_function(torch.mm, [torch.ones(2, 3), torch.ones(3, 4)], {})
    found = lower_group(Fusion(call, 2, (True, False), (Form.PLAIN, Form.CHANNELS)))
    assert found is not None
    assert found.results == (Form.CHANNELS,)


@pytest.mark.parametrize("bad", [0, 1, 2])
@pytest.mark.parametrize(
    ("function", "args", "shapes"),
    [
        (torch.matmul, [], [(3, 4), (4, 6)]),
        (torch.matmul, [], [(2, 3, 4), (4, 6)]),
        (torch.einsum, ["bij,bjk->ik"], [(2, 3, 4), (2, 4, 6)]),
        (torch.dot, [], [(4,), (4,)]),
        (torch.addmm, [], [(6,), (3, 4), (4, 6)]),
    ],
)
def test_what_is_wrong_in_one_member_stays_there(
    function: Callable[..., Any], args: list[Any], shapes: list[tuple[int, ...]], bad: int
) -> None:
    rows = [[randn(*s).requires_grad_() for s in shapes] for _ in range(3)]
    call, _ = call_of_function(function, [*args, *rows[0]], {})

    def run() -> list[list[Tensor]]:
        _, got = fused(call, rows, [False] * len(shapes))
        total = sum((r[0].square().sum() for r in got), start=torch.zeros(()))
        grads = torch.autograd.grad(total, [t for row in rows for t in row])
        n = len(shapes)
        return [[r[0].detach(), *grads[g * n : (g + 1) * n]] for g, r in enumerate(got)]

    before = run()
    with torch.no_grad():
        rows[bad][-1].view(-1)[0] = float("nan")
    after = run()
    assert not after[bad][0].isfinite().all()
    for g in {0, 1, 2} - {bad}:
        assert all(map(torch.equal, before[g], after[g]))
