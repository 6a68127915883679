"""From a torch call to an op and its attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from retiarii.errors import GraphError
from retiarii.ir.ops import bind_call, function_op, op_spec
from retiarii.ir.tracing import functions as known
from retiarii.ir.tracing.devices import Devices
from retiarii.ir.tracing.signals import Unlowerable
from retiarii.ir.tracing.structure import NotAStructureError, constant
from retiarii.ir.types import Operand, map_leaves


@dataclass(frozen=True, slots=True)
class BoundCall:
    """A call in a node's form.

    Attributes:
        name: of the function that was called.
        op: the row of the op table.
        operands: the tensors that it reads, as the user holds them.
        attrs: its other arguments, by name.
        in_place: it writes its first operand.
        assigns: it does so element by element (``x[i] = y``, ``copy_``), whatever the dtypes.
        twin: the function that computes what an in-place one writes.
    """

    name: str
    op: str
    operands: list[torch.Tensor]
    attrs: dict[str, Any]
    in_place: bool
    assigns: bool
    twin: Any


def bind(
    func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], devices: Devices
) -> BoundCall:
    """Finds the op of a call.

    Raises:
        Unlowerable: no node stands for it.
    """
    in_place = known.is_in_place(name)
    twin = known.out_of_place(func, name) if in_place else func
    assign = _ASSIGN.get(name)
    if assign is not None:
        func = twin = torch.Tensor.__setitem__
        args, kwargs = assign(*args, **kwargs), {}
    op, operands, attrs = _bound(func, name, twin, args, kwargs)
    attrs = literals(attrs, name, devices)
    in_place = in_place or attrs.pop("inplace", False) is True
    assigns = assign is not None or name == "__setitem__"
    return BoundCall(name, op, operands, attrs, in_place, assigns, twin)


def _bound(
    func: Any, name: str, twin: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, list[torch.Tensor], dict[str, Any]]:
    match = function_op(func) or (function_op(twin) if twin is not None else None)
    if match is not None:
        try:
            return match.op, *bind_call(match.spec, args, kwargs)
        except TypeError:
            pass
    qualified = known.qualified_name(twin) if twin is not None else None
    try:
        spec = op_spec(qualified or "")
        return spec.name, *bind_call(spec, args, kwargs)
    except (GraphError, TypeError):
        raise Unlowerable(f"calls {name}, which the op table does not know") from None


def literals(attrs: Mapping[str, Any], name: str, devices: Devices) -> dict[str, Any]:
    """Attributes as the IR holds them.

    Raises:
        Unlowerable: a value that the IR has no constant for.
    """

    def leaf(value: Any) -> Any:
        return value if isinstance(value, Operand) else devices.attr(constant(value))

    try:
        return {key: map_leaves(leaf, value) for key, value in attrs.items()}
    except NotAStructureError as error:
        raise Unlowerable(f"gives {name} {error} as argument") from None


def _copy(x: torch.Tensor, src: Any, non_blocking: bool = False) -> tuple[Any, ...]:
    del non_blocking
    return x, ..., src


# In-place functions that are an assignment to all elements: arguments -> setitem's.
_ASSIGN: Mapping[str, Callable[..., tuple[Any, ...]]] = MappingProxyType(
    {
        "copy_": _copy,
        "fill_": lambda x, value: (x, ..., value),
        "zero_": lambda x: (x, ..., 0),
    }
)
