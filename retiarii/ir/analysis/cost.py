"""What a graph costs, read off the op table: nothing is built, allocated or run.

FLOPs are counted as ``torch.utils.flop_counter`` counts them: two for each multiply-accumulate of
a product, a convolution or attention, none for elementwise work, pooling and normalisation.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from retiarii.errors import GraphError
from retiarii.ir.infer import TypeCache, infer, module_state
from retiarii.ir.ops import op_spec, split_call
from retiarii.ir.types import BatchSize, InputDevice, Ref, TensorType, Training, map_leaves

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph
    from retiarii.ir.node import NodeRecord

Types = tuple[TensorType, ...]

_HOLDERS: Final = frozenset({"input", "parameter", "buffer", "constant"})
# They hand on the memory of their input (reshape and contiguous do for inputs in order).
VIEWS: Final = frozenset(
    {
        "broadcast_tensors",
        "broadcast_to",
        "chunk",
        "contiguous",
        "detach",
        "diagonal",
        "expand",
        "expand_as",
        "flatten",
        "movedim",
        "narrow",
        "permute",
        "ravel",
        "reshape",
        "reshape_as",
        "select",
        "split",
        "squeeze",
        "t",
        "tensor_split",
        "transpose",
        "unbind",
        "unflatten",
        "unfold_dim",
        "unsqueeze",
        "view",
        "view_as",
        "Flatten",
        "Identity",
        "Unflatten",
    }
)


@dataclass(frozen=True, slots=True)
class NodeCost:
    """One node's part of a `Cost`.

    Attributes:
        name: of the node.
        op: its row of the op table.
        params: numbers of elements of parameters; those of a module that is called twice, or of
            tied parameters, are with the first node that has them.
        flops: of one forward pass, for the whole batch.
        activations: bytes of the tensors that it makes; none for views and in-place layers.
        size: bytes of its parameters and of the buffers that are in the ``state_dict``.
        seconds: measured alone, forward only; ``None`` where nothing was measured.
    """

    name: str
    op: str
    params: int
    flops: int
    activations: int
    size: int
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a graph costs; see `NodeCost` for the units.

    Attributes:
        params: numbers of elements of all parameters, each counted once.
        flops: of one forward pass of ``batch`` samples.
        activations: bytes of all that one forward pass makes: what training keeps, at most.
        size: bytes of parameters and buffers.
        nodes: the table, a row for each node, in topological order; it adds up to the totals.
        batch: the batch size that FLOPs, activations and latency are for.
        latency: seconds of one forward pass, where it was measured.
        uncounted: opaque nodes whose inside could not be counted; their FLOPs are taken as none
            (and their parameters too, in a graph that was read from text).
    """

    params: int
    flops: int
    activations: int
    size: int
    nodes: tuple[NodeCost, ...]
    batch: int
    latency: float | None = None
    uncounted: tuple[str, ...] = ()

    def node(self, name: str) -> NodeCost:
        """The row of one node.

        Raises:
            GraphError: there is none.
        """
        for row in self.nodes:
            if row.name == name:
                return row
        raise GraphError(f"no node is called {name!r}", fix="see graph.nodes")

    def part(self, names: Iterable[str]) -> Cost:
        """What these nodes cost; parameters shared with others are where they come first."""
        wanted = set(names)
        rows = tuple(row for row in self.nodes if row.name in wanted)
        uncounted = tuple(name for name in self.uncounted if name in wanted)
        return total(rows, self.batch, uncounted=uncounted)


def total(
    rows: tuple[NodeCost, ...],
    batch: int,
    latency: float | None = None,
    uncounted: tuple[str, ...] = (),
) -> Cost:
    """The cost that rows add up to; latency does not, since launches overlap."""
    return Cost(
        sum(r.params for r in rows),
        sum(r.flops for r in rows),
        sum(r.activations for r in rows),
        sum(r.size for r in rows),
        rows,
        batch,
        latency,
        uncounted,
    )


def cost(graph: Graph, batch: int | None = None) -> Cost:
    """Counts a graph.

    Args:
        graph: one that verifies.
        batch: for another batch size than the example's.

    Raises:
        GraphError: ``batch`` is not positive.
        ShapeError: the graph does not take inputs of this batch size.
    """
    wanted = graph.context.batch if batch is None else batch
    if wanted < 1:
        raise GraphError(f"a batch of {wanted} samples costs nothing", fix="give batch=1 or more")
    types = types_at(graph, wanted)
    cache = graph.context.types.at(wanted)
    rows: list[NodeCost] = []
    uncounted: list[str] = []
    counted: set[str] = set()
    for record in graph.records():
        reads = tuple([types[ref.node][ref.index] for ref in record.inputs])
        flops = _flops(graph, record, reads, types[record.name], cache)
        if flops is None:
            uncounted.append(record.name)
        params = size = 0
        for key, kind, is_parameter in _held(graph, record):
            key = graph.context.ties.get(key, key)
            if key not in counted:
                counted.add(key)
                number = prod(kind.shape)
                params += number * is_parameter
                size += number * kind.dtype.itemsize
        made = _activations(record, types[record.name])
        rows.append(NodeCost(record.name, record.op, params, flops or 0, made, size))
    return total(tuple(rows), wanted, uncounted=tuple(uncounted))


