"""In-place writes of a trace: recorded as what they compute, and followed through views."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch

from retiarii.ir.tracing import functions as known
from retiarii.ir.tracing.binding import BoundCall
from retiarii.ir.tracing.signals import Unlowerable
from retiarii.ir.tracing.structure import map_tensors
from retiarii.ir.tracing.values import Entry, ViewStep, meta_storage
from retiarii.ir.tracing.views import ViewWrite, write_back
from retiarii.ir.types import Attrs, Ref

if TYPE_CHECKING:
    from retiarii.ir.tracing.recorder import Recorder


class Writes:
    """Follows writes for a recorder (`values.Editor`)."""

    def __init__(self, recorder: Recorder) -> None:
        # Without a cycle, a trace is gone as soon as nothing needs it.
        self._recorder: Recorder = weakref.proxy(recorder)
        self._values = recorder.values

    def check(self, bound: BoundCall, entries: dict[int, Entry]) -> None:
        """Refuses to write what outlives the call.

        Raises:
            Unlowerable: it does.
        """
        if not bound.operands:
            raise Unlowerable("writes in place what the trace cannot see")
        lasting = entries[id(bound.operands[0])].storage.lasting
        if lasting is not None:
            raise Unlowerable(f"writes a {lasting} in forward")

    def write(
        self,
        bound: BoundCall,
        target: Entry,
        swapped: tuple[Any, dict[str, Any]],
        site: str | None,
    ) -> torch.Tensor:
        """Records an in-place call as what it computes, and lets its target hold the result."""
        made = meta = self._values.meta(target)
        if known.is_in_place(bound.name) and not bound.assigns:
            run_on = [self._values.meta(self._recorder.entry(t)) for t in bound.operands]
            made = self._recorder.results.of_function(
                bound.op,
                Attrs(bound.attrs),
                run_on,
                lambda: self._recorder.execute(bound.twin, *self._metas(swapped)),
            )
            if not isinstance(made, torch.Tensor) or made.shape != meta.shape:
                raise Unlowerable(f"{bound.name} changes the shape of what it writes")
        record = self._recorder.emit(bound.op, bound.operands, Attrs(bound.attrs), made, site=site)
        ref = Ref(record.name)
        if made.dtype != meta.dtype:
            ref = self._recorder.read(
                self._recorder.run(torch.Tensor.to, self.temporary(ref, made), meta.dtype)
            )
        concrete = all(self._recorder.entry(t).concrete for t in bound.operands)
        target.storage.concrete = concrete and not known.is_random(bound.name)
        self._values.write(target, ref, self)
        return target.tensor

    def _metas(self, swapped: tuple[Any, dict[str, Any]]) -> tuple[Any, dict[str, Any]]:
        def meta(tensor: torch.Tensor) -> torch.Tensor:
            return torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
            )

        return map_tensors(meta, swapped[0]), map_tensors(meta, swapped[1])

    def written(self, target: torch.Tensor, ref: Ref) -> None:
        """A layer wrote its argument in place; ``ref`` is what it computed."""
        entry = self._recorder.entry(target)
        entry.storage.concrete = False
        self._values.write(entry, ref, self)

    def replay(self, step: ViewStep, base: Ref) -> Ref:
        """Records a view again, of another base (see `values.Editor`)."""
        old = step.record
        inputs = (*old.inputs[: step.position], base, *old.inputs[step.position + 1 :])
        own = old.path is not None
        name = (
            self._recorder.names.own(old.path or old.name)
            if own
            else self._recorder.names.free(old.name)
        )
        self._recorder.events.append(old.with_(name=name, inputs=inputs))
        return Ref(name, step.result)

    def write_back(self, entry: Entry, base: Ref, new: Ref) -> Ref | None:
        """What an entry's base holds after a write (see `values.Editor`)."""
        step, parent = entry.step, entry.parent
        assert step is not None
        assert parent is not None
        view = self._values.meta(entry)
        old = self.temporary(base, self._values.meta(parent), strided=True)
        written = ViewWrite(
            self._recorder.run, old, self.temporary(new, view), view, step.args, step.kwargs
        )
        made = write_back(step.function, written)
        return None if made is None else self._recorder.read(made)

    def temporary(self, ref: Ref, like: torch.Tensor, *, strided: bool = False) -> torch.Tensor:
        """A tensor of our own that holds a graph value."""
        made = (
            torch.empty(0, dtype=like.dtype, device="meta").set_(
                meta_storage(like.untyped_storage().nbytes()),
                like.storage_offset(),
                like.shape,
                like.stride(),
            )
            if strided
            else torch.empty(like.shape, dtype=like.dtype, device="meta")
        )
        self._values.add(made, ref, self._recorder.devices.symbolic)
        return made
