"""Which parts of a layer's weights are left, when the channels that it reads or makes change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retiarii.ir.edit.coupling import Coupling, Place
from retiarii.ir.edit.widths import is_depthwise, is_recurrent
from retiarii.ir.infer import module_state
from retiarii.ir.ops import op_spec
from retiarii.ir.transfer import Take

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph
    from retiarii.ir.node import NodeRecord

Takes = dict[str, tuple[Take, ...]]


@dataclass(frozen=True, slots=True)
class Layout:
    """The new positions along an axis.

    Attributes:
        source: the old position of each.
        share: what part of the old position's weight each takes when it is read.
        copies: the unit of each (-1: of none), and which of its copies it belongs to.
    """

    source: tuple[int, ...]
    share: tuple[float, ...]
    copies: tuple[tuple[int, int], ...] = ()

    @property
    def plain(self) -> bool:
        return set(self.share) <= {1.0}

    def take(self, axis: int, *, shared: bool = False, groups: int = 1) -> Take:
        """What is left of a tensor with this layout along an axis."""
        share = self.share if shared and not self.plain else None
        return Take(axis, self.source, share, groups)

    def part(self, stop: int) -> Layout:
        """Of the first new positions."""
        return Layout(self.source[:stop], self.share[:stop])

    def times(self, count: int, size: int) -> Layout:
        """Several axes of ``size`` old positions in a row, each with this layout."""
        source = tuple(p + i * size for i in range(count) for p in self.source)
        return Layout(source, self.share * count)


class Slicing:
    """The weights of one layer (or one raw parameter) after the change.

    Attributes:
        shapes: state_dict key -> its shape before.
    """

    def __init__(
        self,
        graph: Graph,
        record: NodeRecord,
        coupling: Coupling,
        layouts: Mapping[Place, Layout],
    ) -> None:
        self._record = record
        self._coupling = coupling
        self._layouts = layouts
        self._kept: dict[str, tuple[int, ...]] = {}
        state = module_state(record.op, record.attrs, graph.context.types)
        path = record.path
        weights = graph.context.weights
        if path is not None and not record.fresh:
            if record.op in ("parameter", "buffer"):
                wanted = {"": record.types[0].shape}
            else:
                wanted = {key: spec.type.shape for key, spec in state.items()}
            for name, shape in wanted.items():
                held = weights.get(f"{path}.{name}" if name else path)
                # Of another shape, it is not what the layer starts from.
                if held is not None and tuple(held.shape) == shape:
                    self._kept[name] = shape
        self.shapes = {f"{path}.{n}" if n else str(path): s for n, s in self._kept.items()}

    def takes(self) -> Takes:
        """state_dict key -> what is taken of its tensor; none for what the graph has no weights of.

        Only what changes is listed.
        """
        record, coupling = self._record, self._coupling
        path, name = record.path, record.name
        if not self._kept:
            return {}
        if record.op in ("parameter", "buffer"):
            place = coupling.makers[name]
            shared = any(raw == place for _, raw in coupling.products)
            return {str(path): (self._layouts[place].take(place.axis, shared=shared),)}
        made: dict[str, list[Take]] = {}
        for held, of in (
            (coupling.readers, self._recurrent_read if is_recurrent(record) else self._read),
            (coupling.makers, self._recurrent_made if is_recurrent(record) else self._made),
            (coupling.owners, self._owned),
        ):
            if name in held:
                for key, takes in of(self._layouts[held[name]]).items():
                    made.setdefault(key, []).extend(takes)
        return {f"{path}.{key}": tuple(takes) for key, takes in made.items()}

    def _read(self, layout: Layout) -> Takes:
        record = self._record
        if "weight" not in self._kept:
            return {}
        if "Transpose" in record.op:  # (in, out / groups, ...), group after group
            return {"weight": (layout.take(0, shared=True),)}
        groups = record.attrs.get("groups", 1)
        return {"weight": (layout.take(1, shared=True, groups=groups),)}

    def _made(self, layout: Layout) -> Takes:
        record = self._record
        if record.op in ("Embedding", "EmbeddingBag"):
            return {"weight": (layout.take(1),)}
        made: Takes = {key: (layout.take(0),) for key in self._kept.keys() & {"weight", "bias"}}
        if "weight" in made and "Transpose" in record.op:
            made["weight"] = (layout.take(1, groups=record.attrs["groups"]),)
        return made

    def _recurrent_read(self, layout: Layout) -> Takes:
        first = ("weight_ih", "weight_ih_l0", "weight_ih_l0_reverse")
        return {key: (layout.take(1, shared=True),) for key in first if key in self._kept}

    def _recurrent_made(self, layout: Layout) -> Takes:
        """Rows are gates of the hidden size each; columns are hidden, but in the first layer."""
        size = self._record.attrs["hidden_size"]
        directions = 2 if self._record.attrs.get("bidirectional") else 1
        own = layout.part(len(layout.source) // directions)
        made: Takes = {}
        for key, shape in self._kept.items():
            takes = [own.times(shape[0] // size, size).take(0)]
            if key.startswith("weight_hh"):
                takes.append(own.take(1, shared=True))
            elif key.startswith("weight_ih_l") and "_l0" not in key:
                takes.append(own.times(directions, size).take(1, shared=True))
            made[key] = tuple(takes)
        return made

    def _owned(self, layout: Layout) -> Takes:
        record = self._record
        axis = 0
        if op_spec(record.op).resize == "normalized_shape":
            rank = len(record.types[0].shape)
            sizes = record.attrs["normalized_shape"]
            place = self._coupling.owners[record.name]
            axis = place.axis - (rank - len(sizes) if isinstance(sizes, tuple) else rank - 1)
            if axis < 0:
                return {}
        if is_depthwise(record) and "Transpose" in record.op:
            return self._transposed_depthwise(layout)
        return {key: (layout.take(axis),) for key, shape in self._kept.items() if len(shape) > axis}

    def _transposed_depthwise(self, layout: Layout) -> Takes:
        """The weight is (in, out / in, ...); the layout is that of the result."""
        times = self._record.attrs["out_channels"] // self._record.attrs["in_channels"]
        source = tuple(p // times for p in layout.source[::times])
        made: Takes = {"weight": (Layout(source, (1.0,) * len(source)).take(0),)}
        return {"bias": (layout.take(0),), **made} if "bias" in self._kept else made
