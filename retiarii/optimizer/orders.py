"""In which order of memory a model alone draws its random numbers.

``F.dropout`` draws a mask that lies in memory as its input does: behind a transpose, element (0, 1)
gets another number than in a contiguous tensor. How tensors lie in the model alone is found on
tensors without storage; how they lie in the merged program is another matter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from retiarii.errors import ShapeError
from retiarii.ir.graph import Graph
from retiarii.ir.infer import Strided, TypeCache, infer_strides
from retiarii.ir.node import NodeRecord
from retiarii.ir.ops import op_spec
from retiarii.ir.types import Attrs, Ref, TensorType
from retiarii.optimizer.strides import ALWAYS_CONTIGUOUS, as_on_cpu, contiguous, stays_contiguous

Order = tuple[int, ...]
_HOLDERS: Final = frozenset({"parameter", "buffer", "constant"})
_NONE: Final[Mapping[str, Order]] = MappingProxyType({})

# Whose mask lies as their operand does, and whose result is the drawn tensor. All others draw in
# the order of a contiguous tensor.
_MASKS: Final = frozenset({"Dropout", "dropout", "AlphaDropout", "alpha_dropout"})
_RESULTS: Final = frozenset({"rand_like", "randn_like", "randint_like", "uniform", "gaussian"})


class Orders:
    """Finds the orders of models; what equal nodes do is worked out once.

    Args:
        resolve: sets the training flags in attributes.
    """

    def __init__(self, resolve: Callable[[Attrs, bool], Attrs]) -> None:
        self._resolve = resolve
        self._known: dict[Any, tuple[Strided, ...]] = {}
        self._all: dict[Strided, Strided] = {}
        self._known_orders: dict[tuple[int, bool], Order | None] = {}

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
        model = _Model(graph, tensors, flag, modes)
        kept = model.ancestors(live, draws, lambda r: r.op in ALWAYS_CONTIGUOUS)
        plain = model.plain(kept)
        draws = [r for r in draws if _read(r) not in plain]
        if not draws:
            return _NONE
        # One sample says nothing of how samples lie.
        own = graph.context.batch
        for batch in dict.fromkeys((max(own, 2), own)):
            known = plain if batch == own else frozenset()
            try:
                return self._orders(model, batch, live, draws, known)
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
        self,
        model: _Model,
        batch: int,
        live: Sequence[NodeRecord],
        draws: Sequence[NodeRecord],
        plain: Collection[str],
    ) -> Mapping[str, Order]:
        kept = model.ancestors(live, draws, lambda r: r.name in plain)
        cache = model.graph.context.types.at(batch)
        found: dict[str, tuple[Strided, ...]] = {
            n.record.name: (self._contiguous(n.type, model, batch),) for n in model.graph.inputs
        }
        for record in kept:
            if record.name in plain or _is_closed(record):
                made = tuple([self._contiguous(kind, model, batch) for kind in record.types])
            elif record.op in _HOLDERS:
                made = (self._one(Strided.of(model.holds(record))),)
            else:
                reads = [found[ref.node][ref.index] for ref in model.reads(record)]
                made = self._lies(model, record, reads, cache)
            found[record.name] = made
        orders = {}
        for record in draws:
            drawn = record.op in _RESULTS
            ref = record.inputs[0]
            order = self._order(
                found[record.name][0] if drawn else found[ref.node][ref.index], not drawn
            )
            if order is not None:
                orders[record.name] = order
        return orders

    def _order(self, lies: Strided, mask: bool) -> Order | None:
        key = (id(lies), mask)
        if key not in self._known_orders:
            # The mask of a tensor with holes has none.
            drawn = Strided.of(torch.empty_like(lies.meta())) if mask else lies
            self._known_orders[key] = _order(drawn)
        return self._known_orders[key]

    def _lies(
        self, model: _Model, record: NodeRecord, reads: Sequence[Strided], cache: TypeCache
    ) -> tuple[Strided, ...]:
        if record.op == "by_mode":
            return tuple(reads)
        attrs = self._resolve(record.attrs, model.modes.get(record.path or "", model.flag))
        state = model.unusual_state(record)
        key = (record.op, attrs, *map(id, reads), *state.values(), cache.batch)
        known = self._known.get(key)
        if known is None:
            made = infer_strides(record.op, attrs, reads, state, cache)
            made = as_on_cpu(record.op, attrs, (*reads, *state.values()), made)
            known = self._known[key] = tuple(map(self._one, made))
        return known

    def _contiguous(self, kind: TensorType, model: _Model, batch: int) -> Strided:
        return self._one(contiguous(model.at(kind, batch)))

    def _one(self, lies: Strided) -> Strided:
        """Equal ones are one object, and stay so: their ids say what they are."""
        return self._all.setdefault(lies, lies)


@dataclass(frozen=True, slots=True)
class _Model:
    """One model: see `Orders.of`."""

    graph: Graph
    tensors: Mapping[str, Tensor]
    flag: bool
    modes: Mapping[str, bool]

    def plain(self, records: Sequence[NodeRecord]) -> frozenset[str]:
        """The nodes whose results are contiguous for sure, in a model alone as well."""
        found = {node.record.name for node in self.graph.inputs}
        for record in records:
            if record.op in _HOLDERS:
                tensor = Strided.of(self.holds(record))
                known = tensor == contiguous(tensor.type)
            else:
                known = _is_closed(record) or record.op in ALWAYS_CONTIGUOUS
                known = known or (
                    stays_contiguous(record.op, record.attrs)
                    and all(ref.node in found for ref in self.reads(record))
                    and not self.unusual_state(record)
                )
            if known:
                found.add(record.name)
        return frozenset(found)

    def reads(self, record: NodeRecord) -> tuple[Ref, ...]:
        """What a node reads in this mode."""
        if record.op != "by_mode" or len(record.inputs) == 1:
            return record.inputs
        return record.inputs[:1] if self.flag else record.inputs[1:]

    def ancestors(
        self,
        live: Sequence[NodeRecord],
        draws: Sequence[NodeRecord],
        ends: Callable[[NodeRecord], bool],
    ) -> list[NodeRecord]:
        """The nodes whose memory says how it is drawn, and all that they read, up to ``ends``."""
        needed, kept = set(map(_read, draws)), []
        for record in reversed(live):
            if record.name in needed:
                kept.append(record)
                if not ends(record) and not _is_closed(record):
                    needed.update(ref.node for ref in self.reads(record))
        kept.reverse()
        return kept

    def holds(self, record: NodeRecord) -> Tensor:
        """The tensor of a node that only names one."""
        if record.op == "constant":
            return self.graph.context.constants[record.attrs["key"]]
        return self.tensors[record.path or ""]

    def at(self, kind: TensorType, batch: int) -> TensorType:
        """The type at another batch size."""
        shape = kind.shape
        if not shape or shape[0] != self.graph.context.batch:
            return kind
        return TensorType((batch, *shape[1:]), kind.dtype)

    def unusual_state(self, record: NodeRecord) -> dict[str, Strided]:
        """A layer's weight, where it is not as a new one: convolutions follow their weights."""
        if record.path is None or op_spec(record.op).kind != "module":
            return {}
        weight = self.tensors.get(f"{record.path}.weight" if record.path else "weight")
        if weight is None or weight.ndim < 4:
            return {}
        lies = Strided.of(weight)
        # By strides: one of 1 x 1 pixels is contiguous, and yet may be marked as channels last.
        return {} if lies == contiguous(lies.type) else {"weight": lies}


def _read(record: NodeRecord) -> str:
    """The node whose memory says in which order a node draws."""
    return record.name if record.op in _RESULTS else record.inputs[0].node


def _is_closed(record: NodeRecord) -> bool:
    """What an opaque module makes is taken for contiguous."""
    return record.op == "opaque" or record.is_choice


def _order(tensor: Strided) -> Order | None:
    """The dimensions by stride; ``None`` where that is their own order.

    Dimensions of size 1 lie anywhere.
    """
    shape, strides = tensor.type.shape, tensor.strides
    flat = [d for d, size in enumerate(shape) if size == 1]
    real = [d for d, size in enumerate(shape) if size != 1]
    found = sorted(real, key=lambda d: -strides[d])
    return None if found == real else (*flat, *found)
