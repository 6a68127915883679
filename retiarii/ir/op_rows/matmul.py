"""Products of matrices and tensors, and distances between vectors."""

from __future__ import annotations

from typing import Final

from torch import nn

from retiarii.ir.op_rows import flops
from retiarii.ir.op_rows.spec import Row, Spelling, always, function, module, twin

_COSINE = "x1: T, x2: T, dim=1, eps=1e-08"
_PAIRWISE = "x1: T, x2: T, p=2.0, eps=1e-06, keepdim=False"

MATMUL: Final[tuple[Row, ...]] = (
    function(
        "matmul",
        "input: T, other: T",
        "torch.matmul",
        "Tensor.__matmul__",
        "operator.matmul",
        "torch.linalg.matmul",
        Spelling("Tensor.__rmatmul__", swapped=True),
        zero_preserving=always,
        flops=flops.matmul,
        fuse="matmul",
    ),
    function(
        "mm",
        "input: T, mat2: T",
        "torch.mm",
        zero_preserving=always,
        flops=flops.matmul,
        fuse="matmul",
    ),
    function(
        "bmm",
        "input: T, mat2: T",
        "torch.bmm",
        zero_preserving=always,
        flops=flops.matmul,
        fuse="matmul",
    ),
    function(
        "mv",
        "input: T, vec: T",
        "torch.mv",
        zero_preserving=always,
        flops=flops.matmul,
        fuse="matmul",
    ),
    function(
        "dot",
        "input: T, tensor: T",
        "torch.dot",
        zero_preserving=always,
        flops=flops.matmul,
        fuse="matmul",
    ),
    function(
        "inner",
        "input: T, other: T",
        "torch.inner",
        zero_preserving=always,
        flops=flops.matmul,
        fuse="matmul",
    ),
    function(
        "outer",
        "input: T, vec2: T",
        "torch.outer",
        "torch.ger",
        "Tensor.ger",
        zero_preserving=always,
        fuse="matmul",
    ),
    function("kron", "input: T, other: T", "torch.kron", zero_preserving=always),
    function(
        "addmm",
        "input: T, mat1: T, mat2: T, *, beta=1, alpha=1",
        "torch.addmm",
        zero_preserving=always,
        flops=flops.added_matmul,
        fuse="matmul",
    ),
    function(
        "addmv",
        "input: T, mat: T, vec: T, *, beta=1, alpha=1",
        "torch.addmv",
        zero_preserving=always,
        flops=flops.added_matmul,
        fuse="matmul",
    ),
    function(
        "baddbmm",
        "input: T, batch1: T, batch2: T, *, beta=1, alpha=1",
        "torch.baddbmm",
        zero_preserving=always,
        flops=flops.added_matmul,
        fuse="matmul",
    ),
    function(
        "addbmm",
        "input: T, batch1: T, batch2: T, *, beta=1, alpha=1",
        "torch.addbmm",
        zero_preserving=always,
        flops=flops.addbmm,
        fuse="matmul",
    ),
    function(
        "einsum",
        "equation: P, *operands: T",
        "torch.einsum",
        zero_preserving=always,
        flops=flops.einsum,
        fuse="matmul",
    ),
    function(
        "tensordot",
        "a: T, b: T, dims=2",
        "torch.tensordot",
        zero_preserving=always,
        flops=flops.tensordot,
        fuse="matmul",
    ),
    function("cross", "input: T, other: T, dim=None", "torch.cross", zero_preserving=always),
    function(
        "cdist",
        "x1: T, x2: T, p=2.0, compute_mode='use_mm_for_euclid_dist_if_necessary'",
        "torch.cdist",
    ),
    module(
        nn.CosineSimilarity,
        "dim=1, eps=1e-08",
        "x1: T, x2: T",
        zero_preserving=always,
        alias=twin("cosine_similarity", _COSINE),
    ),
    module(
        nn.PairwiseDistance,
        "p=2.0, eps=1e-06, keepdim=False",
        "x1: T, x2: T",
        alias=twin("pairwise_distance", _PAIRWISE),
    ),
    function("cosine_similarity", _COSINE, "F.cosine_similarity", zero_preserving=always),
    function("pairwise_distance", _PAIRWISE, "F.pairwise_distance"),
)
