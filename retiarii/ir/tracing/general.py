"""From one trace to one that stands for every batch size and both modes: by comparing runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from retiarii.ir.node import NodeRecord
from retiarii.ir.tracing.bound import bound_sizes
from retiarii.ir.tracing.by_mode import merge_modes
from retiarii.ir.tracing.events import Leave, Trace
from retiarii.ir.tracing.session import Session
from retiarii.ir.tracing.signals import Broken, NeedsRealTypes, Unlowerable
from retiarii.ir.tracing.unify import (
    DivergedError,
    solve_batch,
    solve_both,
    solve_nothing,
    unify,
)
from retiarii.ir.types import BatchSize, ByMode, leaves


class Generaliser:
    """Compares a trace with others, at other batch sizes and in the other mode.

    Args:
        session: makes them.
        first: the trace of the example itself.
    """

    def __init__(self, session: Session, first: Trace) -> None:
        self._session = session
        self._first = first
        self._batch = first.batch
        # What ran: a batch size and a mode. What did not is ``None``.
        self._made: dict[tuple[int, bool], Trace | None] = {(first.batch, first.training): first}
        self._confirmed = True
        # What follows the batch as three sizes say: see `_following`.
        self._proven: set[Any] = set()

    def general(self) -> Trace:
        """The trace that stands for all; ``fixed`` says for what it does not.

        Raises:
            Unlowerable: a submodule depends on either in a way that no node stands for.
        """
        made = self._at_once() or self._step_by_step()
        session = self._session
        inputs = session.inputs
        if inputs.ambiguous and not self._ran_elsewhere():
            # Another guess at which dimensions are the batch.
            session.inputs = replace(inputs, anywhere=True)
            self._made = {key: made for key, made in self._made.items() if key[0] == self._batch}
            made = self._at_once() or self._step_by_step()
            if not self._ran_elsewhere():
                session.inputs = inputs
        return replace(made, fixed=self._fixed(), bound=bound_sizes(session, self._of_modes()))

    def _of_modes(self) -> Iterator[Trace]:
        """A trace of each mode that the model runs in, the example's first."""
        yield self._first
        for (_, training), made in self._made.items():
            if made is not None and training != self._first.training:
                yield made
                return

    def _ran_elsewhere(self) -> bool:
        return any(
            made is not None and batch != self._batch for (batch, _), made in self._made.items()
        )

    def _fixed(self) -> frozenset[str]:
        """What the model ran at in one way only, so that nothing is known of others."""
        fixed = set()
        if self._session.inputs.has_batch and not (self._confirmed and self._ran_elsewhere()):
            fixed.add("batch")
        ran = {training for (_, training), made in self._made.items() if made is not None}
        if len(ran) == 1:
            fixed.add("training")
        return frozenset(fixed)

    # --- comparisons -------------------------------------------------------------------------

    def _at_once(self) -> Trace | None:
        """Compares with one trace that differs in both; ``None`` if that does not tell."""
        first = self._first
        for batch in self._others():
            both = self._attempt(batch, not first.training)
            if both is None:
                continue
            try:
                return unify(first, both, solve_nothing)
            except DivergedError:
                pass
            try:
                told = unify(first, both, solve_both(first, both))
                third = self._third(batch, first.training)
                return None if third is None else unify(told, third, solve_nothing)
            except DivergedError:
                return None
        return None

    def _step_by_step(self) -> Trace:
        """Finds in each mode what follows the batch, and then what follows the mode."""
        # Training first: what evaluation does of it needs no third batch size any more.
        made = {training: self._in_mode(training) for training in (True, False)}
        here, there = made[self._first.training], made[not self._first.training]
        if here is None or there is None:
            return here or self._first
        try:
            return unify(here, there, solve_nothing)
        except DivergedError:
            return merge_modes(here, there)

    def _in_mode(self, training: bool) -> Trace | None:
        """The trace in a mode for all batch sizes; ``None`` if the model does not run in it."""
        made = self._attempt(self._batch, training)
        if made is None:
            return None
        for batch in self._others():
            other = self._attempt(batch, training)
            if other is not None:
                return self._for_batches(made, other)
        return made

    def _for_batches(self, made: Trace, other: Trace) -> Trace:
        """What two batch sizes tell, checked against a third one."""
        solve = solve_batch(made.batch, other.batch)
        try:
            told = unify(made, other, solve)
        except DivergedError:
            # Once more: what the model's functions keep (an `lru_cache`) is there by now.
            made, other = self._again(made), self._again(other)
            try:
                told = unify(made, other, solve)
            except DivergedError as error:
                raise _on_the_batch(error) from None
        follows = _following(told)
        if follows <= self._proven:
            return told
        third = self._third(other.batch, made.training)
        self._confirmed = self._confirmed and third is not None
        if third is None:
            return told
        try:
            told = unify(told, third, solve_nothing)
        except DivergedError as error:
            raise _on_the_batch(error) from None
        self._proven |= follows
        return told

    # --- traces ------------------------------------------------------------------------------

    def _others(self) -> tuple[int, ...]:
        """Batch sizes to try, until the model runs at one."""
        batch = self._batch
        return (4 * batch, 2 * batch, batch + 1) if self._session.inputs.has_batch else ()

    def _third(self, seen: int, training: bool) -> Trace | None:
        """A trace at one more batch size; ``None`` if the model runs at none."""
        known = (self._batch, seen)
        tried = (3 * seen + 1, 4 * seen, *self._others(), 3 * self._batch, self._batch + 2)
        made: Iterator[Trace | None] = (
            self._attempt(batch, training) for batch in tried if batch not in known
        )
        return next((trace for trace in made if trace is not None), None)

    def _again(self, trace: Trace) -> Trace:
        del self._made[trace.batch, trace.training]
        return self._attempt(trace.batch, trace.training) or trace

    def _attempt(self, batch: int, training: bool) -> Trace | None:
        key = (batch, training)
        if key not in self._made:
            self._made[key] = self._try(batch, training)
        return self._made[key]

    def _try(self, batch: int, training: bool) -> Trace | None:
        """A trace elsewhere; ``None`` if the model does not run there.

        Raises:
            Unlowerable: something that no node stands for happens there.
        """
        session = self._session
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


def _following(trace: Trace) -> set[Any]:
    """What in a trace is a function of the batch size: calls by their lines, modules' results."""
    found: set[Any] = set()
    if _follows(trace.outputs):
        found.add(trace.outputs)
    for event in trace.events:
        if isinstance(event, NodeRecord):
            if _follows(event.result) or any(map(_follows, event.attrs.values())):
                found.add((event.op, event.attrs, event.result, event.where))
        elif isinstance(event, Leave) and event.result is not None:
            numbers = tuple(v for v in leaves(event.result) if isinstance(v, BatchSize))
            if numbers:
                found.add((event.path, numbers))
    return found


def _follows(value: Any) -> bool:
    if isinstance(value, BatchSize):
        return True
    if isinstance(value, tuple | slice | ByMode):
        return any(isinstance(leaf, BatchSize) for leaf in leaves(value))
    return False


def _on_the_batch(error: DivergedError) -> Unlowerable:
    return Unlowerable(f"depends on the batch size: {error.detail}", error.where, error.path)
