"""`parse`: from any ``nn.Module`` to a graph.

The model's forward runs on tensors without storage, in a copy, and each torch call becomes a node
(`tracing`). Runs at other batch sizes and in the other mode tell which arguments follow those. What
cannot be lowered makes the smallest submodule that holds it one opaque node.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeGuard

from torch import nn

from retiarii.errors import ParseError
from retiarii.ir.context import FixedSize
from retiarii.ir.graph import Graph
from retiarii.ir.tracing.assemble import assemble
from retiarii.ir.tracing.bound import bound_sizes
from retiarii.ir.tracing.events import Trace
from retiarii.ir.tracing.general import Generaliser
from retiarii.ir.tracing.isolate import undisturbed
from retiarii.ir.tracing.memory import Memory
from retiarii.ir.tracing.session import Session
from retiarii.ir.tracing.signals import Unlowerable

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
        batch size, and at other sizes of the inputs where the module's Python does not act on
        them: else what is built of the graph refuses those. ``graph.opaque`` lists what could
        not be lowered, with the reason.

    Raises:
        ParseError: the module does not run on its example inputs.
    """
    return parse_with(Memory(), module, example_inputs)


def parse_with(
    memory: Memory, module: nn.Module | ExportedProgram, example_inputs: Any = None
) -> Graph:
    """`parse`, with what parses of similar models found out; the graph is the same without it."""
    program = module if _is_program(module) else None
    if program is not None:
        from retiarii.ir.tracing.exported import example_of, fixed_by, opened, sizes_of

        example_inputs = example_of(program) if example_inputs is None else example_inputs
        module = opened(program)
    if not isinstance(module, nn.Module):
        raise ParseError(
            f"a {type(module).__name__} cannot be parsed",
            where="parse(module, example_inputs)",
            fix="give an instance of torch.nn.Module",
        )
    with undisturbed(module) as original:
        session = Session(module, example_inputs, original, memory)
        fixed, sizes = frozenset[str](), tuple[FixedSize, ...]()
        if program is not None:
            fixed = fixed_by(program, session.inputs.batch)
            sizes = sizes_of(program, session.inputs)
        try:
            trace = _stable(session, fixed)
        finally:
            session.close()
        if program is not None:
            trace = replace(trace, bound=sizes)
        types = memory.types(session.inputs.batch)
        return assemble(
            trace, session.inputs, session.state, session.sources(), module.training, types
        )


def _is_program(module: Any) -> TypeGuard[ExportedProgram]:
    # Who has such a program has imported torch.export, which is slow.
    export = sys.modules.get("torch.export")
    return export is not None and isinstance(module, export.ExportedProgram)


def _stable(session: Session, fixed: frozenset[str]) -> Trace:
    """A trace for every batch size and both modes, with ever more submodules opaque.

    Args:
        session: makes traces.
        fixed: what is known to be one in advance.
    """
    while True:
        try:
            first = session.first()
            if "" in session.opaque or "batch" in fixed:
                return replace(first, fixed=fixed, bound=bound_sizes(session, [first]))
            general = Generaliser(session, first).general()
            return replace(general, fixed=general.fixed | fixed)
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
