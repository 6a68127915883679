"""Calls that tensors without data do, and tensors with data may not: numbers of other kinds."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from retiarii.ir.node import NodeRecord
from retiarii.ir.ops import op_spec
from retiarii.ir.tracing.events import Trace
from retiarii.ir.tracing.state import ModelState
from retiarii.ir.types import Ref

# Functions that want floating-point numbers, all of one dtype; so do layers but for these.
_PICKY = re.compile(
    r"(?:(?:bi)?linear|conv(?:_transpose)?[123]d|matmul|[bm]?mm|mv|dot|inner|addmm|addmv|addbmm"
    r"|baddbmm|einsum|tensordot|cdist|scaled_dot_product_attention|(?:log_)?softmax|softmin"
    r"|(?:batch|instance|group|layer|rms|local_response)_norm)\Z"
)
_INDIFFERENT = frozenset(
    {"Embedding", "EmbeddingBag", "Identity", "Flatten", "Unflatten"}
    | {"MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d"}
)
# Query, key and value; masks behind them may be of any kind.
_ATTENTION = frozenset({"MultiheadAttention", "scaled_dot_product_attention"})


def is_doubtful(trace: Trace, state: ModelState) -> bool:
    """Whether only a run with data tells if the calls of a trace take their numbers.

    Args:
        trace: a run on tensors without data.
        state: of the traced model.
    """
    dtypes: dict[Ref, torch.dtype] = {}
    for record in (*trace.inputs, *trace.sources.values(), *trace.events):
        if isinstance(record, NodeRecord):
            if _mixes(record, dtypes, state):
                return True
            for i, kind in enumerate(record.types):
                dtypes[Ref(record.name, i)] = kind.dtype
    return False


def _mixes(record: NodeRecord, dtypes: Mapping[Ref, torch.dtype], state: ModelState) -> bool:
    layer = op_spec(record.op).kind == "module" and record.op not in _INDIFFERENT
    if not layer and _PICKY.match(record.op) is None:
        return False
    met = {dtypes[ref] if ref in dtypes else state.tensors[ref.node].dtype for ref in record.inputs}
    if layer and record.path is not None:
        held = state.modules[record.path]._parameters.values()
        met.update(p.dtype for p in held if p is not None)
    return len(met) > 1 or any(not (d.is_floating_point or d.is_complex) for d in met)
