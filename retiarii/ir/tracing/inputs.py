"""Example inputs: bound to ``forward``'s parameters, named, and made again at other batch sizes."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from retiarii.errors import ParseError
from retiarii.ir.context import InputSpec
from retiarii.ir.tracing.structure import (
    NotAStructureError,
    fields_of,
    freeze_structure,
    map_tensors,
    tensors_in,
)
from retiarii.ir.types import Result

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class ExampleInputs:
    """A model's example inputs.

    Attributes:
        args: as ``forward`` is called with them.
        kwargs: likewise.
        spec: how ``forward``'s parameters hold the tensors.
        names: the name of each tensor input ("x", "batch.image").
        batch: the leading dimension of the first tensor that has one, else 1.
        batch_input: the number of that tensor.
        has_batch: whether there is one.
        device: the device of the first tensor.
        anywhere: of each tensor the first dimension of the batch's size follows it, and not the
            leading one alone: recurrent states have their batch behind the layers.
        other: sizes to try: (number of the tensor, dimension) -> size.
        positional: what the parameters are called that ``args`` are given to.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    spec: InputSpec
    names: tuple[str, ...]
    batch: int
    batch_input: int
    has_batch: bool
    device: torch.device
    anywhere: bool = False
    other: Mapping[tuple[int, int], int] = field(default_factory=lambda: MappingProxyType({}))
    positional: tuple[str, ...] = ()

    @property
    def ambiguous(self) -> bool:
        """Whether a tensor has a dimension of the batch's size, but not as its leading one."""
        return self.has_batch and any(
            self.batch in t.shape and t.shape[0] != self.batch for t in self.tensors()
        )

    def tensors(self) -> list[torch.Tensor]:
        """The tensor inputs, in the order of ``names``."""
        return tensors_in((self.args, self.kwargs))

    def batch_dim(self, tensor: torch.Tensor) -> int | None:
        """The dimension of an input that is the batch, if there is one."""
        shape = list(tensor.shape)
        if self.has_batch and self.batch in (shape if self.anywhere else shape[:1]):
            return shape.index(self.batch)
        return None

    def meta(self, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments without storage, at another batch size."""

        numbers = itertools.count()

        def twin(tensor: torch.Tensor) -> torch.Tensor:
            shape, number = list(tensor.shape), next(numbers)
            follows = self.batch_dim(tensor)
            if follows is not None:
                shape[follows] = batch
            for (of, dim), size in self.other.items():
                if of == number:
                    shape[dim] = size
            made = torch.empty(shape, dtype=tensor.dtype, device="meta")
            return made.requires_grad_(tensor.requires_grad)

        args: tuple[Any, ...] = map_tensors(twin, self.args)
        return args, map_tensors(twin, self.kwargs)

    def shown(self) -> str:
        """What was given for which parameter of ``forward``."""
        bound = {**dict(zip(self.positional, self.args, strict=False)), **self.kwargs}
        return ", ".join(f"{name}: {_kind(value)}" for name, value in bound.items()) or "none"

    @staticmethod
    def bind(model: nn.Module, example: Any) -> ExampleInputs:
        """Binds a tensor, a tuple (positional) or a dict (by name) to ``model.forward``.

        Raises:
            ParseError: ``forward`` does not take them.
        """
        args, kwargs = _arguments(model, example)
        signature = _signature(model)
        bound = _bound(signature, args, kwargs, model)
        params: list[tuple[str, Any]] = []
        keyword_only: set[str] = set()
        names: list[str] = []
        # In the order of tensors_in((args, kwargs)), which is also the order of the signature
        # once the keyword arguments are sorted by it.
        args, kwargs = bound.args, bound.kwargs
        for name, kind, value in _flat_parameters(signature, bound):
            frozen = _frozen(value, name, names)
            params.append((name, frozen))
            if kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
                keyword_only.add(name)
        tensors = tensors_in((args, kwargs))
        _check_plain(dict(zip(names, tensors, strict=True)))
        counted = next((i for i, t in enumerate(tensors) if t.dim()), None)
        return ExampleInputs(
            args,
            kwargs,
            InputSpec(tuple(params), frozenset(keyword_only)),
            tuple(names),
            1 if counted is None else tensors[counted].shape[0],
            counted or 0,
            counted is not None,
            tensors[0].device if tensors else torch.device("cpu"),
            positional=tuple(name for name, _ in params),
        )


def _signature(model: nn.Module) -> inspect.Signature:
    """What ``forward`` takes; any arguments by position where it does not say (a builtin)."""
    try:
        return inspect.signature(model.forward)
    except (TypeError, ValueError):
        anything = inspect.Parameter("inputs", inspect.Parameter.VAR_POSITIONAL)
        return inspect.Signature([anything])


def _arguments(model: nn.Module, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if type(example) is tuple:
        return example, {}
    if type(example) is not dict:
        return (example,), {}
    signature = _signature(model)
    if all(isinstance(key, str) for key in example):
        try:
            signature.bind(**example)
        except TypeError:
            if example.keys() & signature.parameters.keys():
                return (), dict(example)  # by name, and some are wrong
        else:
            return (), dict(example)
    # A model that takes one dict, given as it is.
    return (example,), {}


def _bound(
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    model: nn.Module,
) -> inspect.BoundArguments:
    try:
        return signature.bind(*args, **kwargs)
    except TypeError:
        takes = ", ".join(str(p).partition(":")[0] for p in _bare(signature).values())
        raise ParseError(
            f"forward takes ({takes}), and these example inputs do not fit: "
            + _misfit(signature, args, kwargs),
            where=f"{type(model).__name__}.forward",
            fix="give a tensor, a tuple of positional arguments, or a dict of arguments by name",
        ) from None


def _bare(signature: inspect.Signature) -> dict[str, inspect.Parameter]:
    """The parameters without their annotations."""
    empty = inspect.Parameter.empty
    return {name: p.replace(annotation=empty) for name, p in signature.parameters.items()}


def _misfit(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What was given, what is missing, and what is too much."""
    names = [n for n, p in signature.parameters.items() if p.kind in _BY_POSITION]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    required = [
        name
        for name, p in signature.parameters.items()
        if p.default is inspect.Parameter.empty and p.kind not in _VARIADIC
    ]
    missing = [name for name in required if name not in given]
    unknown = [name for name in kwargs if name not in signature.parameters]
    parts = [f"given {', '.join(f'{n}: {_kind(v)}' for n, v in given.items()) or 'nothing'}"]
    if missing:
        parts.append(f"missing {', '.join(missing)}")
    if unknown:
        parts.append(f"it has no {', '.join(unknown)}")
    if len(args) > len(names):
        parts.append(f"{len(args)} positional arguments for {len(names)}")
    return "; ".join(parts)


def _kind(value: Any) -> str:
    """A value in an error message."""
    if isinstance(value, torch.Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind}{[] if value.is_nested else list(value.shape)}"
    return "None" if value is None else type(value).__qualname__


def _check_plain(tensors: Mapping[str, torch.Tensor]) -> None:
    """Inputs that no graph has: the trace would take them for others.

    Raises:
        ParseError: there is one.
    """
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized:
            what = "nested" if tensor.is_nested else "sparse or quantized"
            raise ParseError(
                f"the example input {name!r} is a {what} tensor",
                where=f"argument {name!r} of forward",
                fix="give a dense one, and make it such inside of the model",
            )


def _flat_parameters(
    signature: inspect.Signature, bound: inspect.BoundArguments
) -> list[tuple[str, Any, Any]]:
    """(name, kind, value) of each argument; ``*args`` and ``**kwargs`` one by one."""
    flat: list[tuple[str, Any, Any]] = []
    taken = set(signature.parameters)
    for name, parameter in signature.parameters.items():
        kind = parameter.kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            values = bound.arguments.get(name, ())
            flat += [(_free(f"{name}_{i}", taken), kind, v) for i, v in enumerate(values)]
        elif kind is inspect.Parameter.VAR_KEYWORD:
            flat += [(key, kind, v) for key, v in bound.arguments.get(name, {}).items()]
        elif name in bound.arguments:
            flat.append((name, kind, bound.arguments[name]))
        else:
            flat.append((name, kind, parameter.default))
    return flat


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _frozen(value: Any, name: str, names: list[str]) -> Any:
    """The structure of one argument; the names of its tensors are added to ``names``."""
    paths = iter(_tensor_paths(value, name))

    def leaf(_: torch.Tensor) -> Result:
        names.append(next(paths))
        return Result(len(names) - 1)

    try:
        return freeze_structure(value, leaf)
    except NotAStructureError:
        if next(paths, None) is not None:
            raise ParseError(
                f"the example input {name!r} holds tensors in a {type(value).__qualname__}",
                where=f"argument {name!r} of forward",
                fix="use tensors, lists, tuples, dicts, named tuples or dataclasses of them",
            ) from None
        # An object without tensors: the trace saw it, and the graph does not need it.
        return None


def _tensor_paths(value: Any, prefix: str) -> list[str]:
    if isinstance(value, torch.Tensor):
        return [prefix]
    fields = dict(value) if isinstance(value, dict) else fields_of(value)
    if fields is None and isinstance(value, list | tuple):
        fields = dict(enumerate(value))
    return [p for k, v in (fields or {}).items() for p in _tensor_paths(v, f"{prefix}.{k}")]
