"""What calls return on tensors without storage, where that is known without making them.

Many operators of the meta device are written in Python and take longer than the trace around them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from retiarii.ir.ops import OPS
from retiarii.ir.tracing.structure import map_tensors, tensors_in
from retiarii.ir.types import Attrs, Operand

# Beside the elementwise ones, layers whose result is like their input in shape, strides and dtype.
_LIKE_INPUT = frozenset({"BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "LayerNorm"})
_NORM_DIMS: Mapping[str, int] = MappingProxyType(
    {"BatchNorm1d": 3, "BatchNorm2d": 4, "BatchNorm3d": 5}
)
# Functions of floating-point numbers, element by element, whose results are such numbers.
_UNARY = frozenset(
    {"relu", "relu6", "leaky_relu", "elu", "selu", "silu", "mish", "hardswish", "hardsigmoid"}
    | {"softplus", "logsigmoid", "sigmoid", "tanh", "neg", "abs", "square", "sqrt", "rsqrt"}
    | {"exp", "log", "erf", "sin", "cos", "reciprocal"}
)
_BINARY = frozenset({"add", "sub", "mul", "div"})
# Layers that do the same to each sample -> how many dimensions an input with samples has.
_PER_SAMPLE: Mapping[str, frozenset[int]] = MappingProxyType(
    {
        "Conv1d": frozenset({3}),
        "Conv2d": frozenset({4}),
        "Conv3d": frozenset({5}),
        "ConvTranspose2d": frozenset({4}),
        "Linear": frozenset({2, 3, 4, 5}),
        "MaxPool2d": frozenset({4}),
        "AvgPool2d": frozenset({4}),
        "AdaptiveAvgPool2d": frozenset({4}),
    }
)


class Results:
    """Remembers what equal calls returned, through all traces of a model, or of several."""

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}
        self._samples: dict[Any, tuple[tuple[int, ...], torch.dtype, bool]] = {}
        self._sharing: set[str] = set()  # ops whose results may be views

    def __len__(self) -> int:
        return len(self._made) + len(self._samples)

    def of_layer(
        self,
        module: nn.Module,
        op: str,
        attrs: Attrs,
        operands: list[torch.Tensor],
        call: Callable[[], Any],
    ) -> Any:
        """What a layer returns.

        Args:
            module: the layer.
            op: its op.
            attrs: the constructor's arguments and those of the call.
            operands: the tensors that it is called on, without storage.
            call: calls it.
        """
        made = like_input(module, op, operands)
        if made is not None:
            return made
        learns = any(t is not None and t.requires_grad for t in module._parameters.values())
        what = (op, attrs, module.training, learns)
        if len(operands) == 1 and operands[0].dim() in _PER_SAMPLE.get(op, ()):
            return self._of_samples(what, op, operands, call)
        return self._remembered(what, op, operands, call)

    def of_function(
        self, op: str, attrs: Attrs, operands: list[torch.Tensor], call: Callable[[], Any]
    ) -> Any:
        """What a function returns; arguments as for layers."""
        made = _elementwise(op, attrs, operands)
        return self._remembered((op, attrs), op, operands, call) if made is None else made

    def _of_samples(
        self, what: Any, op: str, operands: list[torch.Tensor], call: Callable[[], Any]
    ) -> Any:
        """Likewise, of a layer that was called on other numbers of samples of the same shape."""
        (x,) = operands
        if not x.is_contiguous() or not x.shape[0]:
            return self._remembered(what, op, operands, call)
        key = (what, x.shape[1:], x.dtype, x.requires_grad, torch.is_grad_enabled())
        known = self._samples.get(key)
        if known is not None:
            shape, dtype, gradient = known
            return _empty((x.shape[0], *shape), dtype, gradient)
        made = self._remembered(what, op, operands, call)
        if (
            isinstance(made, torch.Tensor)
            and made.is_contiguous()
            and made.shape[:1] == x.shape[:1]
            and made.untyped_storage()._cdata != x.untyped_storage()._cdata
        ):
            self._samples[key] = (tuple(made.shape[1:]), made.dtype, made.requires_grad)
        return made

    def _remembered(
        self, what: Any, op: str, operands: list[torch.Tensor], call: Callable[[], Any]
    ) -> Any:
        """What a call returns, from memory where an equal one was made on such tensors.

        Args:
            what: all that the call depends on, beside its operands.
            op: its op.
            operands: the tensors that it reads, without storage.
            call: makes it.
        """
        if op in self._sharing:
            return call()
        inputs = tuple([(t.shape, t.stride(), t.dtype, t.requires_grad) for t in operands])
        key = (what, inputs, torch.is_grad_enabled())
        if key in self._made:
            return map_tensors(_another, self._made[key])
        made = call()
        memory = {t.untyped_storage()._cdata for t in operands}
        returned = tensors_in(made)
        own = {t.untyped_storage()._cdata for t in returned}
        if len(own) == len(returned) and not own & memory:
            self._made[key] = made
        else:
            # Results that share memory with the input would be views of another tensor.
            self._sharing.add(op)
        return made


def like_input(module: nn.Module, op: str, operands: list[torch.Tensor]) -> torch.Tensor | None:
    """The result of a layer that is known to be like its input; ``None`` if it is not."""
    spec = OPS[op]
    if (
        not (op in _LIKE_INPUT or (spec.elementwise and spec.pure and not spec.identity))
        or len(operands) != 1
    ):
        return None
    (x,) = operands
    held = [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
    if not x.is_floating_point() or not x.is_contiguous():
        return None
    if any(t.dtype != x.dtype and t.is_floating_point() for t in held):
        return None
    if op == "LayerNorm":
        sizes: Any = module.normalized_shape
        if tuple(x.shape[-len(sizes) :]) != tuple(sizes):
            return None
    elif op in _NORM_DIMS and not (
        x.dim() == _NORM_DIMS[op] and x.shape[1] == module.num_features and x.numel() > x.shape[1]
    ):
        return None
    gradient = torch.is_grad_enabled() and (x.requires_grad or any(t.requires_grad for t in held))
    return _empty(x.shape, x.dtype, gradient)


def _elementwise(op: str, attrs: Attrs, operands: list[torch.Tensor]) -> torch.Tensor | None:
    """The result of a function of floating-point tensors, one of which has its shape."""
    if op in _UNARY:
        if len(operands) != 1:
            return None
    elif op not in _BINARY or not 1 <= len(operands) <= 2:
        return None
    if not all(type(value) in (int, float, Operand) for value in attrs.values()):
        return None
    full = max(operands, key=torch.Tensor.dim)
    if len(operands) == 2 and operands[0].dim() == operands[1].dim():
        full = max(operands, key=torch.Tensor.numel)
    kind, shape = full.dtype, full.shape
    if not kind.is_floating_point:
        return None
    for operand in operands:
        if operand.dtype != kind or not operand.is_contiguous():
            return None
        if operand.shape != shape and not _widens(operand.shape, shape):
            return None
    gradient = torch.is_grad_enabled() and any(t.requires_grad for t in operands)
    return _empty(shape, kind, gradient)


def _widens(shape: torch.Size, full: torch.Size) -> bool:
    """Whether a tensor of the one shape is broadcast to the other."""
    return all(a in (1, b) for a, b in zip(reversed(shape), reversed(full), strict=False))


def _empty(shape: Any, dtype: torch.dtype, gradient: bool) -> torch.Tensor:
    """A tensor without storage; one that takes gradients is no leaf."""
    made = torch.empty(shape, dtype=dtype, device="meta", requires_grad=gradient)
    return made.clone() if gradient else made


def _another(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor like ``tensor``, which like it takes gradients and is no leaf."""
    made = torch.empty_strided(
        tensor.shape,
        tensor.stride(),
        dtype=tensor.dtype,
        device="meta",
        requires_grad=tensor.requires_grad,
    )
    return made.clone() if tensor.requires_grad else made
