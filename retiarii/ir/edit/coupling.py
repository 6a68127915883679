"""Which channels of which tensors go together, when a layer's width changes one by one.

From the width of one layer, the coupling spreads to all that must change with it: consumers, the
other producers of a residual sum, normalisation, depthwise filters, pieces of a concatenation,
the features that a flattened channel becomes. After Fang et al., "DepGraph: towards any structural
pruning" (CVPR 2023), with the channels of each axis numbered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from retiarii.errors import GraphError
from retiarii.ir.edit.channels import (
    MIXING,
    Axis,
    Link,
    links,
    links_back,
    makes_axis,
    owns_axis,
    reads_axis,
    width_axis,
)
from retiarii.ir.types import Ref

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph


class Place(NamedTuple):
    """One axis of one result of a node."""

    node: str
    result: int
    axis: int


@dataclass(slots=True)
class Coupling:
    """The axes that change with a layer's width.

    Attributes:
        size: the number of channels.
        channels: place -> the channel of each position; -1 for positions that stay as they are.
        makers: the layers and raw parameters whose own width is such a place.
        owners: layers with a weight for each position, that let the axis through.
        readers: (layer, place that it multiplies its weights with).
        mixers: nodes whose result depends on all channels at once (normalisations, reductions).
    """

    size: int
    channels: dict[Place, tuple[int, ...]] = field(default_factory=dict)
    makers: dict[str, Place] = field(default_factory=dict)
    owners: dict[str, Place] = field(default_factory=dict)
    readers: dict[str, Place] = field(default_factory=dict)
    mixers: dict[str, None] = field(default_factory=dict)


def couple(graph: Graph, name: str) -> Coupling:
    """What is coupled to the width of the layer ``name``.

    Raises:
        GraphError: it has no width of its own; it is coupled to an input or output of the model,
            to channels of its own in another order, or through an operation that is not known.
    """
    record = graph.settled(name)
    axis = width_axis(record)
    if axis is None or not makes_axis(record, Axis(0, axis)):
        raise GraphError(
            f"{name!r} ({record.op}) has no width of its own",
            where=f"node {name!r}",
            fix="name a convolution (not a depthwise one), a Linear or an Embedding",
        )
    start = Place(name, 0, axis)
    size = record.types[0].shape[axis]
    return _Walk(graph, Coupling(size)).run(start, tuple(range(size)))


class _Walk:
    """Spreads the numbers of channels from place to place, forwards and backwards."""

    def __init__(self, graph: Graph, coupling: Coupling) -> None:
        self._graph = graph
        self._coupling = coupling
        self._outputs = set(graph.output_refs())
        self._todo: list[Place] = []

    def run(self, start: Place, channels: tuple[int, ...]) -> Coupling:
        self._put(start, channels, start.node)
        while self._todo:
            place = self._todo.pop()
            self._note(place.node)
            self._back(place)
            self._on(place)
        return self._coupling

    def _put(self, place: Place, channels: Sequence[int], by: str) -> None:
        held = self._coupling.channels.get(place)
        if held is None:
            held = (-1,) * len(channels)
        merged = []
        for old, new in zip(held, channels, strict=True):
            if old != new and old >= 0 and new >= 0:
                raise GraphError(
                    f"channels {min(old, new)} and {max(old, new)} meet in {place.node!r}: one "
                    "cannot change without the other",
                    where=f"node {by!r}",
                    fix="change the width of a layer that is used in one order only",
                )
            merged.append(max(old, new))
        if tuple(merged) != held:
            self._coupling.channels[place] = tuple(merged)
            self._todo.append(place)

    def _back(self, place: Place) -> None:
        """To what makes the axis."""
        graph, (name, result, axis) = self._graph, place
        record = graph.record(name)
        at = Axis(result, axis)
        if record.op == "input":
            raise self._stuck(place, "is an input of the model", "leave its width alone")
        if makes_axis(record, at):
            self._coupling.makers[name] = place
            return
        types = graph.input_types(record)
        found = links_back(record, types, at, graph.context.batch) if types else None
        if not found:
            raise self._stuck(
                place,
                f"is made by {record.op}, of which it is not known where its channels come from",
                "change the width of a layer whose result is not used there",
            )
        if owns_axis(record):
            self._coupling.owners[name] = place
        if record.op in MIXING:
            self._coupling.mixers[name] = None
        for number in dict.fromkeys(link.input.index for link in found):
            self._put_back(place, [link for link in found if link.input.index == number])

    def _put_back(self, place: Place, ways: list[Link]) -> None:
        """To the axis of one input; of several that were merged, the one that has the channels."""
        record = self._graph.record(place.node)
        for link in ways:
            ref = record.inputs[link.input.index]
            size = self._graph.record(ref.node).types[ref.index].shape[link.input.axis]
            channels = _gathered(self._coupling.channels[place], link.source, size)
            if channels is None:
                continue
            if any(c >= 0 for c in channels):
                made = Place(ref.node, ref.index, link.input.axis)
                self._put(made, channels, place.node)
            return
        raise self._stuck(
            place, "takes several channels of this width from one", "leave its width alone"
        )

    def _on(self, place: Place) -> None:
        """To what reads the axis."""
        graph, ref = self._graph, Ref(place.node, place.result)
        if ref in self._outputs:
            raise self._stuck(place, "is returned by the model", "leave its width alone")
        for user in graph.users_of(place.node):
            self._note(user)
            record = graph.record(user)
            for i, read in enumerate(record.inputs):
                if read == ref:
                    self._through(place, user, Axis(i, place.axis))

    def _through(self, place: Place, user: str, at: Axis) -> None:
        graph = self._graph
        record, channels = graph.record(user), self._coupling.channels[place]
        types = graph.input_types(record)
        if reads_axis(record, types, at):
            self._coupling.readers[user] = place
            return
        found = links(record, types, at, graph.context.batch)
        if found is None:
            raise self._stuck(
                place,
                f"is read by {user!r} ({record.op}), of which it is not known where its channels "
                "go",
                "change the width of a layer whose result is not used there",
            )
        if not found:
            self._coupling.mixers[user] = None
        for link in found:
            moved = [channels[s] if s >= 0 else -1 for s in link.source]
            if any(c >= 0 for c in moved):
                made = Place(user, link.result.index, link.result.axis)
                self._put(made, moved, user)

    def _stuck(self, place: Place, why: str, fix: str) -> GraphError:
        return GraphError(
            f"the width cannot change: {place.node!r}, which is coupled to it, {why}",
            where=f"node {place.node!r}, axis {place.axis}",
            fix=fix,
        )

    def _note(self, name: str) -> None:
        for facet in ("op", "attrs", "types", "arity", "users"):
            self._graph.reads.note(facet, name)


def _gathered(channels: Sequence[int], source: Sequence[int], size: int) -> list[int] | None:
    """The channels of an input's positions; ``None`` where one would be of several channels."""
    made = [-1] * size
    of: dict[int, int] = {}
    for channel, position in zip(channels, source, strict=True):
        if position >= 0 and of.setdefault(position, channel) != channel:
            return None
        if position >= 0:
            made[position] = channel
    return made
