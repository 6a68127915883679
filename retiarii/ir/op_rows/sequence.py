"""Recurrent layers and attention."""

from __future__ import annotations

from typing import Final

from torch import nn

from retiarii.ir.op_rows import flops
from retiarii.ir.op_rows.spec import Row, function, module
from retiarii.ir.types import Attrs

_RECURRENT = "num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False"
_STATE = "input: T, hx: T = None"


def _drops(attrs: Attrs) -> bool:
    return bool(attrs.get("dropout", 0.0) or attrs.get("dropout_p", 0.0))


SEQUENCE: Final[tuple[Row, ...]] = (
    module(
        nn.RNN,
        "input_size, hidden_size, num_layers=1, nonlinearity='tanh', bias=True, "
        "batch_first=False, dropout=0.0, bidirectional=False",
        _STATE,
        inferred="input_size",
        placed=True,
        random=True,
        draws=_drops,
        flops=flops.rnn,
        resize="recurrent",
        fuse="recurrent",
    ),
    module(
        nn.LSTM,
        f"input_size, hidden_size, {_RECURRENT}, proj_size=0",
        "input: T, hx=None",
        inferred="input_size",
        placed=True,
        random=True,
        draws=_drops,
        flops=flops.lstm,
        resize="recurrent",
        fuse="recurrent",
    ),
    module(
        nn.GRU,
        f"input_size, hidden_size, {_RECURRENT}",
        _STATE,
        inferred="input_size",
        placed=True,
        random=True,
        draws=_drops,
        flops=flops.gru,
        resize="recurrent",
        fuse="recurrent",
    ),
    module(
        nn.RNNCell,
        "input_size, hidden_size, bias=True, nonlinearity='tanh'",
        _STATE,
        inferred="input_size",
        placed=True,
        flops=flops.rnn_cell,
        resize="recurrent",
        fuse="recurrent",
    ),
    module(
        nn.LSTMCell,
        "input_size, hidden_size, bias=True",
        "input: T, hx=None",
        inferred="input_size",
        placed=True,
        flops=flops.lstm_cell,
        resize="recurrent",
        fuse="recurrent",
    ),
    module(
        nn.GRUCell,
        "input_size, hidden_size, bias=True",
        _STATE,
        inferred="input_size",
        placed=True,
        flops=flops.gru_cell,
        resize="recurrent",
        fuse="recurrent",
    ),
    module(
        nn.MultiheadAttention,
        "embed_dim, num_heads, dropout=0.0, bias=True, add_bias_kv=False, add_zero_attn=False, "
        "kdim=None, vdim=None, batch_first=False",
        "query: T, key: T, value: T, key_padding_mask: T = None, need_weights=True, "
        "attn_mask: T = None, average_attn_weights=True, is_causal=False",
        inferred="embed_dim:num_heads",
        placed=True,
        random=True,
        draws=_drops,
        flops=flops.attention_layer,
        resize="attention",
        fuse="attention",
    ),
    function(
        "scaled_dot_product_attention",
        "query: T, key: T, value: T, attn_mask: T = None, dropout_p=0.0, is_causal=False, "
        "scale=None, enable_gqa=False",
        "F.scaled_dot_product_attention",
        random=True,
        draws=_drops,
        flops=flops.attention,
        fuse="attention",
    ),
)
