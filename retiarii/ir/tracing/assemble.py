"""From a trace to a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from retiarii.ir.context import GraphContext
from retiarii.ir.graph import Graph
from retiarii.ir.infer import TypeCache
from retiarii.ir.node import NodeRecord
from retiarii.ir.ops import op_spec
from retiarii.ir.tracing.events import Trace, refs_in
from retiarii.ir.tracing.functions import is_random
from retiarii.ir.tracing.inputs import ExampleInputs
from retiarii.ir.tracing.sources import Sources
from retiarii.ir.tracing.state import ModelState
from retiarii.ir.types import Ref, Result, map_leaves


def assemble(
    trace: Trace,
    inputs: ExampleInputs,
    state: ModelState,
    sources: Sources,
    training: bool,
    types: TypeCache,
) -> Graph:
    """The graph of a trace.

    Args:
        trace: one that stands for all batch sizes and both modes.
        inputs: the example inputs.
        state: what the user's model holds.
        sources: makes the nodes of parameters and buffers.
        training: the model's flag.
        types: the memory of inference.
    """
    nodes = _alive([e for e in trace.events if isinstance(e, NodeRecord)], trace)
    read = {ref.node for record in nodes for ref in record.inputs}
    read.update(ref.node for ref in refs_in(trace.outputs))
    used = [key for key in state.tensors if key in read and key not in state.ties]
    held = _held_by_modules(nodes, state)
    idle = [
        key
        for key in state.tensors
        if key not in read and key not in held and key not in state.ties
    ]
    constants = [r for r in trace.sources.values() if r.op == "constant" and r.name in read]
    records = [
        *trace.inputs,
        *map(sources.record_of, used),
        *constants,
        *nodes,
        *map(sources.record_of, idle),
    ]
    outputs: list[Ref] = []

    def leaf(value: Any) -> Any:
        if not isinstance(value, Ref):
            return value
        outputs.append(value)
        return Result(len(outputs) - 1)

    structure = map_leaves(leaf, trace.outputs)
    context = GraphContext(
        forward=inputs.spec,
        batch=inputs.batch,
        batch_input=inputs.batch_input,
        training=training,
        weights=dict(state.tensors),
        ties=dict(state.ties),
        constants={r.attrs["key"]: trace.constants[r.attrs["key"]] for r in constants},
        opaque=_opaque(nodes, state.modules),
        modes=dict(state.modes),
        frozen=state.frozen,
        fixed=trace.fixed,
        sizes=trace.bound,
        types=types,
    )
    return Graph.build(records, outputs, structure, context)


def _alive(nodes: list[NodeRecord], trace: Trace) -> list[NodeRecord]:
    """The nodes that something uses, or that do something besides: layers hold state."""
    wanted = {ref.node for ref in refs_in(trace.outputs)}
    alive: list[NodeRecord] = []
    for record in reversed(nodes):
        if record.name in wanted or _acts(record):
            alive.append(record)
            wanted.update(ref.node for ref in record.inputs)
    alive.reverse()
    return alive


def _acts(record: NodeRecord) -> bool:
    if record.path is not None:
        return True
    spec = op_spec(record.op)
    return spec.random or (spec.generic and is_random(record.op.rpartition(".")[2]))


def _held_by_modules(nodes: list[NodeRecord], state: ModelState) -> set[str]:
    """The keys of the tensors that layers and opaque modules hold."""
    held: set[str] = set()
    for path in {r.path for r in nodes if r.path is not None and r.op != "opaque"}:
        held.update(_keys_in(state.modules[path], f"{path}." if path else ""))
    opaque = {r.path for r in nodes if r.op == "opaque"}
    for key in state.tensors if opaque else ():
        parts = key.split(".")
        if any(".".join(parts[:n]) in opaque for n in range(len(parts))):
            held.add(key)
    return held


def _keys_in(module: nn.Module, prefix: str) -> Iterator[str]:
    for name in (*module._parameters, *module._buffers):
        yield prefix + name
    for name, child in module._modules.items():
        if child is not None:
            yield from _keys_in(child, f"{prefix}{name}.")


def _opaque(nodes: list[NodeRecord], modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    return {r.path: modules[r.path] for r in nodes if r.op == "opaque" and r.path is not None}