# --- types at another batch size -------------------------------------------------------------


def types_at(graph: Graph, batch: int) -> Mapping[str, Types]:
    """The types of each node's results at a batch size.

    Leading dimensions of inputs and of opaque results that are the example's batch follow it.

    Raises:
        ShapeError: the graph does not take inputs of this batch size.
    """
    was = graph.context.batch
    if batch == was:
        return {record.name: record.types for record in graph.records()}
    cache = graph.context.types.at(batch)
    types: dict[str, Types] = {}
    for record in graph.records():
        if record.op in ("input", "opaque"):
            types[record.name] = tuple(_at_batch(kind, was, batch) for kind in record.types)
        elif record.op in _HOLDERS:
            types[record.name] = record.types
        else:
            reads = tuple([types[ref.node][ref.index] for ref in record.inputs])
            types[record.name] = infer(record.op, record.attrs, reads, cache)[0]
    return types


def _at_batch(kind: TensorType, was: int, batch: int) -> TensorType:
    if not kind.shape or kind.shape[0] != was:
        return kind
    return TensorType((batch, *kind.shape[1:]), kind.dtype)


# --- the parts of a row ------------------------------------------------------------------------


def _activations(record: NodeRecord, types: Types) -> int:
    if record.op in _HOLDERS or record.op in VIEWS or record.attrs.get("inplace") is True:
        return 0
    if record.op == "getitem" and _is_view(record.attrs.get("index")):
        return 0
    return sum(prod(kind.shape) * kind.dtype.itemsize for kind in types)


def _is_view(index: Any) -> bool:
    """Whether indexing copies nothing: numbers, slices, ``None`` and ``...`` alone."""
    parts = index if type(index) is tuple else (index,)
    basic = int | slice | BatchSize | type(None) | type(...)
    return all(isinstance(part, basic) and not isinstance(part, bool) for part in parts)


def _held(graph: Graph, record: NodeRecord) -> Iterator[tuple[str, TensorType, bool]]:
    """(state_dict key, type, whether it is a parameter) of what a node holds."""
    path = record.path
    if path is None:
        return
    if record.op == "opaque":
        module = graph.context.opaque.get(path)
        if module is None:  # read from text: nothing is known of its inside
            return
        trained = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        for name, tensor in module.state_dict(keep_vars=True).items():
            if isinstance(tensor, torch.Tensor):
                yield f"{path}.{name}", TensorType.of(tensor), name in trained
    elif record.op in _HOLDERS:
        if record.op == "parameter" or record.attrs.get("persistent", True):
            yield path, record.types[0], record.op == "parameter"
    else:
        for name, state in module_state(record.op, record.attrs, graph.context.types).items():
            if state.persistent:
                yield f"{path}.{name}", state.type, state.kind == "parameter"


def _flops(
    graph: Graph, record: NodeRecord, reads: Types, makes: Types, cache: TypeCache
) -> int | None:
    if record.op in _HOLDERS:
        return 0
    if record.op == "opaque":
        held = ("flops", record.path, record.attrs, reads, cache.batch)
        notes = graph.context.notes  # what stands at its path is this graph's own
        if held not in notes:
            notes[held] = _count_opaque(graph, record, reads, cache.batch)
        found: int | None = notes[held]
        return found
    spec = op_spec(record.op)
    if spec.flops is not None:
        return spec.flops(record.attrs, reads, makes)
    if not spec.generic:
        return 0
    key = ("flops", record.op, record.attrs, reads)
    if key not in cache.notes:
        with FlopCounterMode(display=False) as counter:
            infer(record.op, record.attrs, reads, TypeCache(cache.batch))
        cache.notes[key] = counter.get_total_flops()
    counted: int = cache.notes[key]
    return counted


def _count_opaque(graph: Graph, record: NodeRecord, reads: Types, batch: int) -> int | None:
    """What a copy of the submodule, without storage, does on inputs without storage."""
    module = graph.context.opaque.get(record.path or "")
    if module is None:
        return None

    def concrete(value: Any) -> Any:
        if isinstance(value, Ref):
            return reads[record.inputs.index(value)].meta()
        if isinstance(value, BatchSize):
            return value.at(batch)
        if isinstance(value, Training):
            return value.inverted
        return torch.device("meta") if isinstance(value, InputDevice) else value

    positional, named = split_call(record)
    named.pop("reason", None)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            twin = copy.deepcopy(module).to("meta").eval()
            args = [map_leaves(concrete, value) for value in positional]
            kwargs = {name: map_leaves(concrete, value) for name, value in named.items()}
            with FlopCounterMode(display=False) as counter:
                twin(*args, **kwargs)
    except Exception:  # any code of the user's, and it may need values: said in `uncounted`
        return None
    return int(counter.get_total_flops())
