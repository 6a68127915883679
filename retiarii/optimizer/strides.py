"""How results lie in memory where tensors without storage do not tell: torch's meta functions
keep shapes truthfully, and strides not always."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import torch

from retiarii.ir.infer import Strided
from retiarii.ir.ops import op_spec
from retiarii.ir.types import Attrs, TensorType

# Their result is contiguous whatever their operands are.
ALWAYS_CONTIGUOUS: Final = frozenset(
    {"Linear", "linear", "LayerNorm", "layer_norm", "Embedding", "embedding", "mm", "bmm", "addmm"}
)
# Families that make contiguous tensors of contiguous tensors; and further rows.
_STEADY: Final = frozenset(
    {
        *("elementwise", "prelu", "dropout", "linear", "embedding", "like", "convert", "rrelu"),
        *("conv", "conv_transpose", "batch_norm", "norm", "pool", "pad", "resample"),
        *("channel_shuffle", "masked_fill", "copy"),
    }
)
_STEADY_ROWS: Final = frozenset(
    {
        *("Flatten", "flatten", "Unflatten", "unflatten", "reshape", "view", "ravel", "squeeze"),
        *("unsqueeze", "cat", "stack", "contiguous", "clone", "detach", "Identity", "roll"),
        *("softmax", "Softmax", "log_softmax", "LogSoftmax", "sum", "mean", "amax", "amin"),
        *("glu", "GLU", "matmul", "rand_like", "randn_like", "randint_like", "uniform"),
        *("gaussian", "bernoulli", "rand", "randn", "randint", "zeros", "ones", "full", "empty"),
        *("arange", "linspace", "empty_like", "new_empty", "one_hot"),
        "by_mode",
    }
)

_Rule = Callable[[Attrs, Sequence[Strided], Strided], Strided]


def as_on_cpu(
    op: str, attrs: Attrs, reads: Sequence[Strided], made: Sequence[Strided]
) -> tuple[Strided, ...]:
    """What a call makes, as it lies in memory when it has one.

    Args:
        op: a row of the op table.
        attrs: its attributes.
        reads: its inputs, then the weights of a layer that are not contiguous.
        made: what it makes of tensors without storage.
    """
    rule = _BY_OP.get(op) or _BY_FAMILY.get(op_spec(op).fuse or "")
    if rule is None or not reads:
        return tuple(made)
    return tuple(rule(attrs, reads, one) for one in made)


def stays_contiguous(op: str, attrs: Attrs) -> bool:
    """Whether a call makes contiguous tensors wherever its inputs are contiguous."""
    steady = op in _STEADY_ROWS or (op_spec(op).fuse or "") in _STEADY
    return steady and "memory_format" not in attrs


def contiguous(kind: TensorType) -> Strided:
    """A contiguous tensor of this type."""
    return Strided(kind, _dense(kind.shape, range(len(kind.shape))))


def _dense(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Strides without gaps; the last dimension in ``order`` is the innermost."""
    strides, step = [0] * len(shape), 1
    for dim in reversed(order):
        strides[dim] = step
        step *= max(shape[dim], 1)
    return tuple(strides)


def is_channels_last(tensor: Strided) -> bool:
    """Whether torch takes it for an image whose channels lie innermost; it may have gaps."""
    shape, strides = tensor.type.shape, tensor.strides
    rank = len(shape)
    if rank not in (4, 5) or strides[1] == 0:
        return False
    least = 0
    for dim in (1, *range(rank - 1, 1, -1), 0):
        # One sample of one pixel has no order.
        if strides[dim] < least or (dim == 0 and least == strides[1]):
            return False
        least = strides[dim] * max(shape[dim], 1)
    return True


def _image(_: Attrs, reads: Sequence[Strided], made: Strided) -> Strided:
    """As the images, or the weights, that are read: channels last, or else contiguous."""
    rank = len(made.type.shape)
    if rank in (4, 5) and any(len(r.strides) == rank and is_channels_last(r) for r in reads):
        return Strided(made.type, _dense(made.type.shape, (0, *range(2, rank), 1)))
    return contiguous(made.type)


def _first_image(attrs: Attrs, reads: Sequence[Strided], made: Strided) -> Strided:
    return _image(attrs, reads[:1], made)


def _padded(attrs: Attrs, reads: Sequence[Strided], made: Strided) -> Strided:
    circular = attrs.get("mode") == "circular"
    return made if circular else _first_image(attrs, reads, made)


def _always(_: Attrs, __: Sequence[Strided], made: Strided) -> Strided:
    return contiguous(made.type)


def _attended(attrs: Attrs, reads: Sequence[Strided], made: Strided) -> Strided:
    """The fused kernel fills what is like the query; the other one makes all anew."""
    rows = reads[:3]
    fused = (
        all(len(r.strides) == 4 and r.strides[3] == 1 for r in rows)
        and len({r.type.shape[3] for r in rows}) == 1
        and attrs.get("dropout_p", 0.0) == 0
    )
    return Strided.of(torch.empty_like(reads[0].meta())) if fused else made


_BY_FAMILY: Final[Mapping[str, _Rule]] = MappingProxyType(
    {
        "conv": _image,
        "conv_transpose": _image,
        "batch_norm": _first_image,
        "channel_shuffle": _first_image,
        "pad": _padded,
        "rrelu": _always,
    }
)
_BY_OP: Final[Mapping[str, _Rule]] = MappingProxyType(
    {
        "GroupNorm": _first_image,
        "group_norm": _first_image,
        "roll": _first_image,
        "LogSigmoid": _always,
        "logsigmoid": _always,
        "scaled_dot_product_attention": _attended,
    }
)
