"""Types of results: each distinct (op, attributes, input types) is run once on meta tensors.

Nothing here has storage, touches the global random state, or sees the caller's tensor modes.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import nn
from torch.func import functional_call

from retiarii.errors import ShapeError
from retiarii.ir.ops import OpSpec, arrange_call, constructor_attrs, op_spec
from retiarii.ir.types import (
    Attrs,
    BatchSize,
    ByMode,
    FrozenDict,
    FrozenList,
    InputDevice,
    Result,
    TensorType,
    Training,
    map_leaves,
)

# Stops torch-function modes: the parser's, and a default device.
_ALONE: Final = torch._C.DisableTorchFunction
Inferred = tuple[tuple[TensorType, ...], Any]


class Strided(NamedTuple):
    """A tensor's type, and how it lies in memory."""

    type: TensorType
    strides: tuple[int, ...]

    @staticmethod
    def of(tensor: torch.Tensor) -> Strided:
        return Strided(TensorType.of(tensor), tensor.stride())

    def meta(self) -> torch.Tensor:
        """Such a tensor without storage."""
        kind = self.type
        return torch.empty_strided(kind.shape, self.strides, dtype=kind.dtype, device="meta")


@dataclass(frozen=True, slots=True)
class StateSpec:
    """One tensor that a layer holds.

    Attributes:
        type: shape and dtype.
        kind: whether an optimizer trains it.
        persistent: whether it is in the ``state_dict``.
    """

    type: TensorType
    kind: Literal["parameter", "buffer"]
    persistent: bool = True


class TypeCache:
    """What has been inferred so far; the copies of a graph share one.

    Args:
        batch: the batch size at which shapes are given; ``BatchSize`` attributes are read at it.

    Attributes:
        notes: room for other facts that hold for an (op, attributes), such as its canonical label.
    """

    __slots__ = ("batch", "calls", "fitted", "layers", "notes", "states")

    def __init__(self, batch: int = 1) -> None:
        self.batch = batch
        self.calls: dict[tuple[str, Attrs, tuple[TensorType, ...]], Inferred] = {}
        # An inserted node's (op, attributes, input types) -> what it becomes, resized.
        self.fitted: dict[
            tuple[str, Attrs, tuple[TensorType, ...]], tuple[Attrs, tuple[TensorType, ...], Any]
        ] = {}
        self.layers: dict[tuple[str, Attrs], nn.Module] = {}
        self.states: dict[tuple[str, Attrs], Mapping[str, StateSpec]] = {}
        self.notes: dict[Any, Any] = {}

    def at(self, batch: int) -> TypeCache:
        """The memory for another batch size; it lives as long as this one."""
        if batch == self.batch:
            return self
        found = self.notes.setdefault(("types at", batch), TypeCache(batch))
        assert isinstance(found, TypeCache)
        return found


