"""Which channels of which tensors go together, when a layer's width changes one by one.

From the width of one layer, the coupling spreads to all that must change with it: consumers, the
other producers of a residual sum, normalisation, depthwise filters, pieces of a concatenation,
the features that a flattened channel becomes, the heads of attention. After Fang et al., "DepGraph:
towards any structural pruning" (CVPR 2023), with the channels of each axis numbered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from retiarii.errors import GraphError
from retiarii.ir.edit.axis import Axis, Link
from retiarii.ir.edit.channels import links, links_back, pushed
from retiarii.ir.edit.products import partner
from retiarii.ir.edit.spreading import Units, gathered, spread, traced
from retiarii.ir.edit.widths import (
    FILLED,
    counts_from_front,
    is_recurrent,
    lends_shape,
    makes_axis,
    mixes_axis,
    owns_axis,
    reads_axis,
    width_axis,
    width_name,
    width_places,
)
from retiarii.ir.types import Ref

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph
    from retiarii.ir.node import NodeRecord


class Place(NamedTuple):
    """One axis of one result of a node."""

    node: str
    result: int
    axis: int


@dataclass(slots=True)
class Coupling:
    """The axes that change with a layer's width.

    Attributes:
        start: where the coupling spreads from.
        units: for each channel the number of its unit: channels that can only change together.
        channels: place -> the unit of each position; -1 for positions that stay as they are.
        makers: the layers and raw parameters whose own width is such a place.
        owners: layers with a weight for each position, that let the axis through.
        readers: (layer, place that it multiplies its weights with).
        products: (node, input place) of raw weights that the axis is multiplied and summed with.
        mixers: nodes whose result depends on all channels at once (normalisations, reductions).
    """

    start: Place
    units: tuple[int, ...] = ()
    channels: dict[Place, tuple[int, ...]] = field(default_factory=dict)
    makers: dict[str, Place] = field(default_factory=dict)
    owners: dict[str, Place] = field(default_factory=dict)
    readers: dict[str, Place] = field(default_factory=dict)
    products: dict[tuple[str, Place], None] = field(default_factory=dict)
    mixers: dict[str, None] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The number of channels."""
        return len(self.units)

    def unit(self, number: int) -> tuple[int, ...]:
        """The channels of a unit."""
        return tuple(c for c, unit in enumerate(self.units) if unit == number)


def couple(graph: Graph, name: str) -> Coupling:
    """What is coupled to the width of the layer ``name``.

    Raises:
        GraphError: it has no width of its own; it is coupled to an input or output of the model,
            or through an operation that is not known.
    """
    record = graph.settled(name)
    axis = width_axis(record)
    if axis is None or not makes_axis(record, Axis(0, axis)):
        raise GraphError(
            f"{name!r} ({record.op}) has no width of its own",
            where=f"node {name!r}",
            fix="name a convolution (not a depthwise one), a Linear, an Embedding or a recurrent "
            "layer; for attention, prune_heads and add_heads",
        )
    size = record.types[0].shape[axis]
    own = record.attrs[str(width_name(record))]
    return spread_from(graph, Place(name, 0, axis), tuple(c % own for c in range(size)))


def spread_from(graph: Graph, start: Place, channels: Sequence[int]) -> Coupling:
    """What is coupled to one axis, whose positions are these channels (from 0).

    Raises:
        GraphError: as for `couple`.
    """
    return _Walk(graph, Coupling(start), max(channels) + 1).run(start, tuple(channels))


