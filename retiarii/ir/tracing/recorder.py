"""The recorder: runs each torch call on tensors without storage, and writes down a node for it."""

from __future__ import annotations

import contextlib
import operator
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from retiarii.ir.node import NodeRecord
from retiarii.ir.tracing import functions as known
from retiarii.ir.tracing.binding import BoundCall, bind
from retiarii.ir.tracing.devices import Devices
from retiarii.ir.tracing.events import Event, NodeNames
from retiarii.ir.tracing.norms import WrittenNorms, is_batch_norm
from retiarii.ir.tracing.signals import Unlowerable, first_line
from retiarii.ir.tracing.sizes import Size, SizeLog
from retiarii.ir.tracing.sources import Sources
from retiarii.ir.tracing.structure import (
    NotAStructureError,
    freeze_structure,
    plain_results,
    tensors_in,
)
from retiarii.ir.tracing.structure import map_tensors as swap_tensors
from retiarii.ir.tracing.surroundings import Surroundings
from retiarii.ir.tracing.values import Entry, Values, ViewStep
from retiarii.ir.tracing.where import CallSites
from retiarii.ir.tracing.writes import Writes
from retiarii.ir.types import Attrs, Ref, Result, TensorType

# Factories of more elements than this are not run for real: nobody reads them element by element.
_LARGE = 1 << 18


