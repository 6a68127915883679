"""Reductions, scans and orderings: of all elements of a member, or along some dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from retiarii.ir.types import TensorType
from retiarii.optimizer.rules.base import Form, Fusion, Lowering, Rule
from retiarii.optimizer.rules.broadcasting import aligned
from retiarii.optimizer.rules.dims import (
    Along,
    are_dims,
    from_end,
    members,
)
from retiarii.optimizer.rules.writing import argument, names, printed, rules, written

Write = Callable[[str, Any], str]


def _along(fusion: Fusion, dims: Any, write: Write, *, keeps_rank: bool) -> Lowering | None:
    """The call along the dimensions given; a member's 0-d tensor is one of a single element."""
    if len(fusion.call.inputs) != 1 or not are_dims(dims):
        return None
    if not fusion.call.inputs[0].shape:
        return None
    return Along(fusion, write).lowered(dims, keeps_rank=keeps_rank)


def _writer(fusion: Fusion) -> Write:
    return lambda operand, dims: written(fusion.call, [operand], {"dim": dims})


def _reduce(fusion: Fusion) -> Lowering | None:
    """Rows that take a tuple of dimensions, and reduce over all of them where none is given."""
    call = fusion.call
    rank = len(call.inputs[0].shape)
    dim = argument(call, "dim")
    if rank == 0:
        return _of_scalar(fusion)
    if dim is None or dim == ():
        dim = tuple(range(rank))
    return _along(fusion, dim, _writer(fusion), keeps_rank=bool(argument(call, "keepdim")))


def _of_scalar(fusion: Fusion) -> Lowering | None:
    if len(fusion.call.inputs) != 1:
        return None
    text = written(fusion.call, ["$0.unsqueeze(1)"], {"dim": -1}, without=("keepdim",))
    return members(fusion, text)


def _flattened(op: str | None = None) -> Rule:
    """Rows that take one dimension, and without it see a member as a single row.

    Args:
        op: the row that reduces a row of all elements as this one does without a dimension.
    """

    def rule(fusion: Fusion) -> Lowering | None:
        call = fusion.call
        dim = argument(call, "dim")
        if dim is None:
            if len(call.inputs) != 1 or "other" in call.attrs:
                return None
            flat = "$0.flatten(1)" if call.inputs[0].shape else "$0.unsqueeze(1)"
            if op is not None:
                return None if call.attrs else members(fusion, f"torch.{op}({flat}, dim=-1)")
            text = written(call, [flat], {"dim": -1}, without=("keepdim",))
            if argument(call, "keepdim"):
                if len(call.results) != 1:
                    return None
                text += f".reshape({(fusion.size, *call.results[0].shape)})"
            return members(fusion, text)
        if not call.inputs[0].shape:
            return None
        return _along(fusion, dim, _writer(fusion), keeps_rank=bool(argument(call, "keepdim")))

    return rule


def _scan(fusion: Fusion) -> Lowering | None:
    """Rows whose results are as large as their input, or differ from it along ``dim`` only."""
    if argument(fusion.call, "dim") is None:
        return None
    return _along(fusion, argument(fusion.call, "dim"), _writer(fusion), keeps_rank=True)


