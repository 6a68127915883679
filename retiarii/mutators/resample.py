"""Giving a layer other channels: some of its own, some of them twice. Growth and pruning do this.

Each channel of the layer is kept, dropped or repeated, in order, everywhere in its coupling
(`retiarii.ir.edit.coupling`): attributes and, where the graph keeps weights, weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from retiarii.errors import GraphError
from retiarii.ir.edit.channels import is_depthwise, width_name
from retiarii.ir.edit.coupling import Coupling, Place
from retiarii.ir.graph import Graph
from retiarii.ir.infer import module_state
from retiarii.ir.node import Node, NodeRecord
from retiarii.ir.ops import op_spec
from retiarii.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class Layout:
    """The new positions along an axis.

    Attributes:
        source: the old position of each.
        share: what part of the old position's weight each takes when it is read.
    """

    source: tuple[int, ...]
    share: tuple[float, ...]

    @property
    def plain(self) -> bool:
        return set(self.share) <= {1.0}


@dataclass(frozen=True, slots=True)
class Shares:
    """How often each channel is there afterwards, and what part of its readers' weights each has.

    Attributes:
        of: for each channel the shares of its copies, which sum to 1; none where it is dropped.
    """

    of: tuple[tuple[float, ...], ...]

    def layout(self, channels: Sequence[int]) -> Layout:
        """The positions of an axis with these channels; neighbours of one channel move together."""
        source: list[int] = []
        share: list[float] = []
        for channel, run in groupby(range(len(channels)), key=channels.__getitem__):
            block = list(run)
            for part in (1.0,) if channel < 0 else self.of[channel]:
                source += block
                share += [part] * len(block)
        return Layout(tuple(source), tuple(share))


def resample(graph: Graph, coupling: Coupling, shares: Shares) -> None:
    """Changes the channels of all that is coupled, and the weights that the graph keeps.

    Raises:
        GraphError: a grouped layer would have groups of different sizes.
    """
    layouts = {place: shares.layout(of) for place, of in coupling.channels.items()}
    before = {name: graph.settled(name) for name in _with_weights(coupling)}
    types = {name: graph.input_types(record) for name, record in before.items()}
    for name, place in coupling.readers.items():
        _check_groups(before[name], layouts[place], "in_channels")
    for name, place in coupling.makers.items():
        _check_groups(before[name], layouts[place], "out_channels")
    for name, place in coupling.owners.items():
        _check_groups(before[name], layouts[place], "num_channels")
    weights: dict[str, torch.Tensor] = {}
    for name, record in before.items():
        made = _Slicing(graph, record, coupling, layouts, len(types[name])).weights()
        for key, tensor in made.items():
            other = weights.get(key)
            if other is not None and not torch.equal(other, tensor):
                raise GraphError(
                    f"{key!r} is used in several places, which would need different weights",
                    where=f"node {name!r}",
                    fix="give each call its own layer",
                )
            weights[key] = tensor
    with graph.edits():
        _set_splits(graph, coupling, layouts)
        for name, place in coupling.makers.items():
            _set_width(graph, name, place, len(layouts[place].source))
        put_weights(graph, weights)
        graph.settle()
        _check_shapes(graph, before, weights)


def group_count(record: NodeRecord) -> int:
    """The groups that a layer works in, each on channels of its own; 1 for depthwise ones."""
    rule = op_spec(record.op).resize
    if rule == "group_norm":
        return int(record.attrs["num_groups"])
    return int(record.attrs["groups"]) if rule == "conv" and not is_depthwise(record) else 1


def put_weights(graph: Graph, weights: Mapping[str, torch.Tensor]) -> None:
    """Lets the graph (and its later copies) keep other initial weights, within an edit."""
    context = graph.context
    graph.put_context(dataclasses.replace(context, weights={**context.weights, **weights}))


def _with_weights(coupling: Coupling) -> dict[str, None]:
    return dict.fromkeys([*coupling.makers, *coupling.owners, *coupling.readers])


# --- attributes -----------------------------------------------------------------------------------


def _set_width(graph: Graph, name: str, place: Place, size: int) -> None:
    record = graph.record(name)
    width = width_name(record)
    if width is not None:
        graph.update(Node(graph, name), **{width: size})
        return
    (kind,) = record.types
    shape = (*kind.shape[: place.axis], size, *kind.shape[place.axis + 1 :])
    graph.transaction.put_parameter(record, TensorType(shape, kind.dtype))


def _set_splits(graph: Graph, coupling: Coupling, layouts: Mapping[Place, Layout]) -> None:
    """Pieces of a split have the sizes of what they hold."""
    for name in dict.fromkeys(place.node for place in coupling.channels):
        record = graph.record(name)
        if record.op not in ("split", "chunk"):
            continue
        along = record.attrs.get("dim", 0) % len(record.types[0].shape)
        places = [Place(name, i, along) for i in range(len(record.types))]
        if not any(place in layouts for place in places):
            continue
        sizes = [
            len(layouts[p].source) if p in layouts else record.types[p.result].shape[along]
            for p in places
        ]
        if record.op == "split":
            graph.update(Node(graph, name), split_size_or_sections=tuple(sizes))
        elif len(set(sizes)) > 1:
            raise GraphError(
                f"{name!r} splits its channels evenly, and the pieces would have {sizes}",
                where=f"node {name!r}",
                fix="change each piece by the same number of channels",
            )


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


# --- weights --------------------------------------------------------------------------------------


class _Slicing:
    """The weights of one layer after the change."""

    def __init__(
        self,
        graph: Graph,
        record: NodeRecord,
        coupling: Coupling,
        layouts: Mapping[Place, Layout],
        inputs: int,
    ) -> None:
        self._record = record
        self._weights = graph.context.weights
        self._types = graph.context.types
        self._coupling = coupling
        self._layouts = layouts
        self._has_inputs = inputs > 0

    def weights(self) -> dict[str, torch.Tensor]:
        """state_dict key -> tensor; none for what the graph keeps no weights of."""
        record = self._record
        path = record.path
        if path is None or record.fresh:
            return {}
        name = record.name
        if record.op in ("parameter", "buffer"):
            place = self._coupling.makers[name]
            held = self._weights.get(path)
            if held is None or held.is_meta:
                return {}
            return {path: _taken(held, place.axis, self._layouts[place])}
        made = {
            key: self._weights[f"{path}.{key}"]
            for key in module_state(record.op, record.attrs, self._types)
            if f"{path}.{key}" in self._weights
        }
        if any(tensor.is_meta for tensor in made.values()):
            return {}
        with torch.no_grad():
            if name in self._coupling.readers:
                made = self._read(made, self._layouts[self._coupling.readers[name]])
            if name in self._coupling.makers:
                made = self._made(made, self._layouts[self._coupling.makers[name]])
            if name in self._coupling.owners:
                made = self._owned(made, self._coupling.owners[name])
        return {f"{path}.{key}": tensor for key, tensor in made.items()}

    def _read(self, held: Mapping[str, torch.Tensor], layout: Layout) -> dict[str, torch.Tensor]:
        record = self._record
        made = dict(held)
        transposed = "Transpose" in record.op
        for key, tensor in held.items():
            if op_spec(record.op).resize == "recurrent":
                if key.startswith("weight_ih") and ("_l0" in key or key == "weight_ih"):
                    made[key] = _taken(tensor, 1, layout, shared=True)
            elif key == "weight":
                groups = record.attrs.get("groups", 1)
                if transposed:  # (in, out / groups, ...), group after group
                    made[key] = _taken(tensor, 0, layout, shared=True)
                else:
                    made[key] = _by_group(tensor, groups, layout)
        return made

    def _made(self, held: Mapping[str, torch.Tensor], layout: Layout) -> dict[str, torch.Tensor]:
        record = self._record
        made = dict(held)
        if record.op == "Embedding":
            return {"weight": _taken(held["weight"], 1, layout)} if held else {}
        for key in held.keys() & {"weight", "bias"}:
            if key == "weight" and "Transpose" in record.op:
                groups = record.attrs["groups"]
                made[key] = _by_group(
                    held[key],
                    groups,
                    dataclasses.replace(layout, share=(1.0,) * len(layout.source)),
                )
            else:
                made[key] = _taken(held[key], 0, layout)
        return made

    def _owned(self, held: Mapping[str, torch.Tensor], place: Place) -> dict[str, torch.Tensor]:
        record = self._record
        layout = self._layouts[place]
        axis = 0
        if op_spec(record.op).resize == "normalized_shape":
            rank = len(record.types[0].shape)
            sizes = record.attrs["normalized_shape"]
            axis = place.axis - (rank - len(sizes) if isinstance(sizes, tuple) else rank - 1)
            if axis < 0:
                return dict(held)
        if is_depthwise(record) and "Transpose" in record.op:
            return self._transposed_depthwise(held, layout)
        return {
            key: _taken(tensor, axis, layout) if tensor.dim() > axis else tensor
            for key, tensor in held.items()
        }

    def _transposed_depthwise(
        self, held: Mapping[str, torch.Tensor], layout: Layout
    ) -> dict[str, torch.Tensor]:
        """The weight is (in, out / in, ...); the layout is that of the result."""
        times = self._record.attrs["out_channels"] // self._record.attrs["in_channels"]
        of_input = Layout(tuple(p // times for p in layout.source[::times]), ())
        made = {"weight": _taken(held["weight"], 0, of_input)} if "weight" in held else {}
        if "bias" in held:
            made["bias"] = _taken(held["bias"], 0, layout)
        return made


def _taken(
    tensor: torch.Tensor, axis: int, layout: Layout, *, shared: bool = False
) -> torch.Tensor:
    made = tensor.detach().index_select(axis, _index(layout.source, tensor))
    if not shared or layout.plain:
        return made
    share = torch.tensor(layout.share, dtype=tensor.dtype, device=tensor.device)
    return made * share.view([-1 if i == axis else 1 for i in range(tensor.dim())])


def _by_group(tensor: torch.Tensor, groups: int, layout: Layout) -> torch.Tensor:
    """Takes along the second axis of (groups * rows, columns of the group, ...)."""
    old, new = tensor.shape[1], len(layout.source) // groups
    parts = []
    for group, rows in enumerate(tensor.chunk(groups, 0)):
        at = slice(group * new, (group + 1) * new)
        own = Layout(tuple(p - group * old for p in layout.source[at]), layout.share[at])
        parts.append(_taken(rows, 1, own, shared=True))
    return torch.cat(parts, 0)


def _index(positions: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    # With its device named: mutators run where new tensors are on the meta device.
    return torch.tensor(positions, dtype=torch.long, device=like.device)


def _check_shapes(
    graph: Graph, before: Mapping[str, NodeRecord], weights: Mapping[str, torch.Tensor]
) -> None:
    """Weights and attributes were worked out apart; they must agree."""
    for name, record in before.items():
        if record.op in ("parameter", "buffer") or record.path is None:
            continue
        state = module_state(record.op, graph.record(name).attrs, graph.context.types)
        for key, spec in state.items():
            made = weights.get(f"{record.path}.{key}")
            if made is not None and tuple(made.shape) != spec.type.shape:
                raise GraphError(
                    f"the weights of {name!r} became {tuple(made.shape)} and its shape "
                    f"{spec.type.shape}",
                    where=f"node {name!r}",
                    fix="this is a fault in retiarii",
                )
