"""Every function row, called as users call it, means what torch means."""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from retiarii.ir.graph import NodeRecord
from retiarii.ir.infer import TypeCache, infer
from retiarii.ir.ops import OPS, bind_call, function_op, op_spec, split_call
from retiarii.ir.types import Attrs, Ref, TensorType

_G = torch.Generator().manual_seed(7)


def _normal(*size: int) -> torch.Tensor:
    return torch.randn(*size, generator=_G)


x, y, z = _normal(2, 3), _normal(2, 3), _normal(2, 3)
pos = x.abs() + 0.5  # above zero
unit = torch.rand(2, 3, generator=_G) * 0.8 + 0.1  # within (0, 1)
true = x > 0
more = y > 0
whole = torch.randint(1, 6, (2, 3), generator=_G)
bits = torch.randint(1, 6, (2, 3), generator=_G)
square = _normal(3, 3)
batch = _normal(2, 3, 4)
batch2 = _normal(2, 4, 5)
img = _normal(2, 4, 6, 6)
seq = _normal(2, 4, 8)
vol = _normal(2, 4, 4, 4, 4)
vec = _normal(3)
ch = torch.rand(4, generator=_G) + 0.5  # one number a channel
idx = torch.tensor([[0, 2, 1], [1, 0, 0]])
rows = torch.tensor([1, 0])
q, k, v = _normal(2, 2, 5, 4), _normal(2, 2, 6, 4), _normal(2, 2, 6, 4)