def _norm(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    p = argument(call, "p")
    if not (isinstance(p, int | float) or p == "fro"):
        return None
    if argument(call, "dim") is None and p == "fro":
        # Of all elements, which torch.norm does not take along more than two dimensions.
        call = replace(call, attrs=call.attrs.merged({"p": 2.0}))
    return _reduce(replace(fusion, call=call))


def _linalg_norm(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    dim, order = argument(call, "dim"), argument(call, "ord")
    rank = len(call.inputs[0].shape)
    if dim is not None:
        return _along(fusion, dim, _writer(fusion), keeps_rank=bool(argument(call, "keepdim")))
    if argument(call, "keepdim") or rank == 0 or len(call.inputs) != 1:
        return None
    if order is None:
        return members(fusion, written(call, ["$0.flatten(1)"], {"dim": -1}))
    if rank > 2:
        return None
    return members(fusion, written(call, ["$0"], {"dim": -1 if rank == 1 else (-2, -1)}))


def _dist(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    first, second = call.inputs if len(call.inputs) == 2 else (None, None)
    if first is None or second is None or names(call) != {"input": 0, "other": 1}:
        return None
    if first.dtype is not second.dtype:
        return None
    rank = max(len(first.shape), len(second.shape))
    if rank == 0:
        return None
    wide = TensorType((1,) * rank, first.dtype)
    lie = aligned(fusion, wide, channels=False)
    dims = tuple(range(-rank, 0))
    difference = f"torch.sub({lie.operands[0]}, {lie.operands[1]})"
    text = f"torch.linalg.vector_norm({difference}, {printed(argument(call, 'p'))}, dim={dims})"
    return Lowering(text, lie.inputs, (Form.MEMBERS,))


def _quantile(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    q, dim = names(call).get("q"), argument(call, "dim")
    rank = len(call.inputs[0].shape)
    if q is None:
        return _flattened()(fusion) if isinstance(argument(call, "q"), float) else None
    if not fusion.shared[q] or q != 1 or not rank or argument(call, "keepdim"):
        return None
    operand = "$0.flatten(1)" if dim is None else "$0"
    dim = -1 if dim is None else from_end(dim, rank)
    text = written(call, [operand, "$1"], {"dim": dim})
    # Several quantiles come before the members.
    return members(fusion, f"{text}.movedim(0, 1)" if call.inputs[1].shape else text, [q])


def _diff(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    rank = len(call.inputs[0].shape)
    dim = argument(call, "dim")
    if type(dim) is not int or any(len(t.shape) != rank for t in call.inputs):
        return None
    operands = [f"${i}" for i in range(len(call.inputs))]
    return members(fusion, written(call, operands, {"dim": from_end(dim, rank)}))


def _searchsorted(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    if names(call) != {"sorted_sequence": 0, "input": 1}:
        return None
    sequence, wanted = (len(t.shape) for t in call.inputs)
    if not wanted:
        return None
    # It warns of tensors that are not contiguous, which it would copy as well.
    if sequence == wanted:
        return members(fusion, written(call, ["$0.contiguous()", "$1.contiguous()"]))
    if fusion.shared[0]:
        return members(fusion, written(call, ["$0.contiguous()", "$1.contiguous()"]), [0])
    rows = written(call, ["$0.contiguous()", "$1.flatten(1).contiguous()"])
    return members(fusion, f"{rows}.reshape($1.shape)")


_OVER_DIMS: Final = (
    *("sum", "mean", "nansum", "nanmean", "amax", "amin", "all", "any", "count_nonzero"),
    *("var", "std", "var_mean", "std_mean", "logsumexp", "vector_norm"),
)
_SCANS: Final = (
    *("softmax", "log_softmax", "softmin", "glu", "cumsum", "cumprod", "cummax", "cummin"),
    *("logcumsumexp", "mode", "kthvalue", "topk", "sort", "argsort", "median", "nanmedian"),
)
_OPS: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        **dict.fromkeys(_OVER_DIMS, _reduce),
        "norm": _norm,
        "linalg_norm": _linalg_norm,
        "dist": _dist,
        "prod": _flattened(),
        "argmax": _flattened(),
        "argmin": _flattened(),
        "max": _flattened("amax"),
        "min": _flattened("amin"),
        "aminmax": _flattened(),
        "quantile": _quantile,
        **dict.fromkeys(_SCANS, _scan),
        "diff": _diff,
        "searchsorted": _searchsorted,
    }
)


def reduction(fusion: Fusion) -> Lowering | None:
    """Any row that works along dimensions of one tensor."""
    rule = _OPS.get(fusion.call.op)
    if rule is None or any(not t.shape for t in fusion.call.inputs[1:]):
        return None
    return rule(fusion)


RULES: Final[Mapping[str, Rule]] = rules({"reduce": reduction})