class _Walk:
    """Spreads the numbers of channels from place to place, forwards and backwards."""

    def __init__(self, graph: Graph, coupling: Coupling, size: int) -> None:
        self._graph = graph
        self._coupling = coupling
        self._units = Units(size)
        self._outputs = set(graph.output_refs())
        self._todo: list[Place] = []

    def run(self, start: Place, channels: tuple[int, ...]) -> Coupling:
        self._put(start, channels)
        while self._todo:
            place = self._todo.pop()
            self._note(place.node)
            self._back(place)
            self._on(place)
        coupling = self._coupling
        coupling.units = self._units.numbered()
        for place, held in coupling.channels.items():
            coupling.channels[place] = tuple(coupling.units[c] if c >= 0 else -1 for c in held)
        return coupling

    def _put(self, place: Place, channels: Sequence[int]) -> None:
        held = self._coupling.channels.get(place) or (-1,) * len(channels)
        merged = []
        for old, new in zip(held, channels, strict=True):
            if old >= 0 and new >= 0:
                self._units.join(old, new)
            merged.append(old if old >= 0 else new)
        if place not in self._coupling.channels or tuple(merged) != held:
            self._coupling.channels[place] = tuple(merged)
            self._todo.append(place)

    # --- to what makes the axis -------------------------------------------------------------------

    def _back(self, place: Place) -> None:
        graph, (name, result, axis) = self._graph, place
        record = graph.record(name)
        at = Axis(result, axis)
        if record.op == "input":
            raise self._stuck(place, "is an input of the model", "leave its width alone")
        if record.op in FILLED:
            return
        if makes_axis(record, at):
            self._made(place, record)
            return
        if not self._moved_back(place, record):
            types = graph.input_types(record)
            found = links_back(record, types, at, graph.context.batch) if types else None
            if not found:
                raise self._unknown(place, record)
            ways: dict[Axis, list[Link]] = {}
            for link in found:
                ways.setdefault(link.input, []).append(link)
            for number in dict.fromkeys(way.index for way in ways):
                self._linked_back(place, [w for a, w in ways.items() if a.index == number])
        if owns_axis(record):
            self._coupling.owners[name] = place
            self._put_twins(record, Axis(0, axis))
        if mixes_axis(record, axis):
            self._coupling.mixers[name] = None

    def _unknown(self, place: Place, record: NodeRecord) -> GraphError:
        fix = "change the width of a layer whose result is not used there"
        if record.op == "MultiheadAttention":
            fix = "open_attention(graph, node) puts plain layers in its place, which can change"
        return self._stuck(
            place,
            f"is made by {record.op}, of which it is not known where its channels come from",
            fix,
        )

    def _made(self, place: Place, record: NodeRecord) -> None:
        """A layer's own width: all results and states that have it, at all of its calls."""
        name, channels = record.name, self._coupling.channels[place]
        if record.op in ("parameter", "buffer"):
            other = self._coupling.makers.setdefault(name, place)
            if other != place:
                raise self._stuck(place, "has this width twice", "leave its width alone")
            return
        if record.attrs.get("max_norm") is not None:
            self._coupling.mixers[name] = None
        size = record.attrs[str(width_name(record))]
        own = [-1] * size
        for position, channel in enumerate(channels):
            if channel >= 0:
                held = own[position % size]
                if held >= 0:
                    self._units.join(held, channel)
                else:
                    own[position % size] = channel
        types = self._graph.input_types(record)
        made, read = width_places(record, types)
        self._coupling.makers[name] = Place(name, *made[0])
        for at in made:
            width = record.types[at.index].shape[at.axis]
            self._put(Place(name, *at), [own[p % size] for p in range(width)])
        for at in read:
            ref = record.inputs[at.index]
            self._put(Place(*ref, at.axis), own)
        self._put_twins(record, made[0])

    def _put_twins(self, record: NodeRecord, at: Axis) -> None:
        """The other calls of the same layer make, or let through, the same channels."""
        channels = self._coupling.channels[Place(record.name, *at)]
        rank = len(record.types[at.index].shape)
        for name in self._graph.twins_of(record):
            twin = self._graph.settled(name)
            other = len(twin.types[at.index].shape)
            axis = at.axis if counts_from_front(record) else at.axis + other - rank
            self._put(Place(name, at.index, axis), channels)

    def _moved_back(self, place: Place, record: NodeRecord) -> bool:
        """Through operations that move elements; whether it was one."""
        graph = self._graph
        if len(record.inputs) < 1:
            return False
        types, batch = graph.input_types(record), graph.context.batch
        numbers = {}
        for axis in range(len(types[0].shape)):
            made = pushed(record, types, Axis(0, axis), batch)
            if made is None:
                return False
            numbers[axis] = made
        found = traced(numbers, place.axis, self._coupling.channels[place], self._units)
        if found is None:
            raise self._unknown(place, record)
        axis, channels = found
        self._put(Place(*record.inputs[0], axis), channels)
        return True

    def _linked_back(self, place: Place, ways: list[list[Link]]) -> None:
        """To the axis of one input; of several that were merged, the one that has the channels."""
        record = self._graph.record(place.node)
        for join in (False, True):
            for links_of_axis in ways:
                at = links_of_axis[0].input
                ref = record.inputs[at.index]
                size = self._graph.record(ref.node).types[ref.index].shape[at.axis]
                if self._gather(place, Place(*ref, at.axis), size, links_of_axis, join):
                    return

    def _gather(self, place: Place, to: Place, size: int, ways: list[Link], join: bool) -> bool:
        held = self._coupling.channels[place]
        found = [gathered(held, link.source, size, self._units, join=join) for link in ways]
        whole = [channels for channels in found if channels is not None]
        if len(whole) < len(found):
            return False
        for channels in whole:
            if any(c >= 0 for c in channels):
                self._put(to, channels)
        return True

    # --- to what reads the axis -------------------------------------------------------------------

    def _on(self, place: Place) -> None:
        graph, ref = self._graph, Ref(place.node, place.result)
        if ref in self._outputs:
            raise self._stuck(place, "is returned by the model", "leave its width alone")
        for user in graph.users_of(place.node):
            self._note(user)
            record = graph.record(user)
            for i, read in enumerate(record.inputs):
                if read == ref:
                    self._through(place, record, Axis(i, place.axis))

    def _through(self, place: Place, record: NodeRecord, at: Axis) -> None:
        graph, user = self._graph, record.name
        channels = self._coupling.channels[place]
        types = graph.input_types(record)
        if lends_shape(record, at.index):
            return
        if reads_axis(record, types, at):
            self._coupling.readers[user] = place
            for twin in graph.twins_of(record):
                ref = graph.settled(twin).inputs[0]
                rank = len(graph.settled(ref.node).types[ref.index].shape)
                self._put(Place(*ref, at.axis + rank - len(types[0].shape)), channels)
            return
        if is_recurrent(record) and at in width_places(record, types)[1]:
            (made, *_), _ = width_places(record, types)
            width = record.types[0].shape[made.axis]
            self._put(Place(user, *made), [channels[p % len(channels)] for p in range(width)])
            return
        other = partner(record, types, at)
        if other is not None:
            self._multiplied(place, record, other)
            return
        for axis, moved in self._ways_on(place, record, at):
            if any(c >= 0 for c in moved):
                self._put(Place(user, *axis), moved)

    def _multiplied(self, place: Place, record: NodeRecord, other: Axis) -> None:
        """The product is summed over the axis: the other factor has the same channels."""
        ref = record.inputs[other.index]
        far = Place(*ref, other.axis)
        raw = next((p for p in (far, place) if self._graph.record(p.node).op == "parameter"), None)
        if raw is None:
            self._coupling.mixers[record.name] = None
        elif all(name != record.name for name, _ in self._coupling.products):
            self._coupling.products[record.name, raw] = None  # one of the factors is divided
        self._put(far, self._coupling.channels[place])

    def _ways_on(
        self, place: Place, record: NodeRecord, at: Axis
    ) -> Iterator[tuple[Axis, Sequence[int]]]:
        channels = self._coupling.channels[place]
        inputs, batch = self._graph.input_types(record), self._graph.context.batch
        numbers = pushed(record, inputs, at, batch)
        if numbers is not None and len(channels) > 1:
            axis, moved = spread(numbers, channels, self._units)
            yield Axis(0, axis), moved
            return
        # Where an axis of one position goes cannot be seen.
        found = links(record, inputs, at, batch) if numbers is None else None
        if found is None:
            raise self._stuck(
                place,
                f"is read by {record.name!r} ({record.op}), of which it is not known where its "
                "channels go",
                "change the width of a layer whose result is not used there",
            )
        if not found:
            self._coupling.mixers[record.name] = None
        for link in found:
            yield link.result, [channels[s] if s >= 0 else -1 for s in link.source]

    def _stuck(self, place: Place, why: str, fix: str) -> GraphError:
        return GraphError(
            f"the width cannot change: {place.node!r}, which is coupled to it, {why}",
            where=f"node {place.node!r}, axis {place.axis}",
            fix=fix,
        )

    def _note(self, name: str) -> None:
        for facet in ("op", "attrs", "types", "arity", "users"):
            self._graph.reads.note(facet, name)
