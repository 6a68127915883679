"""Calls of modules during a trace: layers become nodes, the rest is entered or stays opaque."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from retiarii.ir.ops import OPS, OpSpec, bind_call
from retiarii.ir.tracing.events import Enter, Leave
from retiarii.ir.tracing.fallback import RealRun
from retiarii.ir.tracing.isolate import python_random_kept, python_random_state
from retiarii.ir.tracing.layers import Layers
from retiarii.ir.tracing.recorder import Recorder
from retiarii.ir.tracing.replay import Replay, Replays
from retiarii.ir.tracing.signals import NeedsRealTypes, Unlowerable
from retiarii.ir.tracing.state import ModelState
from retiarii.ir.tracing.structure import (
    NotAStructureError,
    constant,
    freeze_structure,
    map_tensors,
    rebuild,
    tensors_in,
)
from retiarii.ir.types import Attrs, Operand, Ref, TensorType, map_leaves


class ModuleCalls:
    """Stands between a module and its call, for every module of the traced copy.

    Each module gets an own ``_compiled_call_impl``, which ``nn.Module.__call__`` prefers to
    running the module itself. Nothing global is changed, so other threads are not affected.

    Args:
        state: of the copy.
        layers: recognises layers.
        opaque: path -> why it stays one node.
        replays: the calls that were traced before.
    """

    _recorder: Recorder
    _real: RealRun | None
    _batches: tuple[int, int]
    _random: tuple[Any, ...] | None

    def __init__(
        self,
        state: ModelState,
        layers: Layers,
        opaque: Mapping[str, Unlowerable],
        replays: Replays,
    ) -> None:
        self._layers = layers
        self._opaque = opaque
        self._calls: dict[str, int] = {}
        self._thread = threading.get_ident()
        self.failure: tuple[str, Exception] | None = None
        self._modules = tuple(state.modules.values())
        for path, module in state.modules.items():
            module.__dict__["_compiled_call_impl"] = functools.partial(self.call, module, path)
        self._replay = Replay(replays, state)

    def close(self) -> None:
        """Lets go of the modules, which else would live until Python looks for cycles."""
        for module in self._modules:
            module.__dict__.pop("_compiled_call_impl", None)
        self._layers.forget()
        self._replay.forget()

    def begin(
        self, recorder: Recorder, real: RealRun | None, batches: tuple[int, int], watch: bool
    ) -> None:
        """Begins a trace.

        Args:
            recorder: of this trace.
            real: a real run to ask for types, once there was one.
            batches: (the example's batch size, this trace's).
            watch: look after each module whether random numbers were drawn in Python.
        """
        self._recorder = recorder
        self._real = real
        self._batches = batches
        self._random = python_random_state() if watch else None
        self._calls.clear()
        self.failure = None
        self._replay.begin()

    def call(self, module: nn.Module, path: str, /, *args: Any, **kwargs: Any) -> Any:
        """What happens where the model calls ``module``."""
        recorder = self._recorder
        if recorder.executing or threading.get_ident() != self._thread:
            return _plainly(module, args, kwargs)
        site, custom = recorder.sites.here()
        site = site or recorder.site
        if custom:
            raise Unlowerable("runs a custom autograd.Function, whose backward is its own", site)
        self._watch(site)
        if path:  # what stands around the model itself is its caller's
            recorder.around.check(site)
        if path in self._opaque:
            self._replay.enter(path)
            with recorder.off():
                try:
                    return self._opaque_call(module, path, args, kwargs, site)
                finally:
                    recorder.around.drew()
        with recorder.off():
            layer = self._layers.attrs_of(module) if path else None
            if layer is not None:
                made = self._layer_call(module, path, layer, args, kwargs, site)
                if made is not NotImplemented:
                    self._replay.enter(path)
                    recorder.around.drew()
                    return made
        return self._play_or_enter(module, path, args, kwargs, site)

    def _play_or_enter(
        self, module: nn.Module, path: str, args: Any, kwargs: Any, site: str | None
    ) -> Any:
        recorder, replay = self._recorder, self._replay
        if self._random is not None or any(_is_below(p, path) for p in self._opaque):
            replay.enter(path)
            return self._enter(module, path, args, kwargs, site)
        with recorder.off():
            setting = (torch.compiler.is_compiling(), torch.get_default_dtype())
            asked = replay.ask(recorder, path, (args, kwargs), site, setting)
            if asked is not None and asked.call is not None:
                recorder.around.drew()
                return replay.play(recorder, asked)
            before = replay.state(recorder, asked) if asked is not None else ()
        result = self._enter(module, path, args, kwargs, site)
        if asked is not None:
            with recorder.off():
                replay.keep(recorder, asked, before, result)
        return result

    def _enter(self, module: nn.Module, path: str, args: Any, kwargs: Any, site: str | None) -> Any:
        recorder = self._recorder
        outer = recorder.path, recorder.site
        recorder.path, recorder.site = path, site
        recorder.events.append(Enter(path))
        try:
            result = _plainly(module, args, kwargs)
            self._watch(site)
            if not recorder.norms.settled(path):
                raise Unlowerable("counts batches in another way than batch norms do", site)
            with recorder.off():
                recorder.events.append(Leave(path, self._frozen(result)))
            return result
        except Unlowerable as signal:
            if signal.path is None:
                signal.path = path
            raise
        except Exception as error:
            if self.failure is None or self.failure[1] is not error:
                self.failure = (path, error)
            raise
        finally:
            recorder.path, recorder.site = outer

    def _frozen(self, result: Any) -> Any:
        """What a module returned, for comparison with another trace."""
        try:
            bare = self._recorder.sizes.plain(result, used=False)
            return freeze_structure(bare, self._recorder.read)
        except NotAStructureError:
            return type(result).__qualname__

    def _watch(self, site: str | None) -> None:
        self._recorder.around.check_seed(site, self._recorder.path)
        if self._random is not None and python_random_state() != self._random:
            raise Unlowerable("draws random numbers of Python or NumPy", site, self._recorder.path)

    def _name(self, path: str, module: nn.Module) -> str:
        return self._recorder.names.own(path or type(module).__name__.lower())

    # --- layers ------------------------------------------------------------------------------

    def _layer_call(
        self,
        module: nn.Module,
        path: str,
        layer: tuple[str, Attrs],
        args: Any,
        kwargs: Any,
        site: str | None,
    ) -> Any:
        recorder = self._recorder
        op, made = layer
        try:
            operands, given = _bound(OPS[op], args, kwargs)
            given = {
                key: map_leaves(lambda v: v if isinstance(v, Operand) else constant(v), value)
                for key, value in given.items()
            }
        except (TypeError, NotAStructureError):
            return NotImplemented
        if not operands:
            return NotImplemented
        attrs = made.merged(given) if given else made
        in_place = attrs.get("inplace") is True
        if in_place:
            attrs = self._layers.out_of_place(attrs)
        entries = {id(t): recorder.entry(t) for t in operands}
        if in_place and entries[id(operands[0])].storage.lasting:
            raise Unlowerable("writes a tensor that outlives the call in place", site)
        run_on = {i: recorder.values.meta(e) for i, e in entries.items()}
        result = self._layers.results.of_layer(
            module,
            op,
            attrs,
            [run_on[id(t)] for t in operands],
            lambda: recorder.execute(module, *map_tensors(lambda t: run_on[id(t)], (args, kwargs))),
        )
        name = self._name(path, module)
        if in_place:
            record = recorder.emit(
                op, operands, attrs, run_on[id(operands[0])], site=site, path=path, name=name
            )
            recorder.writes.written(operands[0], Ref(record.name))
            return operands[0]
        return recorder.record(
            op,
            operands,
            attrs,
            result,
            (op, args, kwargs),
            entries[id(operands[0])].device,
            site=site,
            path=path,
            name=name,
            executed={id(t): entries[i] for i, t in run_on.items()},
        )

    # --- opaque ------------------------------------------------------------------------------

    def _opaque_call(
        self, module: nn.Module, path: str, args: Any, kwargs: Any, site: str | None
    ) -> Any:
        recorder = self._recorder
        number = self._calls[path] = self._calls.get(path, -1) + 1
        reason = self._opaque[path]
        operands, attrs = self._opaque_arguments(module, args, kwargs, site)
        metas = [recorder.values.meta(recorder.entry(t)) for t in tensors_in((args, kwargs))]
        versions = [t._version for t in metas]
        result = self._opaque_result(module, path, number, args, kwargs)
        written = [t._version for t in metas] != versions or (
            self._real is not None and self._real.writes(path, number)
        )
        if written and path:
            raise Unlowerable(
                f"calls {path!r}, which {reason.reason}, and writes its arguments", site
            )
        if self._real is not None and self._real.shares(path, number):
            for tensor in (*operands, *tensors_in(result)):
                recorder.values.forbid_writes(
                    tensor, "tensor that shares memory with an opaque one"
                )
        attrs["reason"] = reason.reason
        devices = [recorder.entry(t).device for t in operands]
        return recorder.record(
            "opaque",
            operands,
            Attrs(attrs),
            result,
            ("opaque", args, kwargs),
            devices[0] if devices else recorder.devices.symbolic,
            site=reason.where or site,
            path=path,
            name=self._name(path, module),
            executed={
                id(m): recorder.entry(t)
                for m, t in zip(metas, tensors_in((args, kwargs)), strict=True)
            },
        )

    def _opaque_arguments(
        self, module: nn.Module, args: Any, kwargs: Any, site: str | None
    ) -> tuple[list[torch.Tensor], dict[str, Any]]:
        """The call as tensors in front and arguments by name, or as ``args`` where it has no names.

        Raises:
            Unlowerable: an argument that the IR cannot hold.
        """
        operands: list[torch.Tensor] = []

        def pull(tensor: torch.Tensor) -> Operand:
            operands.append(tensor)
            return Operand(len(operands) - 1)

        try:
            leading = 0
            while leading < len(args) and isinstance(args[leading], torch.Tensor):
                pull(args[leading])
                leading += 1
            rest = _named_rest(module, args, kwargs, leading)
            if rest is None:
                operands.clear()
                rest = {"args": tuple(args), **kwargs} if args else dict(kwargs)
            frozen = {key: freeze_structure(value, pull) for key, value in rest.items()}
        except NotAStructureError as error:
            raise Unlowerable(f"gives {error} to a submodule that is opaque", site) from None
        attr = self._recorder.devices.attr
        return operands, {key: map_leaves(attr, value) for key, value in frozen.items()}

    def _opaque_result(
        self, module: nn.Module, path: str, number: int, args: Any, kwargs: Any
    ) -> Any:
        """What the module returns, on tensors without storage."""
        recorder = self._recorder
        if self._real is not None:
            return self._made(self._real.result(path, number))
        if self._opaque[path].real:
            raise NeedsRealTypes

        def meta(tensor: torch.Tensor) -> torch.Tensor:
            return recorder.values.meta(recorder.entry(tensor))

        try:
            with python_random_kept():
                result = _plainly(module, map_tensors(meta, args), map_tensors(meta, kwargs))
            freeze_structure(result, TensorType.of, records=not path)
        except (Exception, Unlowerable):
            raise NeedsRealTypes from None
        if any(not t.is_meta for t in tensors_in(result)):
            raise NeedsRealTypes
        return result

    def _made(self, structure: Any) -> Any:
        """Tensors without storage, of the types that a real run made, at this trace's batch."""
        example, batch = self._batches

        def leaf(value: Any) -> Any:
            if not isinstance(value, TensorType):
                return value
            shape = list(value.shape)
            if shape and batch != example and shape[0] % example == 0:
                shape[0] = shape[0] // example * batch
            return torch.empty(shape, dtype=value.dtype, device="meta")

        return rebuild(structure, leaf)


def _is_below(path: str, above: str) -> bool:
    return path.startswith(f"{above}." if above else "")


def _bound(spec: OpSpec, args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    """`bind_call`, quickly where a layer is called on one tensor."""
    leading = spec.normalise is None and spec.forward[:1] == spec.operands[:1]
    if leading and len(args) == 1 and not kwargs and isinstance(args[0], torch.Tensor):
        return [args[0]], {}
    return bind_call(spec, args, kwargs)


def _plainly(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """Calls a module as if nothing stood between, its hooks included."""
    return type(module)._call_impl(module, *args, **kwargs)  # type: ignore[no-untyped-call]


def _named_rest(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], leading: int
) -> dict[str, Any] | None:
    """The arguments behind the leading tensors, by name; ``None`` where one has no name."""
    if leading == len(args):
        return dict(kwargs)
    try:
        names = [
            p.name
            for p in inspect.signature(module.forward).parameters.values()
            if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        ]
    except (TypeError, ValueError):
        return None
    if len(names) < len(args):
        return None
    return {**dict(zip(names[leading:], args[leading:], strict=False)), **kwargs}
