"""Running a model's code without leaving a trace on the model, or on anything global."""

from __future__ import annotations

import copy
import operator
import random
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from retiarii.errors import ParseError
from retiarii.ir.tracing.state import ModelState

_CONTAINERS = (list, dict, set, OrderedDict)


class Snapshot:
    """The Python attributes of all modules of a model, to be put back."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = [(module, dict(module.__dict__)) for module in model.modules()]
        self._containers: dict[int, tuple[Any, Any]] = {}
        for _, attributes in self._modules:
            for value in attributes.values():
                if type(value) in _CONTAINERS:
                    # Most are empty (a module has a dozen dicts of hooks), and copies cost.
                    self._containers[id(value)] = (value, value.copy() if value else ())

    def assigned(self) -> list[tuple[nn.Module, str]]:
        """The parameters and buffers that were exchanged for other tensors: (module, name)."""
        return [
            (module, name)
            for module, attributes in self._modules
            for kind in ("_parameters", "_buffers")
            if id(attributes.get(kind)) in self._containers  # TorchScript has its own
            for name, old in dict(self._containers[id(attributes[kind])][1]).items()
            if module.__dict__[kind].get(name) is not old
        ]

    def differs(self) -> bool:
        """Whether any attribute is another object than it was."""
        return any(
            not _same(content, container)
            for container, content in self._containers.values()
            if container or content
        ) or any(not _same(module.__dict__, attributes) for module, attributes in self._modules)

    def restore(self) -> None:
        """Puts everything back."""
        for module, attributes in self._modules:
            if not _same(module.__dict__, attributes):
                module.__dict__.clear()
                module.__dict__.update(attributes)
        for container, content in self._containers.values():
            if (container or content) and not _same(container, content):
                container.clear()
                (container.extend if isinstance(container, list) else container.update)(content)


def _same(one: Any, other: Any) -> bool:
    """Whether two containers hold the same objects in the same order."""
    if len(one) != len(other):
        return False
    if not one:
        return True
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(operator.is_, one.values(), other.values()))
    if isinstance(one, set):
        return bool(one == other)
    return all(map(operator.is_, one, other))


def python_random_state() -> tuple[Any, ...]:
    """The states of Python's and NumPy's global generators, comparable with ``==``."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return (random.getstate(),)
    kind, keys, *rest = numpy.random.get_state()
    return (random.getstate(), kind, keys.tobytes(), *rest)


@contextmanager
def python_random_kept() -> Iterator[None]:
    """Restores Python's and NumPy's global generators at its end."""
    numpy = sys.modules.get("numpy")
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy is not None else None
    try:
        yield
    finally:
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[Snapshot]:
    """Restores the model's attributes, random states and autograd's mode at its end."""
    snapshot = Snapshot(model)
    try:
        with (
            python_random_kept(),
            torch.random.fork_rng(devices=[]),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
        ):
            yield snapshot
    finally:
        snapshot.restore()


def meta_copy(model: nn.Module, state: ModelState) -> nn.Module:
    """A copy whose parameters and buffers have no storage; where the model cannot be copied, the
    model itself with its tensors exchanged (`undisturbed` puts them back).
    """
    twins: dict[int, torch.Tensor] = {}
    for key, tensor in state.tensors.items():
        if id(tensor) not in twins:
            twins[id(tensor)] = _meta_twin(key, tensor, key in state.parameters)
    memo: dict[int, Any] = dict(twins)
    memory = {_memory(tensor) for tensor in state.tensors.values()} - {None}
    for module in state.modules.values():
        for value in module.__dict__.values():
            # What was computed from parameters (old-style weight_norm leaves such a tensor), or
            # shares their memory, has no numbers in the copy either: it must not become a constant.
            if isinstance(value, torch.Tensor) and (
                value.grad_fn is not None or _memory(value) in memory
            ):
                memo.setdefault(id(value), torch.empty_like(value.detach(), device="meta"))
    try:
        return _copied(model, memo)
    except Exception:
        for module in state.modules.values():
            kinds: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for held in kinds:
                held.update({n: twins[id(t)] for n, t in held.items() if t is not None})
        return model


_SHARED = (int, float, str, bool, type(None), torch.dtype, torch.device, type)


def _copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy; by hand where modules have no say in how they are copied, which is faster."""
    kinds = {kind: _is_plain(kind) for kind in {type(m) for m in model.modules()}}
    plain = [m for m in model.modules() if kinds[type(m)]]
    shells = {id(module): object.__new__(type(module)) for module in plain}
    memo.update(shells)
    for module in plain:
        attributes = shells[id(module)].__dict__
        for name, value in module.__dict__.items():
            kind = type(value)
            if name == "_compiled_call_impl":
                continue
            if name == "_parameters" or name == "_buffers" or name == "_modules":
                attributes[name] = kind((k, copy.deepcopy(v, memo)) for k, v in value.items())
            elif kind in _SHARED or (kind is tuple and all(type(v) in _SHARED for v in value)):
                attributes[name] = value
            elif kind in (dict, OrderedDict, set) and not value:
                attributes[name] = kind()
            else:
                attributes[name] = copy.deepcopy(value, memo)
    return copy.deepcopy(model, memo)


def _is_plain(kind: type[nn.Module]) -> bool:
    """Whether a copy is the attributes' copies. (`__setstate__` of layers is for old pickles.)"""
    return (
        not hasattr(kind, "__deepcopy__")
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__getstate__ == nn.Module.__getstate__
        and kind.__setstate__.__module__.startswith("torch.nn.modules.")
        and not issubclass(kind, nn.RNNBase)
    )


def _memory(tensor: torch.Tensor) -> int | None:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return None


def _meta_twin(key: str, tensor: torch.Tensor, is_parameter: bool) -> torch.Tensor:
    if torch.nn.parameter.is_lazy(tensor):
        raise ParseError(
            "the model has parameters whose shape is not known yet (a lazy module)",
            where=f"parameter {key!r}",
            fix="run the model once on example inputs before parsing it",
        )
    try:
        twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    except (RuntimeError, NotImplementedError):  # sparse or quantised: no strides
        twin = tensor.detach().to("meta")
    if is_parameter:
        twin = nn.Parameter(twin, requires_grad=tensor.requires_grad)
    elif tensor.requires_grad:
        twin.requires_grad_(True)
    twin.__dict__.update(getattr(tensor, "__dict__", {}))
    return twin
