"""Fully connected layers and embeddings."""

from __future__ import annotations

from typing import Final

from torch import nn

from retiarii.ir.op_rows import flops
from retiarii.ir.op_rows.convolution import without_bias
from retiarii.ir.op_rows.spec import Row, always, function, module

LINEAR: Final[tuple[Row, ...]] = (
    module(nn.Identity, identity=always, zero_preserving=always, elementwise=True, fuse="shape"),
    module(
        nn.Linear,
        "in_features, out_features, bias=True",
        inferred="in_features",
        placed=True,
        zero_preserving=without_bias,
        flops=flops.matmul,
        resize="linear",
        fuse="linear",
    ),
    module(
        nn.Bilinear,
        "in1_features, in2_features, out_features, bias=True",
        "input1: T, input2: T",
        inferred="in1_features in2_features",
        placed=True,
        zero_preserving=without_bias,
        flops=flops.bilinear,
        resize="bilinear",
        fuse="bilinear",
    ),
    module(
        nn.Embedding,
        "num_embeddings, embedding_dim, padding_idx=None, max_norm=None, norm_type=2.0, "
        "scale_grad_by_freq=False, sparse=False",
        placed=True,
        fuse="embedding",
    ),
    module(
        nn.EmbeddingBag,
        "num_embeddings, embedding_dim, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, "
        "mode='mean', sparse=False, include_last_offset=False, padding_idx=None",
        "input: T, offsets: T = None, per_sample_weights: T = None",
        placed=True,
        fuse="embedding",
    ),
    function(
        "linear",
        "input: T, weight: T, bias: T = None",
        "F.linear",
        flops=flops.matmul,
        fuse="linear",
    ),
    function(
        "bilinear",
        "input1: T, input2: T, weight: T, bias: T = None",
        "F.bilinear",
        flops=flops.bilinear,
        fuse="bilinear",
    ),
    # torch.embedding takes its arguments in another order.
    function(
        "embedding",
        "input: T, weight: T, padding_idx=None, max_norm=None, norm_type=2.0, "
        "scale_grad_by_freq=False, sparse=False",
        "F.embedding",
        search=False,
        fuse="embedding",
    ),
    function(
        "embedding_bag",
        "input: T, weight: T, offsets: T = None, max_norm=None, norm_type=2, "
        "scale_grad_by_freq=False, mode='mean', sparse=False, per_sample_weights: T = None, "
        "include_last_offset=False, padding_idx=None",
        "F.embedding_bag",
        search=False,
        fuse="embedding",
    ),
    function("one_hot", "input: T, num_classes=-1", "F.one_hot"),
)
