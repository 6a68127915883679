"""What generated code calls: fused operations on stacked tensors."""

from retiarii.optimizer.kernels.apart import ModelStream, call_module, results
from retiarii.optimizer.kernels.attention import attention_layer, scaled_dot_product_attention
from retiarii.optimizer.kernels.convolution import conv, conv_transpose, wide_conv_transpose
from retiarii.optimizer.kernels.dropout import alpha_dropout, dropout, feature_dropout, rrelu
from retiarii.optimizer.kernels.embedding import embedding, embedding_bag
from retiarii.optimizer.kernels.gathered import gathered_relu, gathered_scale, gathered_sum
from retiarii.optimizer.kernels.layout import channel_shuffle, filters, images
from retiarii.optimizer.kernels.linear import (
    affine,
    bilinear,
    linear,
    shared_linear,
    wide_linear,
    wide_linear_members,
)
from retiarii.optimizer.kernels.matmul import (
    batched_addbmm,
    batched_baddbmm,
    folded_matmul,
)
from retiarii.optimizer.kernels.normalisation import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    rms_norm,
)
from retiarii.optimizer.kernels.pooling import by_member, global_average
from retiarii.optimizer.kernels.randomness import (
    drawn,
    drawn_from,
    filled,
    fractional_max_pool,
    gumbel_softmax,
    ordered,
)
from retiarii.optimizer.kernels.recurrent import (
    Weights,
    gru,
    gru_cell,
    lstm,
    lstm_cell,
    rnn,
    rnn_cell,
)
from retiarii.optimizer.kernels.routing import (
    expand,
    parts,
    spread,
    to_channels,
    to_members,
    touch,
    write_back,
)
from retiarii.optimizer.kernels.shape import assigned, cat_channels, join_channels, meshgrid, take

__all__ = [
    "ModelStream",
    "Weights",
    "affine",
    "alpha_dropout",
    "assigned",
    "attention_layer",
    "batch_norm",
    "batched_addbmm",
    "batched_baddbmm",
    "bilinear",
    "by_member",
    "call_module",
    "cat_channels",
    "channel_shuffle",
    "conv",
    "conv_transpose",
    "drawn",
    "drawn_from",
    "dropout",
    "embedding",
    "embedding_bag",
    "expand",
    "feature_dropout",
    "filled",
    "filters",
    "folded_matmul",
    "fractional_max_pool",
    "gathered_relu",
    "gathered_scale",
    "gathered_sum",
    "global_average",
    "group_norm",
    "gru",
    "gru_cell",
    "gumbel_softmax",
    "images",
    "instance_norm",
    "join_channels",
    "layer_norm",
    "linear",
    "lstm",
    "lstm_cell",
    "meshgrid",
    "ordered",
    "parts",
    "results",
    "rms_norm",
    "rnn",
    "rnn_cell",
    "rrelu",
    "scaled_dot_product_attention",
    "shared_linear",
    "spread",
    "take",
    "to_channels",
    "to_members",
    "touch",
    "wide_conv_transpose",
    "wide_linear",
    "wide_linear_members",
    "write_back",
]
