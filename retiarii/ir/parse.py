"""`parse`: from any ``nn.Module`` to a graph.

The model's forward runs on tensors without storage, in a copy, and each torch call becomes a node
(`tracing`). Runs at other batch sizes and in the other mode tell which arguments follow those. What
cannot be lowered makes the smallest submodule that holds it one opaque node.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

from torch import nn

from retiarii.errors import ParseError
from retiarii.ir.graph import Graph
from retiarii.ir.tracing.assemble import assemble
from retiarii.ir.tracing.by_mode import merge_modes
from retiarii.ir.tracing.events import Trace
from retiarii.ir.tracing.isolate import undisturbed
from retiarii.ir.tracing.session import Session
from retiarii.ir.tracing.signals import Broken, NeedsRealTypes, Unlowerable
from retiarii.ir.tracing.unify import (
    DivergedError,
    Solve,
    solve_batch,
    solve_both,
    solve_nothing,
    unify,
)

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def parse(module: nn.Module | ExportedProgram, example_inputs: Any = None) -> Graph:
    """Lowers a module, or a program of ``torch.export``, to a graph.

    The module is left as it is: parameters, buffers, attributes, mode and random states. Its
    forward is run on the example's shapes; numbers are computed only where a submodule's results
    cannot be known otherwise, then once.

    Args:
        module: any module that runs. A program keeps its ``state_dict`` keys.
        example_inputs: a tensor, a tuple of positional arguments, or a dict of arguments by name;
            arguments may be nested in lists, tuples, dicts, named tuples and dataclasses. The
            first dimension of the first tensor that has one is taken as the batch. ``None``: those
            that the program was exported with.

    Returns:
        The graph. It computes what the module does, in training and evaluation mode, at every
        batch size; ``graph.opaque`` lists what could not be lowered, with the reason.

    Raises:
        ParseError: the module does not run on its example inputs.
    """
    if _is_program(module):
        from retiarii.ir.tracing.exported import example_of, opened

        example_inputs = example_of(module) if example_inputs is None else example_inputs
        module = opened(module)
    if not isinstance(module, nn.Module):
        raise ParseError(
            f"a {type(module).__name__} cannot be parsed",
            where="parse(module, example_inputs)",
            fix="give an instance of torch.nn.Module",
        )
    with undisturbed(module) as original:
        session = Session(module, example_inputs, original)
        trace = _stable(session)
        return assemble(trace, session.inputs, session.state, session.sources(), module.training)


def _is_program(module: Any) -> TypeGuard[ExportedProgram]:
    # Who has such a program has imported torch.export, which is slow.
    export = sys.modules.get("torch.export")
    return export is not None and isinstance(module, export.ExportedProgram)


def _stable(session: Session) -> Trace:
    """A trace for every batch size and both modes, with ever more submodules opaque."""
    while True:
        try:
            first = session.first()
            return first if "" in session.opaque else _generalise(session, first)
        except Unlowerable as signal:
            if signal.reads and not session.compiling:
                session.compiling = True
                continue
            path = signal.path or ""
            while path in session.opaque and path:
                # It is opaque already and does not do: what holds it must be.
                path = path.rpartition(".")[0]
            if path in session.opaque:
                raise ParseError(
                    f"the model cannot be parsed: it {signal.reason}",
                    where=signal.where or type(session.model).__name__,
                    fix="return tensors, or structures of them, from forward",
                ) from None
            session.opaque[path] = signal


def _generalise(session: Session, first: Trace) -> Trace:
    """Compares the trace with others, at other batch sizes and in the other mode.

    Raises:
        Unlowerable: a submodule depends on either in a way that no node stands for.
    """
    for batch in _other_batches(session):
        both = _attempt(session, batch, not first.training)
        if both is None:
            continue
        try:
            return unify(first, both, solve_nothing)
        except DivergedError:
            pass
        try:
            told = _confirmed(session, unify(first, both, solve_both(first, both)), batch)
        except DivergedError:
            told = None
        return _step_by_step(session, first, both) if told is None else told
    return _step_by_step(session, first)


def _step_by_step(session: Session, first: Trace, both: Trace | None = None) -> Trace:
    """Compares with one trace after the other that differs in one thing only.

    Args:
        both: a trace that differs in both, if there is one already.
    """
    # Once more: what the model's functions keep (an `lru_cache`) is there by now.
    again = _attempt(session, first.batch, first.training) or first
    general = _in_both_modes(session, again)
    for batch in _other_batches(session):
        made = _attempt(session, batch, first.training)
        if made is not None:
            made = _in_both_modes(session, made, both)
            solve = solve_batch(first.batch, batch)
            told = _unified(general, made, solve)
            return _confirmed(session, told, batch, merged=True) or told
    return general


def _in_both_modes(session: Session, trace: Trace, known: Trace | None = None) -> Trace:
    """The trace, with what the model does in the other mode at the same batch size.

    Args:
        known: a trace in the other mode, perhaps at that batch size.
    """
    other = known
    if known is None or known.batch != trace.batch:
        other = _attempt(session, trace.batch, not trace.training)
    if other is None:
        return trace
    try:
        return unify(trace, other, solve_nothing)
    except DivergedError:
        return merge_modes(trace, other)


def _confirmed(session: Session, trace: Trace, seen: int, *, merged: bool = False) -> Trace | None:
    """Checks what two batch sizes told against a third one; ``None`` if the model runs at none.

    Args:
        trace: what they told.
        seen: the second of them.
        merged: whether it holds what single traces of both modes do.

    Raises:
        DivergedError, Unlowerable: it does not hold.
    """
    for batch in (3 * seen + 1, 4 * seen):
        made = _attempt(session, batch, trace.training)
        if made is None:
            continue
        solve = solve_batch(trace.batch, batch)
        if not merged:
            return unify(trace, made, solve_nothing)
        return _unified(trace, _in_both_modes(session, made), solve)
    return None


def _other_batches(session: Session) -> tuple[int, ...]:
    """Batch sizes to try, until the model runs at one."""
    batch = session.inputs.batch
    return (4 * batch, 2 * batch, batch + 1) if session.inputs.has_batch else ()


def _attempt(session: Session, batch: int, training: bool) -> Trace | None:
    """A trace elsewhere; ``None`` if the model does not run there.

    Raises:
        Unlowerable: something that no node stands for happens there.
    """
    try:
        try:
            return session.trace(batch, training)
        except NeedsRealTypes:
            session.run_for_real()
            return session.trace(batch, training)
    except (Broken, NeedsRealTypes):
        return None
    except Unlowerable as signal:
        if signal.failed:
            return None
        raise


def _unified(one: Trace, two: Trace, solve: Solve) -> Trace:
    try:
        return unify(one, two, solve)
    except DivergedError as error:
        raise Unlowerable(
            f"depends on the batch size: {error.detail}", error.where, error.path
        ) from None