def _pool_with_indices(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    pool: Any = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[n]
    found: tuple[torch.Tensor, torch.Tensor] = pool(
        {1: seq, 2: img, 3: vol}[n], 2, return_indices=True
    )
    return found


pooled1, pooled2, pooled3 = (_pool_with_indices(n) for n in (1, 2, 3))
Sample = Callable[[], Any]


def _written(tensor: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    made = tensor.clone()
    made[index] = value
    return made


def _operated(name: str, a: torch.Tensor, b: Any) -> torch.Tensor:
    return getattr(operator, name)(a.clone(), b)  # type: ignore[no-any-return]


# For each row: calls of it. The last torch call of each is the one that is looked at.
SAMPLES: dict[str, list[Sample]] = {
    # convolution
    "conv1d": [lambda: F.conv1d(seq, _W(6, 4, 3), padding=1)],
    "conv2d": [
        lambda: F.conv2d(img, _W(6, 4, 3, 3), ch6, 2, 1),
        lambda: torch.conv2d(img, _W(8, 1, 3, 3), groups=4),
        lambda: F.conv2d(img, _W(6, 4, 3, 3), padding="same"),
    ],
    "conv3d": [lambda: F.conv3d(vol, _W(6, 4, 3, 3, 3), None, 1, 1)],
    "conv_transpose1d": [lambda: F.conv_transpose1d(seq, _W(4, 6, 3), stride=2)],
    "conv_transpose2d": [lambda: F.conv_transpose2d(img, _W(4, 3, 3, 3), ch6, 2, 1, 1, 2)],
    "conv_transpose3d": [lambda: F.conv_transpose3d(vol, _W(4, 6, 3, 3, 3))],
    "fold": [lambda: F.fold(_W(2, 12, 9), (4, 4), (2, 2))],
    "unfold": [lambda: F.unfold(img, 3, padding=1, stride=2)],
    # linear and products
    "linear": [lambda: F.linear(x, _W(5, 3), _W(5)), lambda: F.linear(x, weight=_W(5, 3))],
    "bilinear": [lambda: F.bilinear(x, _W(2, 4), _W(5, 3, 4))],
    "embedding": [lambda: F.embedding(whole, _W(6, 4)), lambda: F.embedding(whole, _W(6, 4), 1)],
    "embedding_bag": [lambda: F.embedding_bag(whole, _W(6, 4), mode="sum")],
    "one_hot": [lambda: F.one_hot(whole, 7), lambda: F.one_hot(whole, num_classes=6)],
    "matmul": [
        lambda: x @ square,
        lambda: torch.matmul(batch, batch2),
        lambda: x.matmul(vec),
        lambda: torch.Tensor.__rmatmul__(square, x),
    ],
    "mm": [lambda: torch.mm(x, square), lambda: x.mm(square)],
    "bmm": [lambda: torch.bmm(batch, batch2), lambda: batch.bmm(mat2=batch2)],
    "mv": [lambda: torch.mv(x, vec)],
    "dot": [lambda: torch.dot(vec, vec), lambda: vec.dot(vec)],
    "inner": [lambda: torch.inner(x, y)],
    "outer": [lambda: torch.outer(vec, vec), lambda: vec.ger(vec)],
    "kron": [lambda: torch.kron(x, y)],
    "addmm": [lambda: torch.addmm(vec, x, square, beta=2, alpha=0.5)],
    "addmv": [lambda: torch.addmv(_W(2), x, vec)],
    "baddbmm": [lambda: torch.baddbmm(_W(2, 3, 5), batch, batch2)],
    "addbmm": [lambda: torch.addbmm(_W(3, 5), batch, batch2, alpha=2)],
    "einsum": [
        lambda: torch.einsum("bij,bjk->bik", batch, batch2),
        lambda: torch.einsum("ij,ij->i", [x, y]),
        lambda: torch.einsum("ij->j", x),
    ],
    "tensordot": [
        lambda: torch.tensordot(x, y, dims=([0], [0])),
        lambda: torch.tensordot(x, square, 1),
    ],
    "cross": [lambda: torch.cross(x, y, dim=1)],
    "cdist": [lambda: torch.cdist(x, y), lambda: torch.cdist(x, y, 1.0)],
    "cosine_similarity": [lambda: F.cosine_similarity(x, y), lambda: F.cosine_similarity(x, y, 0)],
    "pairwise_distance": [lambda: F.pairwise_distance(x, y, 1.0, keepdim=True)],
    # normalisation
    "batch_norm": [
        lambda: F.batch_norm(img, ch, ch, ch, ch),
        lambda: F.batch_norm(img, None, None, training=True),
        lambda: F.batch_norm(img, ch.clone(), ch.clone(), weight=ch, training=True),
    ],
    "instance_norm": [lambda: F.instance_norm(img), lambda: F.instance_norm(img, weight=ch)],
    "group_norm": [lambda: F.group_norm(img, 2), lambda: F.group_norm(img, 2, ch, ch, 1e-3)],
    "layer_norm": [
        lambda: F.layer_norm(x, (3,)),
        lambda: F.layer_norm(x, [3], vec, vec, 1e-3),
        lambda: torch.layer_norm(x, [3], bias=vec),
    ],
    "rms_norm": [lambda: F.rms_norm(x, (3,)), lambda: F.rms_norm(x, (3,), vec)],
    "normalize": [lambda: F.normalize(x), lambda: F.normalize(x, dim=0, p=1.0)],
    "local_response_norm": [lambda: F.local_response_norm(img, 2)],
    # pooling
    "max_pool1d": [lambda: F.max_pool1d(seq, 2), lambda: torch.max_pool1d(seq, 2)],
    "max_pool2d": [
        lambda: F.max_pool2d(img, 3, 1, 1),
        lambda: F.max_pool2d(img, kernel_size=2, return_indices=True),
        lambda: F.max_pool2d_with_indices(img, 2),
    ],
    "max_pool3d": [lambda: F.max_pool3d(vol, 2)],
    "avg_pool1d": [lambda: F.avg_pool1d(seq, 2)],
    "avg_pool2d": [lambda: F.avg_pool2d(img, 3, 2, 1, True, False, 4)],
    "avg_pool3d": [lambda: F.avg_pool3d(vol, 2)],
    "lp_pool1d": [lambda: F.lp_pool1d(seq, 2.0, 2)],
    "lp_pool2d": [lambda: F.lp_pool2d(img, 2.0, 2)],
    "lp_pool3d": [lambda: F.lp_pool3d(vol, 2.0, 2)],
    "adaptive_avg_pool1d": [lambda: F.adaptive_avg_pool1d(seq, 2)],
    "adaptive_avg_pool2d": [lambda: F.adaptive_avg_pool2d(img, (1, None))],
    "adaptive_avg_pool3d": [lambda: F.adaptive_avg_pool3d(vol, 1)],
    "adaptive_max_pool1d": [lambda: F.adaptive_max_pool1d(seq, 2)],
    "adaptive_max_pool2d": [
        lambda: F.adaptive_max_pool2d(img, 2),
        lambda: F.adaptive_max_pool2d(img, 2, return_indices=True),
    ],
    "adaptive_max_pool3d": [lambda: F.adaptive_max_pool3d(vol, 1)],
    "max_unpool1d": [lambda: F.max_unpool1d(*pooled1, 2)],
    "max_unpool2d": [
        lambda: F.max_unpool2d(*pooled2, 2),
        lambda: F.max_unpool2d(*pooled2, 2, output_size=(7, 7)),
    ],
    "max_unpool3d": [lambda: F.max_unpool3d(*pooled3, 2)],
    "fractional_max_pool2d": [lambda: F.fractional_max_pool2d(img, 2, 3)],
    "fractional_max_pool3d": [lambda: F.fractional_max_pool3d(vol, 2, 2, return_indices=True)],
    # activations
    **{
        name: [lambda name=name: getattr(F, name)(x)]  # type: ignore[misc]
        for name in [
            "relu6",
            "leaky_relu",
            "elu",
            "celu",
            "selu",
            "gelu",
            "silu",
            "mish",
            "hardswish",
            "hardsigmoid",
            "hardtanh",
            "hardshrink",
            "softshrink",
            "tanhshrink",
            "softsign",
            "softplus",
            "logsigmoid",
        ]
    },
    "relu": [
        lambda: F.relu(x),
        lambda: torch.relu(x),
        lambda: x.relu(),
        lambda: x.clone().relu_(),
        lambda: F.relu_(x.clone()),
    ],
    "threshold": [lambda: F.threshold(x, 0.1, -2.0)],
    "sigmoid": [lambda: torch.sigmoid(x), lambda: x.sigmoid(), lambda: torch.special.expit(x)],
    "tanh": [lambda: torch.tanh(x), lambda: F.tanh(x), lambda: x.clone().tanh_()],
    "prelu": [lambda: F.prelu(img, ch)],
    "glu": [lambda: F.glu(img, 1)],
    "softmax": [
        lambda: F.softmax(x, dim=-1),
        lambda: torch.softmax(x, 0, torch.float64),
        lambda: x.softmax(dim=1),
    ],
    "log_softmax": [lambda: F.log_softmax(x, 1), lambda: torch.log_softmax(x, dim=1)],
    "softmin": [lambda: F.softmin(x, dim=1)],
    # dropout
    **{
        name: [
            lambda name=name: getattr(F, name)(img, 0.3, True),  # type: ignore[misc]
            lambda name=name: getattr(F, name)(img, training=False),  # type: ignore[misc]
            lambda name=name: getattr(F, name)(img),  # type: ignore[misc]
        ]
        for name in ("dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
    },
    "dropout": [
        lambda: F.dropout(x),
        lambda: torch.dropout(x, 0.2, True),
        lambda: F.dropout(x, p=0.0),
    ],
    "dropout1d": [lambda: F.dropout1d(seq, 0.5)],
    "rrelu": [lambda: F.rrelu(x), lambda: F.rrelu(x, 0.1, 0.3, training=True)],
    "scaled_dot_product_attention": [
        lambda: F.scaled_dot_product_attention(q, k, v),
        lambda: F.scaled_dot_product_attention(q, k, v, torch.zeros(5, 6)),
        lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5),
        lambda: F.scaled_dot_product_attention(q, k, v, dropout_p=0.5),
    ],
    # elementwise
    **{
        name: [
            lambda name=name: getattr(torch, name)(unit),  # type: ignore[misc]
            lambda name=name: getattr(torch.Tensor, name)(unit),  # type: ignore[misc]
        ]
        for name in [
            "expm1",
            "log1p",
            "sqrt",
            "square",
            "sign",
            "sgn",
            "sin",
            "tan",
            "asin",
            "atan",
            "sinh",
            "asinh",
            "atanh",
            "erf",
            "erfinv",
            "ceil",
            "floor",
            "trunc",
            "frac",
            "deg2rad",
            "rad2deg",
            "nan_to_num",
            "exp",
            "exp2",
            "log",
            "log2",
            "log10",
            "rsqrt",
            "reciprocal",
            "cos",
            "acos",
            "cosh",
            "erfc",
            "lgamma",
            "digamma",
            "isnan",
            "isinf",
            "isfinite",
            "signbit",
            "logical_not",
            "sinc",
            "i0",
            "logit",
        ]
    },
    "acosh": [lambda: torch.acosh(pos + 1)],
    "abs": [lambda: abs(x), lambda: torch.absolute(x), lambda: x.clone().abs_()],
    "neg": [lambda: -x, lambda: torch.neg(x), lambda: operator.neg(x)],
    "positive": [lambda: +x, lambda: torch.positive(x)],
    "round": [lambda: torch.round(x, decimals=1), lambda: x.round()],
    "add": [
        lambda: x + y,
        lambda: 2 + x,
        lambda: torch.add(x, y, alpha=2),
        lambda: x.add(1.5),
        lambda: x.clone().add_(y),
        lambda: _operated("iadd", x, y),
        lambda: torch.add(input=x, other=y),
    ],
    "sub": [
        lambda: x - y,
        lambda: 2 - x,
        lambda: torch.subtract(x, 2),
        lambda: torch.rsub(x, y, alpha=2),
        lambda: _operated("isub", x, y),
    ],
    "mul": [lambda: x * y, lambda: 3 * x, lambda: x.multiply(2), lambda: _operated("imul", x, 2)],
    "div": [
        lambda: x / pos,
        lambda: 2 / pos,
        lambda: torch.div(x, y, rounding_mode="floor"),
        lambda: torch.true_divide(x, 2),
        lambda: _operated("itruediv", x, pos),
    ],
    "floor_divide": [lambda: x // 2, lambda: 2 // pos, lambda: _operated("ifloordiv", x, 2)],
    "remainder": [lambda: x % 2, lambda: 7 % pos, lambda: _operated("imod", x, 2)],
    "fmod": [lambda: torch.fmod(x, 2)],
    "pow": [
        lambda: x**2,
        lambda: 2**x,
        lambda: pos**x,
        lambda: torch.pow(2, x),
        lambda: x.pow(exponent=3),
        lambda: _operated("ipow", pos, 2),
    ],
    "float_power": [lambda: torch.float_power(pos, 2)],
    "atan2": [lambda: torch.atan2(x, y), lambda: x.arctan2(y)],
    "hypot": [lambda: torch.hypot(x, y)],
    "copysign": [lambda: torch.copysign(x, y), lambda: x.copysign(-1.0)],
    "maximum": [lambda: torch.maximum(x, y)],
    "minimum": [lambda: torch.minimum(x, y)],
    "fmax": [lambda: torch.fmax(x, y)],
    "fmin": [lambda: torch.fmin(x, y)],
    "logaddexp": [lambda: torch.logaddexp(x, y)],
    "xlogy": [lambda: torch.xlogy(x, pos), lambda: torch.xlogy(2.0, pos)],
    "ldexp": [lambda: torch.ldexp(x, whole)],
    "eq": [lambda: x == y, lambda: torch.eq(x, 0.5), lambda: x.eq(y)],
    "ne": [lambda: x != y, lambda: torch.not_equal(x, y)],
    "lt": [lambda: x < y, lambda: torch.less(x, 0), lambda: x < 0],
    "le": [lambda: x <= 0, lambda: x.le(y)],
    "gt": [lambda: x > y, lambda: x > 0],
    "ge": [lambda: x >= 0, lambda: torch.greater_equal(x, y)],
    "isclose": [lambda: torch.isclose(x, y, atol=0.5)],
    "logical_and": [lambda: torch.logical_and(true, more)],
    "logical_or": [lambda: torch.logical_or(true, more)],
    "logical_xor": [lambda: torch.logical_xor(true, more)],
    "bitwise_and": [
        lambda: true & more,
        lambda: whole & 3,
        lambda: 3 & whole,
        lambda: _operated("iand", whole, bits),
    ],
    "bitwise_or": [lambda: true | more, lambda: operator.or_(whole, 1)],
    "bitwise_xor": [lambda: true ^ more, lambda: 1 ^ whole],
    "bitwise_left_shift": [lambda: whole << 1, lambda: 1 << whole],
    "bitwise_right_shift": [lambda: whole >> 1, lambda: 64 >> whole],
    "bitwise_not": [lambda: ~true, lambda: torch.bitwise_not(whole)],
    "clamp": [
        lambda: x.clamp(-0.5, 0.5),
        lambda: torch.clamp(x, max=0.5),
        lambda: torch.clip(x, min=y),
        lambda: x.clone().clamp_(min=0),
    ],
    "clamp_min": [lambda: torch.clamp_min(x, 0.1)],
    "clamp_max": [lambda: x.clamp_max(0.1)],
    "lerp": [lambda: torch.lerp(x, y, 0.3), lambda: x.lerp(y, unit)],
    "addcmul": [lambda: torch.addcmul(x, y, z, value=2)],
    "addcdiv": [lambda: torch.addcdiv(x, y, pos)],
    # shape
    "view": [
        lambda: x.view(3, 2),
        lambda: x.view((6,)),
        lambda: x.view(-1),
        lambda: x.view(torch.int32),
        lambda: x.view(size=(1, 6)),
    ],
    "reshape": [lambda: x.reshape(3, 2), lambda: torch.reshape(x, (-1,))],
    "view_as": [lambda: x.view_as(y)],
    "reshape_as": [lambda: x.reshape_as(y)],
    "flatten": [lambda: torch.flatten(img, 1), lambda: img.flatten(start_dim=2, end_dim=3)],
    "unflatten": [lambda: torch.unflatten(img, 1, (2, 2)), lambda: img.unflatten(1, (2, -1))],
    "ravel": [lambda: torch.ravel(x)],
    "permute": [
        lambda: img.permute(0, 2, 3, 1),
        lambda: torch.permute(img, (0, 2, 3, 1)),
        lambda: x.permute(dims=(1, 0)),
    ],
    "transpose": [
        lambda: x.transpose(0, 1),
        lambda: torch.swapaxes(img, 1, 2),
        lambda: img.mT,
        lambda: torch.transpose(x, dim0=0, dim1=1),
    ],
    "t": [lambda: x.t(), lambda: x.T],
    "squeeze": [lambda: torch.squeeze(x[None]), lambda: x[None].squeeze(0)],
    "unsqueeze": [lambda: x.unsqueeze(-1), lambda: torch.unsqueeze(x, dim=1)],
    "expand": [lambda: x.expand(4, 2, 3), lambda: x.expand((4, -1, -1))],
    "expand_as": [lambda: vec.expand_as(x)],
    "broadcast_to": [lambda: torch.broadcast_to(vec, (2, 3))],
    "broadcast_tensors": [lambda: torch.broadcast_tensors(x, vec)],
    "repeat": [lambda: x.repeat(2, 2), lambda: x.repeat((1, 2, 1))],
    "tile": [lambda: torch.tile(x, (2,)), lambda: x.tile(2, 1)],
    "repeat_interleave": [
        lambda: torch.repeat_interleave(x, 2, dim=0),
        lambda: x.repeat_interleave(2),
    ],
    "chunk": [lambda: torch.chunk(img, 2, dim=1), lambda: img.chunk(3, -1)],
    "split": [
        lambda: torch.split(img, 2, dim=1),
        lambda: img.split([1, 3], 1),
        lambda: img.split(split_size=3, dim=2),
        lambda: img.split_with_sizes((1, 3), 1),
    ],
    "tensor_split": [
        lambda: torch.tensor_split(img, 3, dim=1),
        lambda: img.tensor_split((1, 2), 1),
    ],
    "unbind": [lambda: torch.unbind(x), lambda: x.unbind(1)],
    "stack": [lambda: torch.stack([x, y], dim=1), lambda: torch.stack((x, y))],
    "cat": [
        lambda: torch.cat([x, y], 1),
        lambda: torch.concat((x, y)),
        lambda: torch.cat(tensors=[x, y], axis=1),
    ],
    "hstack": [lambda: torch.hstack((x, y))],
    "vstack": [lambda: torch.vstack([x, y])],
    "dstack": [lambda: torch.dstack([x, y])],
    "column_stack": [lambda: torch.column_stack([x, y])],
    "meshgrid": [
        lambda: torch.meshgrid(vec, vec, indexing="ij"),
        lambda: torch.meshgrid([vec, vec], indexing="xy"),
    ],
    "roll": [lambda: torch.roll(x, 1, 1), lambda: x.roll((1, 1), (0, 1)), lambda: x.roll(1)],
    "flip": [lambda: torch.flip(x, [0, 1]), lambda: x.flip(1), lambda: x.flip((0,))],
    "fliplr": [lambda: torch.fliplr(x)],
    "flipud": [lambda: torch.flipud(x)],
    "rot90": [lambda: torch.rot90(x), lambda: torch.rot90(img, 1, (2, 3))],
    "movedim": [lambda: torch.movedim(img, 1, -1), lambda: img.moveaxis((0, 1), (1, 0))],
    "unfold_dim": [lambda: seq.unfold(2, 4, 2)],
    "diagonal": [lambda: torch.diagonal(x), lambda: img.diagonal(0, 2, 3)],
    "diag": [lambda: torch.diag(vec)],
    "diag_embed": [lambda: torch.diag_embed(x)],
    "tril": [lambda: torch.tril(square), lambda: square.tril(-1)],
    "triu": [lambda: torch.triu(square, diagonal=1), lambda: square.clone().triu_()],
    "contiguous": [lambda: x.t().contiguous()],
    "clone": [lambda: x.clone(), lambda: torch.clone(x)],
    "detach": [lambda: x.detach(), lambda: x.data],
    "to": [
        lambda: x.to(torch.float64),
        lambda: x.to("cpu"),
        lambda: x.to(torch.device("cpu"), torch.float16, True),
        lambda: x.to(whole),
        lambda: x.to(dtype=torch.int32, copy=True),
        lambda: x.float(),
        lambda: x.half(),
        lambda: x.long(),
        lambda: x.bool(),
        lambda: whole.double(),
        lambda: x.cpu(),
    ],
    "type": [lambda: x.type(torch.float64)],
    "type_as": [lambda: x.type_as(whole)],
    # spatial
    "pad": [
        lambda: F.pad(img, (1, 2)),
        lambda: F.pad(img, [1, 1, 1, 1], mode="reflect"),
        lambda: F.pad(img, (0, 1), value=2.0),
    ],
    "interpolate": [
        lambda: F.interpolate(img, scale_factor=2),
        lambda: F.interpolate(img, (3, 3), mode="bilinear", align_corners=False),
    ],
    "grid_sample": [lambda: F.grid_sample(img, _W(2, 3, 3, 2), align_corners=True)],
    "affine_grid": [lambda: F.affine_grid(_W(2, 2, 3), (2, 4, 3, 3), align_corners=False)],
    "pixel_shuffle": [lambda: F.pixel_shuffle(img, 2)],
    "pixel_unshuffle": [lambda: F.pixel_unshuffle(img, 3)],
    "channel_shuffle": [lambda: F.channel_shuffle(img, 2)],
    # reductions
    "sum": [
        lambda: x.sum(),
        lambda: torch.sum(x, dim=(0, 1), keepdim=True),
        lambda: x.sum(1, dtype=torch.float64),
        lambda: x.sum(axis=0),
    ],
    "mean": [lambda: x.mean((0, 1)), lambda: torch.mean(x, 1, True), lambda: img.mean([2, 3])],
    "nansum": [lambda: torch.nansum(x, 1)],
    "nanmean": [lambda: torch.nanmean(x)],
    "prod": [lambda: torch.prod(x, 1, keepdim=True), lambda: x.prod()],
    "amax": [lambda: torch.amax(x, (0, 1)), lambda: x.amax(dim=1, keepdim=True), lambda: x.amax()],
    "amin": [lambda: x.amin(1)],
    "max": [
        lambda: x.max(),
        lambda: torch.max(x, 1),
        lambda: torch.max(x, y),
        lambda: x.max(dim=0, keepdim=True),
    ],
    "min": [lambda: torch.min(x), lambda: x.min(1), lambda: torch.min(x, other=y)],
    "aminmax": [lambda: torch.aminmax(x, dim=1)],
    "argmax": [lambda: x.argmax(), lambda: torch.argmax(x, dim=1, keepdim=True)],
    "argmin": [lambda: x.argmin(1)],
    "all": [lambda: true.all(), lambda: torch.all(true, 1)],
    "any": [lambda: true.any(dim=1, keepdim=True)],
    "median": [lambda: x.median(), lambda: torch.median(x, 1)],
    "nanmedian": [lambda: torch.nanmedian(x)],
    "var": [
        lambda: x.var(),
        lambda: x.var(1, False),
        lambda: torch.var(x, False),
        lambda: torch.var(x, dim=1, correction=0, keepdim=True),
        lambda: x.var(unbiased=False, dim=0),
    ],
    "std": [lambda: x.std(1), lambda: torch.std(x, (0, 1), True, True)],
    "var_mean": [lambda: torch.var_mean(x, 1)],
    "std_mean": [lambda: torch.std_mean(x, dim=0, unbiased=False)],
    "norm": [
        lambda: x.norm(),
        lambda: torch.norm(x, 1, 1),
        lambda: x.norm(p=2, dim=1, keepdim=True),
    ],
    "vector_norm": [lambda: torch.linalg.vector_norm(x, 3, dim=1)],
    "linalg_norm": [lambda: torch.linalg.norm(x, dim=1)],
    "dist": [lambda: torch.dist(x, y, 1)],
    "logsumexp": [lambda: torch.logsumexp(x, 1), lambda: x.logsumexp(dim=(0, 1), keepdim=True)],
    "count_nonzero": [lambda: torch.count_nonzero(x, 1)],
    "mode": [lambda: torch.mode(whole)],
    "kthvalue": [lambda: torch.kthvalue(x, 2)],
    "quantile": [
        lambda: torch.quantile(x, 0.5, dim=1),
        lambda: x.quantile(torch.tensor([0.2, 0.8])),
    ],
    "topk": [lambda: torch.topk(x, 2), lambda: x.topk(k=1, dim=0, largest=False)],
    "sort": [lambda: torch.sort(x), lambda: x.sort(0, True), lambda: torch.sort(x, stable=True)],
    "argsort": [lambda: torch.argsort(x, descending=True)],
    "cumsum": [lambda: torch.cumsum(x, 1), lambda: x.cumsum(dim=0)],
    "cumprod": [lambda: torch.cumprod(x, dim=1)],
    "cummax": [lambda: torch.cummax(x, 1)],
    "cummin": [lambda: torch.cummin(x, dim=0)],
    "logcumsumexp": [lambda: torch.logcumsumexp(x, 1)],
    "diff": [lambda: torch.diff(x), lambda: torch.diff(x, prepend=y)],
    "searchsorted": [lambda: torch.searchsorted(vec.sort()[0], x)],
    "bucketize": [lambda: torch.bucketize(x, boundaries, right=True)],
    # factories
    "zeros": [lambda: torch.zeros(2, 3), lambda: torch.zeros((2,), dtype=torch.int64)],
    "ones": [lambda: torch.ones([2, 3]), lambda: torch.ones(size=(2,))],
    "empty": [lambda: torch.empty(2, 3)],
    "full": [
        lambda: torch.full((2, 3), 1.5),
        lambda: torch.full((2,), True),
        lambda: torch.full(size=(2,), fill_value=3),
    ],
    "arange": [
        lambda: torch.arange(5),
        lambda: torch.arange(1, 5.0, 0.5),
        lambda: torch.arange(end=3, dtype=torch.float32),
        lambda: torch.arange(start=1, end=3),
    ],
    "linspace": [lambda: torch.linspace(0, 1, 5), lambda: torch.linspace(0, 1, steps=3)],
    "logspace": [lambda: torch.logspace(0, 1, 5, base=2.0)],
    "eye": [lambda: torch.eye(3), lambda: torch.eye(2, 3)],
    "tril_indices": [lambda: torch.tril_indices(3, 3)],
    "triu_indices": [lambda: torch.triu_indices(3, 4, 1)],
    "zeros_like": [lambda: torch.zeros_like(x), lambda: x.clone().zero_()],
    "ones_like": [lambda: torch.ones_like(x, dtype=torch.float64)],
    "empty_like": [lambda: torch.empty_like(x)],
    "full_like": [lambda: torch.full_like(x, 2.0), lambda: x.clone().fill_(3)],
    "new_zeros": [lambda: x.new_zeros(2, 2), lambda: whole.new_zeros((3,))],
    "new_ones": [lambda: x.new_ones(3, dtype=torch.int64)],
    "new_empty": [lambda: x.new_empty((2, 2))],
    "new_full": [lambda: x.new_full((2, 2), 7.0)],
    # random
    "rand": [lambda: torch.rand(2, 3), lambda: torch.rand((2,), dtype=torch.float64)],
    "randn": [lambda: torch.randn(2, 3)],
    "randint": [
        lambda: torch.randint(5, (2, 3)),
        lambda: torch.randint(1, 5, (2,)),
        lambda: torch.randint(high=3, size=(2,)),
    ],
    "randperm": [lambda: torch.randperm(5)],
    "normal": [
        lambda: torch.normal(x, pos),
        lambda: torch.normal(0.0, 1.0, size=(2, 3)),
        lambda: torch.normal(x, 2.0),
    ],
    "rand_like": [lambda: torch.rand_like(x)],
    "randn_like": [lambda: torch.randn_like(x, dtype=torch.float64)],
    "randint_like": [lambda: torch.randint_like(x, 5), lambda: torch.randint_like(x, 2, 5)],
    "bernoulli": [
        lambda: torch.bernoulli(unit),
        lambda: x.bernoulli(0.3),
        lambda: x.clone().bernoulli_(),
        lambda: x.clone().bernoulli_(0.9),
    ],
    "multinomial": [lambda: torch.multinomial(unit, 2)],
    "poisson": [lambda: torch.poisson(pos)],
    "gumbel_softmax": [lambda: F.gumbel_softmax(x, 0.5, hard=True)],
    "uniform": [lambda: x.clone().uniform_(), lambda: x.clone().uniform_(-1, 1)],
    "gaussian": [lambda: x.clone().normal_(), lambda: x.clone().normal_(std=2.0)],
    # indexing
    "getitem": [
        lambda: x[0],
        lambda: img[:, 1:, ..., ::2],
        lambda: x[true],
        lambda: img[:, [0, 2]],
        lambda: img[rows],
        lambda: x[None, :, idx[0]],
        lambda: operator.getitem(x, (0, 1)),
    ],
    "setitem": [
        lambda: _written(x, 0, 1.0),
        lambda: _written(x, (slice(None), 1), y[:, 0]),
        lambda: _written(x, true, 0),
        lambda: _written(img, (slice(None), [0, 2]), 3.0),
    ],
    "copy": [lambda: x.clone().copy_(y), lambda: x.clone().copy_(vec, True)],
    "select": [lambda: x.select(1, 0), lambda: torch.select(x, dim=0, index=1)],
    "narrow": [lambda: x.narrow(1, 0, 2), lambda: torch.narrow(x, 1, 1, 2)],
    "index_select": [
        lambda: torch.index_select(x, 0, rows),
        lambda: x.index_select(dim=0, index=rows),
    ],
    "gather": [lambda: torch.gather(x, 1, idx), lambda: x.gather(dim=1, index=idx)],
    "take": [lambda: torch.take(x, idx)],
    "take_along_dim": [lambda: torch.take_along_dim(x, idx, dim=1)],
    "scatter": [
        lambda: x.scatter(1, idx[:, :1], y),
        lambda: torch.scatter(x, 1, idx[:, :1], 2.0),
        lambda: x.clone().scatter_(1, idx[:, :1], value=3.0),
    ],
    "scatter_add": [lambda: x.scatter_add(1, idx, y)],
    "scatter_reduce": [lambda: x.scatter_reduce(1, idx, y, "sum", include_self=False)],
    "index_add": [lambda: torch.index_add(x, 0, rows, y, alpha=2)],
    "index_copy": [lambda: x.index_copy(0, rows, y)],
    "index_fill": [lambda: x.index_fill(0, rows[:1], 5.0)],
    "index_put": [lambda: torch.index_put(x, (rows,), y), lambda: x.index_put([rows], y, True)],
    "select_scatter": [lambda: torch.select_scatter(x, y[:, 0], 1, 2)],
    "slice_scatter": [lambda: torch.slice_scatter(x, y[:, :2], 1, 1)],
    "masked_fill": [
        lambda: x.masked_fill(true, float("-inf")),
        lambda: torch.masked_fill(x, true, 1),
        lambda: x.clone().masked_fill_(true, 0),
    ],
    "masked_scatter": [lambda: x.masked_scatter(true, y)],
    "where": [
        lambda: torch.where(true, x, y),
        lambda: torch.where(true, x, 0.0),
        lambda: torch.where(true, 1.0, y),
        lambda: x.where(true, y),
    ],
}
_CASES = [
    pytest.param(op, sample, id=f"{op}-{i}")
    for op, samples in SAMPLES.items()
    for i, sample in enumerate(samples)
]
ch6 = torch.rand(6, generator=_G)
boundaries = vec.sort()[0]


def _W(*size: int) -> torch.Tensor:  # made outside of the recorded calls
    return _WEIGHTS[size]


_WEIGHTS = {
    size: _normal(*size)
    for size in (
        *((6, 4, 3), (6, 4, 3, 3), (8, 1, 3, 3), (6, 4, 3, 3, 3), (4, 6, 3), (4, 3, 3, 3)),
        *((4, 6, 3, 3, 3), (2, 12, 9), (5, 3), (5,), (2, 4), (5, 3, 4), (6, 4), (2,)),
        *((2, 3, 5), (3, 5), (2, 3, 3, 2), (2, 2, 3)),
    )
}


class _Recorder(TorchFunctionMode):
    """Keeps the last call, with the first argument as it was before it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.called = func
        self.args = (
            (args[0].clone() if isinstance(args[0], torch.Tensor) else args[0], *args[1:])
            if args
            else args
        )
        self.kwargs = copy.copy(kwargs)
        torch.manual_seed(5)
        self.returned = func(*args, **kwargs)
        self.first = args[0] if args else None
        return self.returned


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [t for part in value for t in _tensors(part)]
    return []


def _record(op: str, operands: list[Any], attrs: dict[str, Any]) -> NodeRecord:
    refs = tuple(Ref(f"n{i}") for i in range(len(operands)))
    return NodeRecord("it", op, refs, Attrs(attrs))


def _call(record: NodeRecord, operands: list[torch.Tensor], seed: int = 5) -> Any:
    spec = op_spec(record.op)
    positional, named = split_call(record)

    def real(value: Any) -> Any:
        if isinstance(value, Ref):
            return operands[record.inputs.index(value)]
        if isinstance(value, list):
            return [real(v) for v in value]
        if type(value) is tuple:
            return tuple(real(v) for v in value)
        if isinstance(value, slice):
            return slice(real(value.start), real(value.stop), real(value.step))
        return value

    args = [real(p) for p in positional]
    kwargs = {k: real(v) for k, v in named.items()}
    torch.manual_seed(seed)
    if spec.method is not None:
        return getattr(args[0], spec.method)(*args[1:], **kwargs)
    return spec.target(*args, **kwargs)


def _observe(sample: Sample) -> _Recorder:
    with _Recorder() as seen, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sample()
    return seen


@pytest.mark.parametrize(("op", "sample"), _CASES)
def test_a_call_through_the_table_equals_the_call_of_torch(op: str, sample: Sample) -> None:
    seen = _observe(sample)
    match = function_op(seen.called)
    assert match is not None, seen.called
    assert match.op == op
    operands, attrs = bind_call(match.spec, seen.args, seen.kwargs)
    record = _record(op, operands, attrs)
    expected = seen.first if match.inplace else seen.returned
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = _call(record, operands)
    ours, theirs = _tensors(made), _tensors(expected)
    assert [TensorType.of(t) for t in ours] == [TensorType.of(t) for t in theirs]
    if op not in ("empty", "empty_like", "new_empty"):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


# Their result's shape depends on the data, so that there is no type to infer.
_BY_DATA = {("getitem", 2)}


@pytest.mark.parametrize(
    ("op", "sample"), [c for c in _CASES if c.id not in {f"{o}-{i}" for o, i in _BY_DATA}]
)
def test_inferred_types_are_those_of_the_real_result(op: str, sample: Sample) -> None:
    seen = _observe(sample)
    match = function_op(seen.called)
    assert match is not None
    operands, attrs = bind_call(match.spec, seen.args, seen.kwargs)
    before = torch.get_rng_state()
    types, result = infer(op, Attrs(attrs), tuple(TensorType.of(t) for t in operands), TypeCache(2))
    assert torch.equal(before, torch.get_rng_state())
    expected = seen.first if match.inplace else seen.returned
    assert types == tuple(TensorType.of(t) for t in _tensors(expected))
    assert (result is None) == isinstance(expected, torch.Tensor)


@pytest.mark.parametrize(("op", "sample"), _CASES)
def test_binding_a_call_again_changes_nothing(op: str, sample: Sample) -> None:
    seen = _observe(sample)
    match = function_op(seen.called)
    assert match is not None
    operands, attrs = bind_call(match.spec, seen.args, seen.kwargs)
    positional, named = split_call(_record(op, operands, attrs))
    again, attrs_again = bind_call(op_spec(op), positional, named, lambda v: isinstance(v, Ref))
    assert again == [Ref(f"n{i}") for i in range(len(operands))]
    assert Attrs(attrs_again) == Attrs(attrs)


@pytest.mark.parametrize(("op", "sample"), _CASES)
def test_what_the_row_claims_holds(op: str, sample: Sample) -> None:
    seen = _observe(sample)
    match = function_op(seen.called)
    assert match is not None
    operands, bound = bind_call(match.spec, seen.args, seen.kwargs)
    attrs = Attrs(bound)
    record = _record(op, operands, bound)
    spec = OPS[op]

    def call(values: list[Any], seed: int = 5) -> list[torch.Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _tensors(_call(record, values, seed))

    if spec.zero_preserving is not None and spec.zero_preserving(attrs):
        for made in call([torch.zeros_like(t) for t in operands]):
            assert not made.any()
    if spec.identity is not None and spec.identity(attrs):
        torch.testing.assert_close(call(operands)[0], operands[0])
    if not spec.is_random(attrs) and "empty" not in op:
        for a, b in zip(call(operands, 1), call(operands, 2), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    if spec.commutative and len(operands) == 2:
        for a, b in zip(call(operands), call(operands[::-1]), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    if spec.elementwise:
        shapes = [t.shape for t in operands]
        assert call(operands)[0].shape == torch.broadcast_shapes(*shapes)
    if spec.alias is not None and (twin := spec.alias(attrs)) is not None:
        other = NodeRecord("it", twin[0], record.inputs, twin[1])
        for a, b in zip(call(operands), _tensors(_call(other, operands)), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_every_function_row_has_a_sample() -> None:
    rows = {name for name, spec in OPS.items() if spec.kind == "function"}
    # by_mode is no function of torch: test_parse_modes has it.
    assert rows - SAMPLES.keys() == {"by_mode"}
    assert SAMPLES.keys() - rows == set()
