"""All traces that one parse makes, until one stands for every batch size and both modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from retiarii.errors import ParseError
from retiarii.ir.node import NodeRecord
from retiarii.ir.tracing.devices import Devices
from retiarii.ir.tracing.doubt import is_doubtful
from retiarii.ir.tracing.events import NodeNames, Trace
from retiarii.ir.tracing.fallback import RealRun
from retiarii.ir.tracing.inputs import ExampleInputs
from retiarii.ir.tracing.isolate import Snapshot, meta_copy, python_random_state
from retiarii.ir.tracing.layers import Layers
from retiarii.ir.tracing.memory import Memory
from retiarii.ir.tracing.modules import ModuleCalls
from retiarii.ir.tracing.norms import WrittenNorms
from retiarii.ir.tracing.recorder import Recorder
from retiarii.ir.tracing.scripted import scripts_opened
from retiarii.ir.tracing.signals import Broken, NeedsRealTypes, Unlowerable, first_line
from retiarii.ir.tracing.sizes import Code, SizeLog
from retiarii.ir.tracing.sources import Sources
from retiarii.ir.tracing.state import ModelState
from retiarii.ir.tracing.structure import NotAStructureError, freeze_structure, tensors_in
from retiarii.ir.tracing.unify import DivergedError, solve_nothing, unify
from retiarii.ir.tracing.values import Held
from retiarii.ir.tracing.where import CallSites
from retiarii.ir.types import Ref, TensorType, map_leaves


class Session:
    """Traces one model, again and again on the same copy.

    Args:
        model: the user's; untouched, unless it cannot be copied (the caller restores it).
        example: its example inputs.
        original: the model's attributes as they were.
        memory: what parses of other models found out.

    Attributes:
        opaque: path -> why the module stays one node.
        compiling: tell the code that it is being compiled: libraries leave out what looks at
            numbers to save work (masks that mask nothing) and does not change results.
    """

    def __init__(self, model: nn.Module, example: Any, original: Snapshot, memory: Memory) -> None:
        self.model = model
        self.state = ModelState.of(model)
        self.compiling = False
        self.inputs = ExampleInputs.bind(model, example)
        self.opaque: dict[str, Unlowerable] = {
            path: Unlowerable(reason, path=path)
            for path, module in self.state.modules.items()
            if path and (reason := _opaque_by_nature(module)) is not None
        }
        self._original = original
        self._layers = Layers(memory)
        self._replays = memory.replays
        self._code = Code()
        self._real: RealRun | None = None
        self._isolate()

    def _isolate(self) -> None:
        self._copy = meta_copy(self.model, self.state)  # between traces it is as it is now
        self._copied = ModelState.of(self._copy)
        self._held = Held.of(self._copied, self.state)
        self._calls = ModuleCalls(self._copied, self._layers, self.opaque, self._replays)
        self._clean = Snapshot(self._copy)

    def close(self) -> None:
        """At the end of all traces."""
        self._calls.close()

    # --- traces ------------------------------------------------------------------------------

    def trace(
        self, batch: int, training: bool, *, watch: bool = False, again: bool = False
    ) -> Trace:
        """Runs the copy's forward once, on tensors without storage.

        Args:
            batch: the batch size.
            training: the model's mode; modules that differ from the model keep their own.
            watch: find the module that draws random numbers in Python.
            again: run it a second time, on the attributes that the first run left, and return that.

        Raises:
            Unlowerable: a submodule must become opaque (``path`` says which).
            Broken: the model's code raised.
            NeedsRealTypes: an opaque submodule's results are not known.
        """
        with self._pretending(), scripts_opened():
            return self._trace(batch, training, watch, again)

    @contextmanager
    def _pretending(self) -> Iterator[None]:
        """Tells the model's code that it is being compiled, if it shall not look at numbers."""
        was = torch.compiler._is_compiling_flag
        torch.compiler._is_compiling_flag = was or self.compiling
        try:
            yield
        finally:
            torch.compiler._is_compiling_flag = was

    def _trace(self, batch: int, training: bool, watch: bool, again: bool) -> Trace:
        if training != self.model.training:
            self._copy.train(training)
            for path, flag in self.state.modes.items():
                self._copied.modules[path].training = flag
        try:
            made = self._run(batch, training, watch)
            return self._run(batch, training, watch) if again else made
        finally:
            self._clean.restore()

    def _run(self, batch: int, training: bool, watch: bool) -> Trace:
        devices = Devices(self.inputs.device)
        sources = self.sources()
        names = NodeNames(frozenset(self.state.tensors) | frozenset(self.state.modules))
        sites = CallSites(ModuleCalls.call.__code__)
        norms = WrittenNorms(self._copied.modules, self._layers)
        sizes = SizeLog(self._code)
        recorder = Recorder(sources, names, devices, sites, norms, sizes)
        args, kwargs = self.inputs.meta(batch)
        inputs = self._enter_inputs(recorder, args, kwargs)
        self._calls.begin(recorder, self._real, (self.inputs.batch, batch), watch)
        before = python_random_state()
        try:
            with recorder:
                result = self._copy(*args, **kwargs)
                with recorder.off():
                    outputs = self._outputs(recorder, result)
        except Exception as error:
            failed = self._calls.failure
            path = failed[0] if failed is not None and failed[1] is error else ""
            raise Broken(path, error, sites.of_traceback(error.__traceback__)) from error
        self._check_assigned()
        return Trace(
            batch,
            training,
            tuple(recorder.events),
            inputs,
            sources.records,
            sources.constants,
            outputs,
            python_random_state() != before,
            self._clean.differs(),
            sizes=sizes,
        )

    def _check_assigned(self) -> None:
        """A parameter or buffer that forward assigns is state that no node keeps."""
        paths = {id(module): path for path, module in self._copied.modules.items()}
        for module, name in self._clean.assigned():
            path = paths[id(module)]
            if not any(_holds(opaque, path) for opaque in self.opaque):
                raise Unlowerable(f"assigns the buffer {name!r} in forward", path=path)

    def sources(self) -> Sources:
        """The model's tensors, as a trace finds them."""
        return Sources(self._copied, self._held, Devices(self.inputs.device).symbolic)

    def _enter_inputs(self, recorder: Recorder, args: Any, kwargs: Any) -> tuple[NodeRecord, ...]:
        records: list[NodeRecord] = []
        tensors = tensors_in((args, kwargs))
        for wanted, tensor, example in zip(
            self.inputs.names, tensors, self.inputs.tensors(), strict=True
        ):
            name = recorder.names.free(wanted)
            records.append(NodeRecord(name, "input", types=(TensorType.of(example),)))
            recorder.values.add(tensor, Ref(name), recorder.devices.symbolic)
        return tuple(records)

    def _outputs(self, recorder: Recorder, result: Any) -> Any:
        try:
            result = recorder.sizes.plain(result)
            frozen = freeze_structure(result, recorder.read, records=True)
            return map_leaves(recorder.devices.attr, frozen)
        except NotAStructureError as error:
            if "" in self.opaque:
                raise ParseError(
                    f"forward returns {error}",
                    where=type(self.model).__name__,
                    fix="return tensors, numbers, or lists, tuples, dicts, named tuples or "
                    "dataclasses of them",
                ) from None
            raise Unlowerable(f"returns {error}", path="") from None

    # --- the real thing ----------------------------------------------------------------------

    def run_for_real(self) -> None:
        """Runs a copy with real numbers, unless that was done: for the types of opaque results.

        Raises:
            ParseError: the model does not run on its example inputs.
        """
        if self._real is not None:
            return
        self._clean.restore()
        self._original.restore()
        gradients = any("autograd" in signal.reason for signal in self.opaque.values())
        try:
            self._real = RealRun(
                self.model, self.inputs.args, self.inputs.kwargs, gradients=gradients
            )
        except Broken as broken:
            raise self._does_not_run(broken) from broken.error
        finally:
            self._original.restore()
        if self._copy is self.model:
            self._isolate()

    def _does_not_run(self, broken: Broken) -> ParseError:
        module = self.state.modules.get(broken.path, self.model)
        kind = type(module).__name__
        place = f"module {broken.path!r} ({kind})" if broken.path else f"the model itself ({kind})"
        cause = f"{type(broken.error).__name__}: {first_line(broken.error)}"
        return ParseError(
            f"the model does not run on its example inputs ({self.inputs.shown()}): {cause}",
            where=f"{place}, {broken.where}" if broken.where else place,
            fix="call the model on the same example inputs, and change it or them until it runs",
        )

    def first(self) -> Trace:
        """The trace of the example itself.

        Raises:
            ParseError: the model does not run.
            Unlowerable: a submodule must become opaque.
        """
        while True:
            try:
                made = self.trace(self.inputs.batch, self.model.training)
                if made.random:
                    made = self.trace(self.inputs.batch, self.model.training, watch=True)
                if made.stateful:
                    self._check_repeatable(made)
                if self._real is None and is_doubtful(made, self._copied):
                    self.run_for_real()
                return made
            except NeedsRealTypes:
                self.run_for_real()
            except Broken as broken:
                self.run_for_real()
                raise Unlowerable(
                    f"fails without data: {first_line(broken.error)}", broken.where, broken.path
                ) from broken.error

    def _check_repeatable(self, first: Trace) -> None:
        """Forward left attributes behind: a second call must do what the first did.

        Raises:
            Unlowerable: it does something else.
        """
        try:
            unify(first, self.trace(first.batch, first.training, again=True), solve_nothing)
        except DivergedError as error:
            path, where, detail = error.path, error.where, error.detail
        except Broken as broken:
            path, where, detail = broken.path, broken.where, first_line(broken.error)
        except Unlowerable as signal:
            path, where, detail = signal.path or "", signal.where, signal.reason
        else:
            return
        raise Unlowerable(f"keeps values from call to call: {detail}", where, path)


def _opaque_by_nature(module: nn.Module) -> str | None:
    """Why no module of such a class is ever entered."""
    reason = getattr(type(module), "opaque_reason", None)
    if isinstance(reason, str):
        return reason
    return "is TorchScript" if isinstance(module, torch.jit.ScriptModule) else None


def _holds(opaque: str, path: str) -> bool:
    """Whether the module at ``path`` is the opaque one, or inside it."""
    return path == opaque or path.startswith(f"{opaque}." if opaque else "")
