"""Products of matrices, vectors and tensors: the member's index is one more batch dimension."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from string import ascii_letters
from types import MappingProxyType
from typing import Any

import torch

from retiarii.optimizer.rules.base import Call, Fusion, Lowering, Rule, literal
from retiarii.optimizer.rules.stacking import (
    CHANNELS,
    MEMBERS,
    PLAIN,
    lifted,
    one_dtype,
    own_or_plain,
)

_ROW, _COLUMN = "[..., None, :]", "[..., None]"


def matmul(fusion: Fusion) -> Lowering | None:
    ranks = [len(t.shape) for t in fusion.call.inputs]
    if len(ranks) != 2 or min(ranks) < 1 or not _same_dtypes(fusion.call):
        return None
    forms = own_or_plain(fusion)
    if ranks == [2, 2] and fusion.shared[0] and fusion.forms[1] is CHANNELS:
        # The members' columns lie side by side already: one wide product.
        return Lowering("torch.mm($0, $1)", (PLAIN, CHANNELS), (CHANNELS,))
    if ranks[0] > 2 and ranks[1] == 2 and forms == (MEMBERS, MEMBERS):
        return Lowering("kernels.folded_matmul($0, $1)", forms, (MEMBERS,))
    matrices = [max(rank, 2) for rank in ranks]
    left, right = (
        lifted(f"${i}{as_matrix if rank == 1 else ''}", form, max(matrices) - matrix)
        for i, (rank, matrix, form, as_matrix) in enumerate(
            zip(ranks, matrices, forms, (_ROW, _COLUMN), strict=True)
        )
    )
    tail = "".join(f".squeeze({-2 + i})" for i in (0, 1) if ranks[i] == 1)
    return Lowering(f"torch.matmul({left}, {right}){tail}", forms, (MEMBERS,))


def _same_dtypes(call: Call) -> bool:
    return one_dtype(call) and call.results[0].dtype is not torch.bool


def _dot(fusion: Fusion) -> Lowering | None:
    # Half precision is summed otherwise by torch.dot.
    exact = fusion.call.results[0].dtype in (torch.float32, torch.float64)
    if not exact or not _same_dtypes(fusion.call):
        return None
    return Lowering("($0 * $1).sum(-1)", own_or_plain(fusion), (MEMBERS,))


def _outer(fusion: Fusion) -> Lowering | None:
    return Lowering(f"$0{_COLUMN} * $1{_ROW}", own_or_plain(fusion), (MEMBERS,))


def _added(name: str, rank: int, vector: bool = False) -> Rule:
    """``beta * input + alpha * a @ b``, where the result of one member has ``rank`` dimensions."""

    def rule(fusion: Fusion) -> Lowering | None:
        call = fusion.call
        if len(call.inputs) != 3 or not _same_dtypes(call):
            return None
        factors = "".join(
            f", {key}={literal(call.attrs[key])}" for key in ("beta", "alpha") if key in call.attrs
        )
        added = lifted("$0", MEMBERS, rank - len(call.inputs[0].shape))
        column, end = (_COLUMN, ".squeeze(-1)") if vector else ("", "")
        text = f"{name}({added}{column}, $1, $2{column}{factors}){end}"
        return Lowering(text, (MEMBERS,) * 3, (MEMBERS,))

    return rule


def _einsum(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    equation = call.attrs.get("equation")
    if not isinstance(equation, str) or set(call.attrs) != {"equation"}:
        return None
    text = equation.replace(" ", "")
    terms, arrow, result = text.partition("->")
    operands = terms.split(",")
    if len(operands) != len(call.inputs) or not _same_dtypes(call):
        return None
    if not arrow:
        count = Counter(terms.replace(".", "").replace(",", ""))
        result = "".join(sorted(letter for letter, n in count.items() if n == 1))
        result = f"...{result}" if "..." in terms else result
    return _contraction(fusion, operands, result)


def _contraction(fusion: Fusion, operands: Sequence[str], result: str) -> Lowering | None:
    """An einsum with one more letter in front, for the members."""
    free = sorted(set(ascii_letters) - set("".join(operands)))
    if not free:
        return None
    # "G" says what it is, where it is free.
    letter = "G" if "G" in free else free[0]
    forms = own_or_plain(fusion)
    terms = ",".join(
        letter + term if form is MEMBERS else term
        for form, term in zip(forms, operands, strict=True)
    )
    names = ", ".join(f"${i}" for i in range(len(forms)))
    text = f"torch.einsum({f'{terms}->{letter}{result}'!r}, {names})"
    return Lowering(text, forms, (MEMBERS,))


def _tensordot(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    dims: Any = call.attrs.get("dims", 2)
    if len(call.inputs) != 2 or not _same_dtypes(call):
        return None
    a, b = (len(t.shape) for t in call.inputs)
    if isinstance(dims, int):
        dims = (tuple(range(a - dims, a)), tuple(range(dims)))
    if not _is_pair_of_dims(dims):
        return None
    return _over(fusion, [d % a for d in dims[0]], [d % b for d in dims[1]])


def _is_pair_of_dims(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(isinstance(part, tuple) and all(type(d) is int for d in part) for part in value)
    )


def _over(fusion: Fusion, left: Sequence[int], right: Sequence[int]) -> Lowering | None:
    """The contraction of two tensors over pairs of their dimensions."""
    a, b = (len(t.shape) for t in fusion.call.inputs)
    if a + b >= len(ascii_letters):
        return None
    first, second = list(ascii_letters[:a]), list(ascii_letters[a : a + b])
    for i, j in zip(left, right, strict=True):
        second[j] = first[i]
    kept = [c for i, c in enumerate(first) if i not in left]
    kept += [c for j, c in enumerate(second) if j not in right]
    return _contraction(fusion, ["".join(first), "".join(second)], "".join(kept))


def _inner(fusion: Fusion) -> Lowering | None:
    a, b = (len(t.shape) for t in fusion.call.inputs)
    if not a or not b or not _same_dtypes(fusion.call):
        return None
    return _over(fusion, [a - 1], [b - 1])


_RULES: Mapping[str, Callable[[Fusion], Lowering | None]] = MappingProxyType(
    {
        "matmul": matmul,
        "mm": matmul,
        "bmm": matmul,
        "mv": matmul,
        "dot": _dot,
        "inner": _inner,
        "outer": _outer,
        "addmm": _added("torch.baddbmm", 2),
        "addmv": _added("torch.baddbmm", 1, vector=True),
        "baddbmm": _added("kernels.batched_baddbmm", 3),
        "addbmm": _added("kernels.batched_addbmm", 2),
        "einsum": _einsum,
        "tensordot": _tensordot,
    }
)


def product(fusion: Fusion) -> Lowering | None:
    return _RULES[fusion.call.op](fusion)


RULES: Mapping[str, Rule] = MappingProxyType({"matmul": product})
