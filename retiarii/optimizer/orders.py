"""In which order of memory a model alone draws its random numbers.

``F.dropout`` draws a mask that lies in memory as its input does: behind a transpose, element (0, 1)
gets another number than in a contiguous tensor. How tensors lie in the model alone is found on
tensors without storage; how they lie in the merged program is another matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from retiarii.errors import ShapeError
from retiarii.ir.graph import Graph
from retiarii.ir.infer import Strided, TypeCache, infer_strides
from retiarii.ir.node import NodeRecord
from retiarii.ir.ops import op_spec
from retiarii.ir.types import Attrs, TensorType
from retiarii.optimizer.strides import as_on_cpu, contiguous

Order = tuple[int, ...]
_NONE: Final[Mapping[str, Order]] = MappingProxyType({})

# Whose mask lies as their operand does, and whose result is the drawn tensor. All others draw in
# the order of a contiguous tensor.
_MASKS: Final = frozenset({"Dropout", "dropout", "AlphaDropout", "alpha_dropout"})
_RESULTS: Final = frozenset({"rand_like", "randn_like", "randint_like", "uniform", "gaussian"})
# Their result is contiguous whatever their operands are: how those lie need not be found.
_CONTIGUOUS: Final = frozenset({"Linear", "linear", "Embedding", "embedding"})


class Orders:
    """Finds the orders of models; what equal nodes do is worked out once.

    Args:
        resolve: sets the training flags in attributes.
    """

    def __init__(self, resolve: Callable[[Attrs, bool], Attrs]) -> None:
        self._resolve = resolve
        self._known: dict[Any, tuple[Strided, ...]] = {}

    def of(
        self,
        graph: Graph,
        tensors: Mapping[str, Tensor],
        live: Sequence[NodeRecord],
        flag: bool,
        modes: Mapping[str, bool],
    ) -> Mapping[str, Order]:
        """The dimensions from the outermost to the innermost in memory, by node.

        Args:
            graph: of one model; its inputs are taken to be contiguous.
            tensors: the model's parameters and buffers.
            live: the nodes that run.
            flag: the model's training flag.
            modes: those of its layers that differ.

        Returns:
            Only nodes that draw in another order than that of their dimensions.
        """
        draws = [r for r in live if self._draws(r, modes.get(r.path or "", flag))]
        if not draws:
            return _NONE
        # One sample says nothing of how samples lie.
        own = graph.context.batch
        for batch in dict.fromkeys((max(own, 2), own)):
            walk = _Walk(graph, tensors, batch, flag, modes)
            try:
                return self._orders(walk, live, draws)
            except ShapeError:  # the graph takes no other batch, or meta tensors do not serve
                continue
        return _NONE

    def _draws(self, record: NodeRecord, training: bool) -> bool:
        if record.op not in _MASKS and record.op not in _RESULTS:
            return False
        spec = op_spec(record.op)
        return (training or spec.kind == "function") and spec.is_random(
            self._resolve(record.attrs, training)
        )

    def _orders(
        self, walk: _Walk, live: Sequence[NodeRecord], draws: Sequence[NodeRecord]
    ) -> Mapping[str, Order]:
        needed = {r.name if r.op in _RESULTS else r.inputs[0].node for r in draws}
        kept = []
        for record in reversed(live):
            if record.name in needed:
                kept.append(record)
                if not walk.is_known(record):
                    needed.update(ref.node for ref in record.inputs)
        for record in reversed(kept):
            walk.found[record.name] = self._lies(walk, record)
        orders = {}
        for record in draws:
            ref = record.inputs[0]
            if record.op in _RESULTS:
                order = _order(walk.found[record.name][0])
            else:
                # A tensor with holes has a mask without them.
                mask = torch.empty_like(walk.found[ref.node][ref.index].meta())
                order = _order(Strided.of(mask))
            if order is not None:
                orders[record.name] = order
        return orders

    def _lies(self, walk: _Walk, record: NodeRecord) -> tuple[Strided, ...]:
        if walk.is_known(record):
            return tuple(map(walk.contiguous, record.types))
        if record.op in ("parameter", "buffer"):
            return (Strided.of(walk.tensors[record.path or ""]),)
        if record.op == "constant":
            return (Strided.of(walk.graph.context.constants[record.attrs["key"]]),)
        reads = tuple([walk.found[ref.node][ref.index] for ref in record.inputs])
        if record.op == "by_mode":
            return (reads[0 if walk.flag or len(reads) == 1 else 1],)
        attrs = self._resolve(record.attrs, walk.modes.get(record.path or "", walk.flag))
        state = walk.unusual_state(record)
        key = (record.op, attrs, reads, tuple(state.items()), walk.cache.batch)
        known = self._known.get(key)
        if known is None:
            made = infer_strides(record.op, attrs, reads, state, walk.cache)
            known = as_on_cpu(record.op, attrs, (*reads, *state.values()), made)
            self._known[key] = known
        return known


class _Walk:
    """One model at one batch size, and how its tensors lie, as far as it is found."""

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, Tensor],
        batch: int,
        flag: bool,
        modes: Mapping[str, bool],
    ) -> None:
        self.graph = graph
        self.tensors = tensors
        self.flag = flag
        self.modes = modes
        self.cache: TypeCache = graph.context.types.at(batch)
        self.found: dict[str, tuple[Strided, ...]] = {
            node.record.name: (self.contiguous(node.type),) for node in graph.inputs
        }

    def is_known(self, record: NodeRecord) -> bool:
        """Whether its results are contiguous, or taken for it: what an opaque module makes."""
        if record.op == "opaque" or record.is_choice:
            return True
        return record.op in _CONTIGUOUS and self.cache.batch == self.graph.context.batch

    def contiguous(self, kind: TensorType) -> Strided:
        """A contiguous tensor of this type, but for the batch size."""
        shape, was = kind.shape, self.graph.context.batch
        if shape and shape[0] == was:
            shape = (self.cache.batch, *shape[1:])
        return contiguous(TensorType(shape, kind.dtype))

    def unusual_state(self, record: NodeRecord) -> dict[str, Strided]:
        """A layer's weight, where it is not as a new one: convolutions follow their weights."""
        if record.path is None or op_spec(record.op).kind != "module":
            return {}
        key = f"{record.path}.weight" if record.path else "weight"
        weight = self.tensors.get(key)
        if weight is None or weight.ndim < 4:
            return {}
        lies = Strided.of(weight)
        # By strides: one of 1 x 1 pixels is contiguous, and yet may be marked as channels last.
        return {} if lies == contiguous(lies.type) else {"weight": lies}


def _order(tensor: Strided) -> Order | None:
    """The dimensions by stride; ``None`` where that is their own order.

    Dimensions of size 1 lie anywhere.
    """
    shape, strides = tensor.type.shape, tensor.strides
    flat = [d for d, size in enumerate(shape) if size == 1]
    real = [d for d, size in enumerate(shape) if size != 1]
    found = sorted(real, key=lambda d: -strides[d])
    return None if found == real else (*flat, *found)
