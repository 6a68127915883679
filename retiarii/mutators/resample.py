"""Giving a layer other channels: some of its own, some of them twice. Growth and pruning do this.

Each channel of the layer is kept, dropped or repeated, in order, everywhere in its coupling
(`retiarii.ir.edit.coupling`): attributes and, where the graph keeps weights, weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from retiarii.errors import GraphError
from retiarii.ir.edit.coupling import Coupling, Place
from retiarii.ir.edit.widths import is_depthwise, width_name
from retiarii.ir.graph import Graph
from retiarii.ir.infer import module_state
from retiarii.ir.node import NodeRecord
from retiarii.ir.ops import op_spec
from retiarii.ir.transfer import Take, Transfer
from retiarii.ir.types import TensorType
from retiarii.mutators.sizes import new_sizes
from retiarii.mutators.slicing import Layout, Slicing


@dataclass(frozen=True, slots=True)
class Shares:
    """How often each channel is there afterwards, and what part of its readers' weights each has.

    Attributes:
        of: for each unit of channels the shares of its copies, which sum to 1; none where it is
            dropped.
    """

    of: tuple[tuple[float, ...], ...]

    def layout(self, channels: Sequence[int]) -> Layout:
        """The positions of an axis with these channels; neighbours of one channel move together."""
        source: list[int] = []
        share: list[float] = []
        copies: list[tuple[int, int]] = []
        for channel, run in groupby(range(len(channels)), key=channels.__getitem__):
            block = list(run)
            for number, part in enumerate((1.0,) if channel < 0 else self.of[channel]):
                source += block
                share += [part] * len(block)
                copies += [(channel, number)] * len(block)
        return Layout(tuple(source), tuple(share), tuple(copies))


def resample(graph: Graph, coupling: Coupling, shares: Shares) -> None:
    """Changes the channels of all that is coupled, and the weights that the graph keeps.

    Raises:
        GraphError: a grouped layer would have groups of different sizes; a weight would have to be
            two things at once.
    """
    layouts = {place: shares.layout(of) for place, of in coupling.channels.items()}
    before = {name: graph.settled(name) for name in _with_weights(coupling)}
    for name, place in coupling.readers.items():
        _check_groups(before[name], layouts[place], "in_channels")
    for name, place in coupling.makers.items():
        _check_groups(before[name], layouts[place], "out_channels")
    for name, place in coupling.owners.items():
        _check_groups(before[name], layouts[place], "num_channels")
    transfer = _transfer(graph, coupling, layouts, before)
    sizes = {place: len(layout.source) for place, layout in layouts.items()}
    literal = new_sizes(graph, coupling, sizes)
    with graph.edits():
        # Nothing may settle in between: what is half changed would let others follow it.
        for name, attrs in literal.items():
            _set(graph, name, attrs)
            graph.transaction.keep_attrs(name)
        for name, place in coupling.makers.items():
            _set_width(graph, name, place, sizes[place])
        put_transfer(graph, transfer)
        graph.settle()
        graph.transaction.release_attrs(literal)
        _check_shapes(graph, before)
        _check_places(graph, layouts)


def _transfer(
    graph: Graph,
    coupling: Coupling,
    layouts: Mapping[Place, Layout],
    before: Mapping[str, NodeRecord],
) -> Transfer:
    shapes: dict[str, tuple[int, ...]] = {}
    made: dict[str, tuple[str, tuple[Take, ...]]] = {}
    for name, record in before.items():
        slicing = Slicing(graph, record, coupling, layouts)
        _check_raw(graph, coupling, record)
        for key, takes in slicing.takes().items():
            if made.setdefault(key, (key, takes)) != (key, takes):
                raise GraphError(
                    f"{key!r} is used in several places, which would need different weights",
                    where=f"node {name!r}",
                    fix="give each call its own layer",
                )
            shapes[key] = slicing.shapes[key]
    _check_ties(graph, made)
    return Transfer(shapes, made)


def _check_raw(graph: Graph, coupling: Coupling, record: NodeRecord) -> None:
    """A layer's own parameter that is used directly as well must be coupled too."""
    for key in module_state(record.op, record.attrs, graph.context.types):
        name = f"{record.path}.{key}"
        held = name in graph and graph.record(name).op in ("parameter", "buffer")
        if held and graph.is_used(name) and name not in coupling.makers:
            raise GraphError(
                f"{name!r} is used outside of its layer too, where it would not fit",
                where=f"node {name!r}",
                fix="leave the width of that layer alone",
            )


