"""Sizes of inputs on which a model's Python acted: the trace holds for them, and for no others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from retiarii.ir.context import FixedSize
from retiarii.ir.node import NodeRecord
from retiarii.ir.reach import COUNTED, Reach
from retiarii.ir.tracing.events import Trace
from retiarii.ir.tracing.session import Session
from retiarii.ir.tracing.signals import Broken, NeedsRealTypes, Unlowerable
from retiarii.ir.tracing.unify import DivergedError, solve_nothing, unify

# A dimension of an input: (number of the input, dimension) -> ``file:line`` where it was read.
_Found = dict[tuple[int, int], str | None]
# Sizes to try are multiples of the example's (so that what must divide them does), and beyond this:
# a size that follows them through some strides is another one then.
_BEYOND = 64


def bound_sizes(session: Session, traces: Iterable[Trace]) -> tuple[FixedSize, ...]:
    """The sizes that traces hold for alone.

    Args:
        session: makes further traces.
        traces: one of each mode in which the model runs, as they were made.
    """
    used: _Found = {}
    for trace in traces:
        held: _Found = {}
        here = _acted_on(trace, session, held)
        for at, where in here.items():
            used.setdefault(at, where)
        for at, where in held.items():
            # Python held the size, and nothing says that it looked: a loop over it would not.
            if at not in used and not _is_free(session, trace, at):
                used[at] = where
    return tuple(FixedSize(*at, where) for at, where in sorted(used.items()))


def _acted_on(trace: Trace, session: Session, held: _Found) -> _Found:
    """What Python acted on; ``held`` gets what it merely held."""
    log = trace.sizes
    nodes = [event for event in trace.events if isinstance(event, NodeRecord)]
    if log is None or not (log.notes or any(node.op in COUNTED for node in nodes)):
        return {}
    inputs = session.inputs
    starts = [
        (record, frozenset(range(tensor.dim())) - {inputs.batch_dim(tensor)})
        for record, tensor in zip(trace.inputs, inputs.tensors(), strict=True)
    ]
    records = {r.name: r for r in (*trace.sources.values(), *nodes)}
    held_by_model = session.sources().record_of
    reach = Reach(starts, lambda name: records.get(name) or held_by_model(name))
    used: _Found = {}
    acted = log.used
    for (ref, dim), where in log.read.items():
        found = used if (ref, dim) in acted else held
        for at in reach.of(ref, dim):
            found.setdefault(at, where)
    for node, dim in _counted(nodes):
        for at in reach.of(node.inputs[0], dim):
            used.setdefault(at, node.where)
    return used


def _counted(nodes: Iterable[NodeRecord]) -> Iterator[tuple[NodeRecord, int]]:
    """Calls that return as many tensors as a size says, and its dimension."""
    for node in nodes:
        sections = node.attrs.get("split_size_or_sections")
        if node.op in COUNTED and not isinstance(sections, tuple):
            yield node, node.attrs.get("dim", 0)


def _is_free(session: Session, trace: Trace, at: tuple[int, int]) -> bool:
    """Whether the model does the same at another size."""
    inputs = session.inputs
    size = inputs.tensors()[at[0]].shape[at[1]]
    session.inputs = replace(inputs, other={at: size * max(2, -(-_BEYOND // max(size, 1)))})
    try:
        unify(trace, session.trace(trace.batch, trace.training), solve_nothing)
    except (DivergedError, Broken, NeedsRealTypes, Unlowerable):
        return False
    finally:
        session.inputs = inputs
    return True