def infer(op: str, attrs: Attrs, input_types: tuple[TensorType, ...], cache: TypeCache) -> Inferred:
    """The types of a node's tensors, and the structure they are returned in.

    Args:
        op: the node's op; not a structural one.
        attrs: its attributes.
        input_types: types of its inputs, in order.
        cache: remembers; a call seen before costs a lookup.

    Returns:
        The types, and ``None`` for a single tensor or the structure with ``Result(i)`` inside.

    Raises:
        ShapeError: the call fails on inputs of these types.
    """
    key = (op, attrs, input_types)
    found = cache.calls.get(key)
    if found is None:
        with _ALONE(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = cache.calls[key] = _run(op, attrs, input_types, cache)
        if op_spec(op).kind == "module" and _is_empty(found[0]) and not _is_empty(input_types):
            del cache.calls[key]
            raise ShapeError(
                f"{_described(op, attrs)} makes an empty tensor of {_listed(input_types)}: "
                f"{_listed(found[0])}",
                fix="sizes must be at least 1",
            )
    return found


def infer_strides(
    op: str,
    attrs: Attrs,
    inputs: Sequence[Strided],
    state: Mapping[str, Strided],
    cache: TypeCache,
) -> tuple[Strided, ...]:
    """How a node's tensors lie in memory, where its inputs lie as told; nothing is remembered.

    Args:
        op: the node's op; not a structural one.
        attrs: its attributes, with every training flag in them set.
        inputs: its inputs, in order.
        state: parameters and buffers of a layer that do not lie as a new layer's do.
        cache: of the batch size; holds the layers.

    Raises:
        ShapeError: the call fails on inputs of these types.
    """
    found: list[Strided] = []
    with _ALONE(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = [kind.meta() for kind in inputs]
        _call(op, attrs, tensors, cache, lambda t: found.append(Strided.of(t)), state)
    return tuple(found)


def _is_empty(types: tuple[TensorType, ...]) -> bool:
    return any(0 in t.shape for t in types)


def module_state(op: str, attrs: Attrs, cache: TypeCache | None = None) -> Mapping[str, StateSpec]:
    """Parameters and buffers of a layer, by their names inside it, in ``state_dict`` order.

    Args:
        op: a module's op; others hold nothing.
        attrs: the node's attributes.
        cache: remembers.

    Raises:
        ShapeError: the layer cannot be made with these attributes.
    """
    spec = op_spec(op)
    if spec.kind != "module":
        return MappingProxyType({})
    cache = cache or TypeCache()
    key = (op, attrs)
    found = cache.states.get(key)
    if found is None:
        with _ALONE(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = cache.states[key] = _read_state(_layer(spec, attrs, cache))
    return found


def _read_state(layer: nn.Module) -> Mapping[str, StateSpec]:
    state: dict[str, StateSpec] = {}
    for prefix, module in layer.named_modules():
        at = f"{prefix}." if prefix else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                state[at + name] = StateSpec(TensorType.of(parameter), "parameter")
        for name, buffer in module._buffers.items():
            if buffer is not None:
                kept = name not in module._non_persistent_buffers_set
                state[at + name] = StateSpec(TensorType.of(buffer), "buffer", kept)
    return MappingProxyType(state)


def _layer(spec: OpSpec, attrs: Attrs, cache: TypeCache) -> nn.Module:
    """The layer without storage, made once."""
    key = (spec.name, attrs)
    layer = cache.layers.get(key)
    if layer is None:
        arguments = constructor_attrs(spec, attrs)
        if spec.placed:
            arguments["device"] = "meta"
        try:
            layer = spec.target(**arguments)
        except Exception as error:
            shown = ", ".join(f"{k}={v!r}" for k, v in attrs.items())
            raise ShapeError(
                f"{spec.name}({shown}) cannot be made: {_first_line(error)}",
                fix=f"check the arguments of nn.{spec.name}",
            ) from error
        cache.layers[key] = layer
    return layer


def _run(op: str, attrs: Attrs, input_types: tuple[TensorType, ...], cache: TypeCache) -> Inferred:
    spec = op_spec(op)
    if spec.flops is not None:
        layer = _layer(spec, attrs, cache) if spec.kind == "module" else None
        _require_one_dtype(op, attrs, input_types, layer)
    types: list[TensorType] = []
    structure = _call(
        op,
        attrs,
        [kind.meta() for kind in input_types],
        cache,
        lambda tensor: types.append(TensorType.of(tensor)),
    )
    return tuple(types), None if isinstance(structure, Result) else structure


def _call(
    op: str,
    attrs: Attrs,
    tensors: Sequence[torch.Tensor],
    cache: TypeCache,
    note: Callable[[torch.Tensor], None],
    state: Mapping[str, Strided] | None = None,
) -> Any:
    """Runs the op, notes each tensor that it returns, and returns their structure."""
    spec = op_spec(op)
    layer = _layer(spec, attrs, cache) if spec.kind == "module" else None
    try:
        positional, named = arrange_call(spec, _at_batch(attrs, cache.batch), tensors)
        _keep_off_devices(spec, named, bool(tensors))
        if layer is not None and state:
            held = {name: kind.meta() for name, kind in state.items()}
            returned = functional_call(layer.train(), held, tuple(positional), named)
        elif layer is not None:
            returned = _call_layer(layer, positional, named)
        elif spec.method is not None:
            returned = getattr(positional[0], spec.method)(*positional[1:], **named)
        else:
            returned = spec.target(*positional, **named)
        return _structure(returned, itertools.count(), note)
    except Exception as error:
        types = tuple(map(TensorType.of, tensors))
        raise ShapeError(
            f"{_described(op, attrs)} does not take {_listed(types)}: {_first_line(error)}",
            fix="make the inputs fit, or insert a projection (a 1x1 convolution, a Linear)",
        ) from error


def _require_one_dtype(
    op: str, attrs: Attrs, input_types: tuple[TensorType, ...], layer: nn.Module | None
) -> None:
    """Products need their factors in one dtype; meta tensors do not mind, real ones do."""
    kinds = {t.dtype for t in input_types if t.dtype.is_floating_point}
    held = {p.dtype for p in layer._parameters.values() if p is not None} if layer else set()
    if len(kinds | held) > 1:
        beside = f" beside parameters of {_dtypes(held)}" if held else ""
        raise ShapeError(
            f"{_described(op, attrs)} does not take {_listed(input_types)}{beside}",
            fix="convert the input with .to(dtype), or give the layer dtype=",
        )


def _dtypes(kinds: set[torch.dtype]) -> str:
    return ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))


def _call_layer(layer: nn.Module, positional: list[Any], named: dict[str, Any]) -> Any:
    layer.train()
    try:
        return layer(*positional, **named)
    except ValueError as error:
        # One value per channel has no variance: only training minds.
        if "more than 1" not in str(error):
            raise
        layer.eval()
        return layer(*positional, **named)


def _at_batch(attrs: Attrs, batch: int) -> Attrs:
    def concrete(value: Any) -> Any:
        if isinstance(value, BatchSize):
            return value.at(batch)
        if isinstance(value, Training):
            return value.inverted
        if isinstance(value, InputDevice | torch.device):
            return "meta"
        return value

    def evaluating(value: Any) -> Any:
        return _evaluating(value) if isinstance(value, ByMode | tuple) else value

    return Attrs({name: map_leaves(concrete, evaluating(v)) for name, v in attrs.items()})


def _evaluating(value: Any) -> Any:
    """``value`` with what it is in evaluation mode."""
    if isinstance(value, ByMode):
        return _evaluating(value.evaluating)
    if isinstance(value, FrozenDict | FrozenList):
        return type(value)(map(_evaluating, value))
    return tuple(map(_evaluating, value)) if type(value) is tuple else value


def _keep_off_devices(spec: OpSpec, named: dict[str, Any], has_tensors: bool) -> None:
    """No storage and no random numbers: everything is made on the meta device."""
    makes = not has_tensors and "device" in spec.signature
    if makes or named.get("device") is not None:
        named["device"] = "meta"


def _structure(value: Any, numbers: Iterator[int], note: Callable[[torch.Tensor], None]) -> Any:
    if isinstance(value, torch.Tensor):
        note(value)
        return Result(next(numbers))
    if isinstance(value, list | tuple):
        return tuple(_structure(v, numbers, note) for v in value)
    if isinstance(value, dict):
        return FrozenDict((k, _structure(v, numbers, note)) for k, v in value.items())
    return value


def _described(op: str, attrs: Attrs) -> str:
    shown = ", ".join(f"{k}={v!r}" for k, v in attrs.items())
    return f"{op}({shown})"


def _listed(types: tuple[TensorType, ...]) -> str:
    return " and ".join(map(str, types)) if types else "no inputs"


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