def _check_ties(graph: Graph, made: Mapping[str, tuple[str, tuple[Take, ...]]]) -> None:
    """Tied weights stay tied where their shapes stay equal: they must be the same then."""
    for alias, first in graph.context.ties.items():
        if alias in made and first in made and made[alias][1] != made[first][1]:
            raise GraphError(
                f"{alias!r} and {first!r} are one weight, of which different parts would be left",
                where=f"weights {alias!r}",
                fix="change the width of a layer whose weights are its own",
            )


def group_count(record: NodeRecord) -> int:
    """The groups that a layer works in, each on channels of its own; 1 for depthwise ones."""
    rule = op_spec(record.op).resize
    if rule == "group_norm":
        return int(record.attrs["num_groups"])
    return int(record.attrs["groups"]) if rule == "conv" and not is_depthwise(record) else 1


def put_transfer(graph: Graph, transfer: Transfer) -> None:
    """Lets the graph (and its later copies) keep other initial weights, within an edit."""
    context = graph.context
    graph.put_context(
        dataclasses.replace(
            context,
            weights={**transfer.applied(context.weights), **transfer.given},
            transfers=(*context.transfers, transfer),
        )
    )


def _with_weights(coupling: Coupling) -> dict[str, None]:
    return dict.fromkeys([*coupling.makers, *coupling.owners, *coupling.readers])


# --- attributes -----------------------------------------------------------------------------------


def _set(graph: Graph, name: str, changes: Mapping[str, Any]) -> None:
    attrs = graph.record(name).attrs.merged(changes)
    graph.reads.note("attrs", name)
    for twin in (name, *graph.twins_of(graph.record(name))):
        record = graph.record(twin)
        graph.transaction.remember_inputs(record)
        graph.put(record.with_(attrs=attrs))
        graph.transaction.touch(twin, attrs=True)


def _set_width(graph: Graph, name: str, place: Place, size: int) -> None:
    record = graph.record(name)
    width = width_name(record)
    if width is not None:
        directions = 2 if record.attrs.get("bidirectional") else 1
        _set(graph, name, {width: size // directions})
        return
    (kind,) = record.types
    shape = (*kind.shape[: place.axis], size, *kind.shape[place.axis + 1 :])
    graph.transaction.put_parameter(record, TensorType(shape, kind.dtype))


def _check_groups(record: NodeRecord, layout: Layout, width: str) -> None:
    groups = group_count(record)
    if groups == 1:
        return
    old = record.attrs[width] // groups
    new, rest = divmod(len(layout.source), groups)
    of_groups = [p // old for p in layout.source]
    if rest or of_groups != [i // new for i in range(len(of_groups))] or not new:
        counts = [of_groups.count(g) for g in range(groups)]
        raise GraphError(
            f"{record.name!r} has {groups} groups, which would have {counts} channels",
            where=f"node {record.name!r}",
            fix="keep the same number of channels in each group",
        )


# --- checks ---------------------------------------------------------------------------------------


def _check_shapes(graph: Graph, before: Mapping[str, NodeRecord]) -> None:
    """Weights and attributes were worked out apart; they must agree."""
    transfer = graph.context.transfers[-1]
    for name, record in before.items():
        if record.op in ("parameter", "buffer") or record.path is None:
            continue
        state = module_state(record.op, graph.record(name).attrs, graph.context.types)
        for key, spec in state.items():
            path = f"{record.path}.{key}"
            if path not in transfer.made:
                continue
            shape = list(transfer.shapes[path])
            for take in transfer.made[path][1]:
                shape[take.axis] = len(take.source) // take.groups
            if tuple(shape) != spec.type.shape:
                raise GraphError(
                    f"the weights of {name!r} would be {tuple(shape)} and its shape "
                    f"{spec.type.shape}",
                    where=f"node {name!r}",
                    fix="change a width that is used in fewer places",
                )


def _check_places(graph: Graph, layouts: Mapping[Place, Layout]) -> None:
    """Sizes that were inferred are those that the channels were counted for."""
    for place, layout in layouts.items():
        size = graph.record(place.node).types[place.result].shape[place.axis]
        if size != len(layout.source):
            raise GraphError(
                f"{place.node!r} would have {len(layout.source)} positions along axis "
                f"{place.axis}, and has {size}",
                where=f"node {place.node!r}",
                fix="change a width that no literal size in the code stands for",
            )
