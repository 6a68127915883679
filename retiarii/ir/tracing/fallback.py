"""One run of a copy with real numbers: what opaque submodules return, or why the model fails."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import nn

from retiarii.ir.tracing.signals import Broken, Unlowerable
from retiarii.ir.tracing.state import ModelState
from retiarii.ir.tracing.structure import (
    NotAStructureError,
    freeze_structure,
    map_tensors,
    tensors_in,
)
from retiarii.ir.tracing.where import CallSites
from retiarii.ir.types import TensorType


class RealRun:
    """Runs a copy of the model on its example inputs, and notes what every module returned.

    Args:
        model: the user's model; the copy has real weights. One that cannot be copied is given
            copies of its tensors, and the caller puts its attributes back.
        args: the example inputs.
        kwargs: likewise.
        gradients: run under autograd: the model uses it in forward.

    Raises:
        Broken: the model does not run.
    """

    def __init__(
        self, model: nn.Module, args: Any, kwargs: dict[str, Any], *, gradients: bool
    ) -> None:
        self._results: dict[tuple[str, int], Any] = {}
        self._writes: set[tuple[str, int]] = set()
        self._shares: set[tuple[str, int]] = set()
        self._calls: dict[str, int] = {}
        self._path: str = ""
        self._failed: tuple[str, Exception] | None = None
        twin = _real_copy(model)
        for path, module in ModelState.of(twin).modules.items():
            module.__dict__["_compiled_call_impl"] = functools.partial(self._call, module, path)
        args, kwargs = map_tensors(_real, args), map_tensors(_real, kwargs)
        sites = CallSites(RealRun._call.__code__)
        try:
            with torch.set_grad_enabled(gradients):
                twin(*args, **kwargs)
        except Exception as error:
            failed = self._failed
            path = failed[0] if failed is not None and failed[1] is error else ""
            raise Broken(path, error, sites.of_traceback(error.__traceback__)) from error

    def result(self, path: str, number: int) -> Any:
        """What call ``number`` of the module returned: frozen, with a `TensorType` a tensor.

        Raises:
            Unlowerable: no structure of tensors, or there was no such call.
        """
        found = self._results.get((path, number), None)
        if isinstance(found, NotAStructureError):
            raise Unlowerable(f"calls {path!r}, which is opaque and returns {found}")
        if (path, number) not in self._results:
            raise Unlowerable(f"calls {path!r} in ways that depend on the data")
        return found

    def writes(self, path: str, number: int) -> bool:
        """Whether the call wrote its arguments."""
        return (path, number) in self._writes

    def shares(self, path: str, number: int) -> bool:
        """Whether two tensors among the call's arguments and results share memory."""
        return (path, number) in self._shares

    def _call(self, module: nn.Module, path: str, /, *args: Any, **kwargs: Any) -> Any:
        number = self._calls[path] = self._calls.get(path, -1) + 1
        given = tensors_in((args, kwargs))
        versions = [t._version for t in given]
        try:
            result = type(module)._call_impl(module, *args, **kwargs)  # type: ignore[no-untyped-call]
        except Exception as error:
            if self._failed is None or self._failed[1] is not error:
                self._failed = (path, error)
            raise
        if [t._version for t in given] != versions:
            self._writes.add((path, number))
        made = tensors_in(result)
        memory = {t.untyped_storage()._cdata for t in made if t.layout is torch.strided}
        outside = {t.untyped_storage()._cdata for t in given if t.layout is torch.strided}
        if len(memory) < len(made) or memory & outside:
            self._shares.add((path, number))
        try:
            self._results[path, number] = freeze_structure(result, TensorType.of, records=not path)
        except NotAStructureError as error:
            self._results[path, number] = error
        return result


def _real_copy(model: nn.Module) -> nn.Module:
    """A copy with real weights; the model itself with copies of its tensors, if need be."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and id(tensor) not in memo:
                memo[id(tensor)] = _like_parameter(tensor, _real(tensor))
        for value in module.__dict__.values():
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                memo[id(value)] = _real(value)
    twins = dict(memo)
    try:
        return copy.deepcopy(model, memo)
    except Exception:
        for module in model.modules():
            kinds: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for held in kinds:
                held.update({n: twins[id(t)] for n, t in held.items() if t is not None})
        return model


def _like_parameter(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(value, requires_grad=tensor.requires_grad)
    return value


def _real(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of its own with the same numbers; ones, where it has no numbers."""
    if tensor.is_meta:
        made = torch.ones(tensor.shape, dtype=tensor.dtype)
    else:
        made = tensor.detach().clone()
    return made.requires_grad_(tensor.requires_grad) if made.is_floating_point() else made
