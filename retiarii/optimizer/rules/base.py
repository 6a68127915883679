"""What a fusion rule is: how the equal calls of many models become one call on stacked tensors.

A rule is a function from a `Fusion` to a `Lowering`, or to ``None`` where it cannot fuse; then the
members run one by one. Rules write no backward pass: autograd differentiates what they call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from retiarii.ir.op_rows.spec import OpSpec
from retiarii.ir.ops import op_spec
from retiarii.ir.types import Attrs, BatchSize, FrozenList, InputDevice, TensorType


class Form(Enum):
    """How the tensors of G members, each of shape ``S``, lie in one tensor.

    ``PLAIN`` is no stack: one tensor of shape ``S`` that all members share.
    """

    MEMBERS = "members"  # [G, *S]
    CHANNELS = "channels"  # [S[0], G * S[1], *S[2:]]; S has at least two dimensions
    PLAIN = "plain"  # S


@dataclass(frozen=True, slots=True)
class Call:
    """What each member of a group computes.

    Attributes:
        op: a row of the op table.
        attrs: its attributes; modes are resolved, `BatchSize` and `InputDevice` may stand in them.
        inputs: types of one member's tensors: its operands, then its parameters and buffers.
        results: types of one member's results.
        result: the structure it returns; ``None`` for one tensor.
        state: the local names of the last ``len(state)`` inputs (``weight``, ``running_mean``).
        training: whether it runs in training mode.
        order: the dimensions as they lie in memory where the member alone draws random numbers,
            from the outermost to the innermost; ``None``: in their own order.
    """

    op: str
    attrs: Attrs
    inputs: tuple[TensorType, ...]
    results: tuple[TensorType, ...]
    result: Any = None
    state: tuple[str, ...] = ()
    training: bool = True
    order: tuple[int, ...] | None = None

    @property
    def spec(self) -> OpSpec:
        return op_spec(self.op)

    @property
    def operands(self) -> tuple[TensorType, ...]:
        """The types of the inputs that are no parameters and buffers of the layer."""
        return self.inputs[: len(self.inputs) - len(self.state)]

    def number(self, state: str) -> int | None:
        """Which input a parameter or buffer is; ``None`` where the layer has none of that name."""
        if state not in self.state:
            return None
        return len(self.inputs) - len(self.state) + self.state.index(state)


@dataclass(frozen=True, slots=True)
class Fusion:
    """A group that a rule is asked about.

    Attributes:
        call: what each member computes.
        size: the number of members, G; rules serve 1 as well.
        shared: for each input, whether it is one tensor for all members.
        forms: for each input, the form in which it lies now: a hint, what fits it costs nothing.
    """

    call: Call
    size: int
    shared: tuple[bool, ...]
    forms: tuple[Form, ...]


@dataclass(frozen=True, slots=True)
class Lowering:
    """How a group is computed.

    Attributes:
        text: a Python expression. ``$0``, ``$1`` ... are the inputs in the forms asked for,
            ``$streams`` is the members' random streams (a list of ``torch.Generator``). It may use
            ``torch``, ``F``, ``kernels`` (`retiarii.optimizer.kernels`), ``batch`` (the batch
            size) and ``device``. Its value is the result, or a tuple or list of all results.
        inputs: the form asked for, input by input; ``PLAIN`` only where the input is shared. A
            shared input asked for in another form is expanded.
        results: the form of each result.
    """

    text: str
    inputs: tuple[Form, ...]
    results: tuple[Form, ...]


Rule = Callable[[Fusion], Lowering | None]


def literal(value: Any) -> str:
    """Python for a value of an attribute, as generated code writes it.

    Raises:
        TypeError: a value that has no literal.
    """
    writer = _WRITERS.get(type(value))
    if writer is None:
        raise TypeError(f"no literal for a {type(value).__name__}")
    return writer(value)


def _batch(value: BatchSize) -> str:
    text = "batch" if value.scale == 1 else f"{value.scale} * batch"
    if value.divisor != 1:
        text += f" // {value.divisor}"
    return text if value.offset == 0 else f"{text} + {value.offset}"


def _float(value: float) -> str:
    return repr(value) if value - value == 0 else f"float('{value}')"


def _tuple(value: tuple[Any, ...]) -> str:
    inner = ", ".join(map(literal, value))
    return f"({inner},)" if len(value) == 1 else f"({inner})"


def _slice(value: slice) -> str:
    return f"slice({literal(value.start)}, {literal(value.stop)}, {literal(value.step)})"


_WRITERS: Mapping[type, Callable[[Any], str]] = {
    int: repr,
    bool: repr,
    str: repr,
    complex: repr,
    float: _float,
    type(None): repr,
    type(Ellipsis): lambda _: "...",
    tuple: _tuple,
    FrozenList: lambda v: f"[{', '.join(map(literal, v))}]",
    slice: _slice,
    BatchSize: _batch,
    InputDevice: lambda _: "device",
    torch.dtype: str,
    torch.layout: str,
    torch.memory_format: str,
    torch.device: lambda v: f"torch.device({str(v)!r})",
}