class Recorder(TorchFunctionMode):
    """Records the torch calls of one run.

    While it is the active mode, calls come in through ``__torch_function__``; each is executed
    with the mode off. `ModuleCalls` tells it which module is running.

    Args:
        sources: the model's parameters and buffers, and the constants met.
        names: of nodes.
        devices: what ``tensor.device`` shows.
        sites: finds the user's line.
        norms: recognises layers that a forward spells out.
        sizes: notes which sizes the code depends on.
    """

    def __init__(
        self,
        sources: Sources,
        names: NodeNames,
        devices: Devices,
        sites: CallSites,
        norms: WrittenNorms,
        sizes: SizeLog,
    ) -> None:
        super().__init__()
        self.values: Values = sources.values
        self.sources = sources
        self.names = names
        self.devices = devices
        self.sites = sites
        self.norms = norms
        self.sizes = sizes
        self.results = norms.layers.results
        self.events: list[Event] = []
        self.path = ""
        self.site: str | None = None
        self.executing = False
        self.writes = Writes(self)
        self.around = Surroundings()

    # --- calls -------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = known.name_of(func)
        if name in known.SIZES:
            return self._size(func, name, args, kwargs)
        if name in known.METADATA or name in known.PASSED:
            return func(*args, **kwargs)
        if name == "_assert":
            met = args[0]
            if isinstance(met, torch.Tensor):
                met = self.call(torch.Tensor.__bool__, "__bool__", (met,), {})
            return func(bool(met), *args[1:], **kwargs)
        if name in known.PROPERTIES and isinstance(args[0], torch.Tensor):
            func, args, kwargs = known.PROPERTIES[name](args[0])
            name = known.name_of(func)
        if name.startswith("is_") and name.endswith(".get"):
            return self.devices.flag(name, self.entry(args[0]).device, func, args)
        if name == "device.get":
            return self.entry(args[0]).device
        return self.call(func, name, args, kwargs)

    def _size(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A size, or several, as the code may hold them: see `sizes`."""
        made = func(*args, **kwargs)
        tensor = args[0]
        entry = self.values.find(tensor)
        if entry is None or entry.storage.lasting is not None or entry.concrete:
            return made  # follows from the code alone
        if type(made) is torch.Size:
            return self.sizes.shape(made, entry.ref, sys._getframe(2), self._line)
        picked: Iterable[int] = range(tensor.dim())
        if name == "size":
            picked = (operator.index(args[1] if len(args) > 1 else kwargs["dim"]) % tensor.dim(),)
        elif name == "__len__":
            picked = (0,)
        dims = frozenset((entry.ref, dim) for dim in picked)
        self.sizes.reads(dims, self._line)
        if type(made) is int and name != "__len__":
            return Size.of(made, dims, self.sizes)
        self.sizes.use(dims)  # `len` makes a plain integer of it
        return made

    def _line(self) -> str | None:
        return self.sites.here()[0] or self.site

    def call(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Executes and records one call.

        Raises:
            Unlowerable: no node stands for it.
        """
        site, custom = self.sites.here()
        site = site or self.site
        try:
            if custom:
                raise Unlowerable("runs a custom autograd.Function, whose backward is its own")
            return self._call(func, name, args, kwargs, site)
        except Unlowerable as signal:
            signal.where = signal.where or site
            raise

    def run(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """A call of our own making, recorded like the user's."""
        return self._call(func, known.name_of(func), args, kwargs, self.site)

    def _call(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], site: str | None
    ) -> Any:
        if self.around.is_outer_product(name, args):
            func, name = torch.mul, "mul"
        self._check(name, kwargs)
        args, kwargs = self.sizes.plain(args), self.sizes.plain(kwargs)
        if name in known.REWRITES:
            return known.REWRITES[name](self.run, *args, **kwargs)
        given = tensors_in((args, kwargs))
        if name in known.LITERALS and not given:
            return self._literal(func, args, kwargs)
        entries = {id(t): self.entry(t) for t in given}
        concrete = all(e.concrete for e in entries.values())
        if name in known.READS:
            if not concrete or name in ("numpy", "__array__"):
                raise Unlowerable(f"reads the numbers in a tensor ({name.strip('_')})", reads=True)
            return self.execute(func, args, kwargs)
        if known.is_random(name):
            self.around.check_seed()
            self.around.drew()
        bound = bind(func, name, args, kwargs, self.devices)
        if bound.in_place:
            if self.norms.counts(self.path, name, args, kwargs):
                return args[0]
            self.writes.check(bound, entries)
        path = None
        if is_batch_norm(func):
            layer = self.norms.layer(self.path, args, kwargs)
            if layer is not None:
                path, (op, attrs) = self.path, layer
                bound = BoundCall(name, op, bound.operands[:1], dict(attrs), False, False, func)
        real = (
            concrete
            and not known.is_random(name)
            and not (not entries and self._is_large(func, args, kwargs))
        )
        swapped = self._swap(args, kwargs, entries, real)
        run_on = [(e, self._exec_tensor(e, real)) for e in entries.values()]
        before = [tensor._version for _, tensor in run_on]
        result = self.norms.result(path, bound.op, run_on[0][1]) if path is not None else None
        if result is None:
            result = self._result(func, bound, swapped, real)
        if bound.in_place:
            return self.writes.write(bound, entries[id(bound.operands[0])], swapped, site)
        if path is None and [tensor._version for _, tensor in run_on] != before:
            raise Unlowerable(f"{name} writes one of its arguments (running statistics, say)")
        if not tensors_in(result):
            return result
        return self.record(
            bound.op,
            bound.operands,
            Attrs(bound.attrs),
            result,
            (name, args, kwargs),
            self.devices.of_result(args, kwargs, list(entries.values())),
            real=real and path is None,
            site=site,
            path=path,
            name=None if path is None else self.names.own(path),
            executed={id(tensor): e for e, tensor in run_on},
        )

    def _result(self, func: Any, bound: BoundCall, swapped: Any, real: bool) -> Any:
        """Executes a call, unless an equal one was executed on such tensors."""
        if real or bound.in_place:
            return self.execute(func, *swapped)
        run_on = [self._exec_tensor(self.entry(t), real) for t in bound.operands]
        call = partial(self.execute, func, *swapped)
        return self.results.of_function(bound.op, Attrs(bound.attrs), run_on, call)

    def _check(self, name: str, kwargs: dict[str, Any]) -> None:
        if name in known.FORBIDDEN:
            raise Unlowerable(known.FORBIDDEN[name])
        if kwargs.get("out") is not None:
            raise Unlowerable(f"{name} writes into out=")
        if name == "grad":
            raise Unlowerable("runs autograd by hand")
        self.around.check(name=name)

    def execute(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Runs a function or a layer, recording nothing.

        Raises:
            Unlowerable: it raised.
        """
        outer, self.executing = self.executing, True
        try:
            return func(*args, **kwargs)
        except Exception as error:
            raise Unlowerable(
                f"{known.name_of(func)} fails: {first_line(error)}",
                failed=not isinstance(error, NotImplementedError) and "meta" not in str(error),
            ) from error
        finally:
            self.executing = outer

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """While our own code calls modules: nothing of it is recorded."""
        outer, self.executing = self.executing, True
        try:
            with torch._C.DisableTorchFunction():
                yield
        finally:
            self.executing = outer

    def _is_large(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether a factory makes more than anybody reads element by element."""
        try:
            made = func(*args, **{**kwargs, "device": "meta"})
        except Exception:
            return False
        return any(t.numel() > _LARGE for t in tensors_in(made))

    def _swap(
        self, args: Any, kwargs: Any, entries: dict[int, Entry], real: bool
    ) -> tuple[Any, dict[str, Any]]:
        def swap(tensor: torch.Tensor) -> torch.Tensor:
            return self._exec_tensor(entries[id(tensor)], real)

        args, kwargs = swap_tensors(swap, args), swap_tensors(swap, kwargs)
        return self.devices.for_execution(args, kwargs, meta=not real, factory=not entries)

    def _exec_tensor(self, entry: Entry, real: bool) -> torch.Tensor:
        return entry.tensor if real else self.values.meta(entry)

    # --- recording ---------------------------------------------------------------------------

    def entry(self, tensor: torch.Tensor) -> Entry:
        """The entry of a tensor, a new constant where it was never seen."""
        return self.values.find(tensor) or self.sources.constant(tensor)

    def read(self, tensor: torch.Tensor) -> Ref:
        """The graph value that a tensor holds now."""
        return self.values.read(self.entry(tensor), self.writes)

    def record(
        self,
        op: str,
        operands: list[torch.Tensor],
        attrs: Attrs,
        result: Any,
        call: tuple[str, tuple[Any, ...], dict[str, Any]],
        device: torch.device,
        *,
        real: bool = False,
        site: str | None = None,
        path: str | None = None,
        name: str | None = None,
        executed: dict[int, Entry] | None = None,
    ) -> Any:
        """Writes down a node and enters its tensors; returns ``result`` as the user may hold it.

        Args:
            operands: the tensors it reads, as the user holds them.
            result: what the call returned.
            call: (function name, args, kwargs) as the user made it.
            executed: id of a tensor that the call ran on -> its entry.
        """
        executed = executed or {}
        held: list[torch.Tensor] = []

        def hold(tensor: torch.Tensor) -> torch.Tensor:
            known_here = id(tensor) in executed or self.values.find(tensor) is not None
            held.append(tensor.view_as(tensor) if known_here else tensor)
            return held[-1]

        result = swap_tensors(hold, result)
        record = self.emit(op, operands, attrs, result, site=site, path=path, name=name)
        for index, tensor in enumerate(held):
            ref = Ref(record.name, index)
            # Whose memory an opaque module's results share is not known: no views of anything.
            parent = None if op == "opaque" else self._base(tensor, operands)
            step = None
            if parent is not None:
                position = next(i for i, t in enumerate(operands) if self.entry(t) is parent)
                step = ViewStep(record, position, index, *call)
            self.values.add(tensor, ref, device, concrete=real, parent=parent, step=step)
        return result

    def _base(self, tensor: torch.Tensor, operands: list[torch.Tensor]) -> Entry | None:
        storage = self.values.storage(tensor)
        if storage is None:
            return None
        for operand in operands:
            entry = self.entry(operand)
            if entry.storage is storage:
                return entry
        raise Unlowerable("makes a tensor that shares memory in a way that the trace cannot see")

    def emit(
        self,
        op: str,
        operands: list[torch.Tensor],
        attrs: Attrs,
        result: Any,
        *,
        site: str | None = None,
        path: str | None = None,
        name: str | None = None,
        no_grad: bool | None = None,
    ) -> NodeRecord:
        """Writes down a node; no tensor is entered."""
        refs = tuple(self.read(t) for t in operands)
        types: list[TensorType] = []

        def leaf(tensor: torch.Tensor) -> Result:
            types.append(TensorType.of(tensor))
            return Result(len(types) - 1)

        try:
            structure = (
                freeze_structure(result, leaf, records=not path)
                if op == "opaque"
                else plain_results(result, leaf)
            )
        except NotAStructureError as error:
            raise Unlowerable(f"gets {error} from {op}") from None
        if name is None:
            name = self.names.free(f"{self.path}.{_short(op)}" if self.path else _short(op))
        record = NodeRecord(
            name,
            op,
            refs,
            attrs,
            tuple(types),
            None if structure == Result(0) and isinstance(structure, Result) else structure,
            path,
            False,
            (not torch.is_grad_enabled()) if no_grad is None else no_grad,
            site,
        )
        self.events.append(record)
        return record

    def _literal(self, func: Any, args: Any, kwargs: Any) -> Any:
        args, placed = self.devices.for_execution(args, kwargs, meta=False, factory=True)
        made = self.execute(func, args, placed)
        made = made.detach() if made.requires_grad else made
        self.sources.constant(made, self.devices.of_result(args, kwargs, []), fresh=True)
        return made


def _short(op: str) -> str:
    return op.rpartition(".")[2].lower()
