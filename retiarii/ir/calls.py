"""From a Python call to a node's inputs and attributes, and back, by a row of the op table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import torch

from retiarii.ir.op_rows.spec import OpSpec
from retiarii.ir.types import Attrs, FrozenDict, FrozenList, Operand, map_leaves

# Spellings that torch takes for numpy's sake, or that differ between a function and its method.
_SYNONYMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "axis": ("dim", "dims"),
        "axis0": ("dim0",),
        "axis1": ("dim1",),
        "train": ("training",),
        "from": ("low",),
        "to": ("high",),
        "other": ("src",),
        "split_sizes": ("split_size_or_sections",),
        "keepdims": ("keepdim",),
        "self": ("input",),
        "x": ("input",),
        "a": ("input",),
        "x1": ("input",),
        "x2": ("other",),
        "tensor": ("input",),
        "sections": ("indices_or_sections",),
        "indices": ("indices_or_sections",),
        "split_size": ("split_size_or_sections",),
        "size": ("shape",),
        "shape": ("size",),
        "value": ("fill_value",),
    }
)
_IGNORED: Final[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {
        "out": (None,),
        "names": (None,),
        "generator": (None,),
        "pin_memory": (None, False),
        "layout": (None, torch.strided),
        "_stacklevel": (3, 5),
        "non_blocking": (True, False),
    }
)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def bind_call(
    spec: OpSpec,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    is_tensor: Callable[[Any], bool] = _is_tensor,
) -> tuple[list[Any], dict[str, Any]]:
    """Brings a call to a node's form. For a module's row: the call of its ``forward``.

    Args:
        spec: the row, from :func:`function_op` or :func:`op_spec`.
        args: positional arguments, tensor methods with the tensor first.
        kwargs: named arguments.
        is_tensor: tells the leaves that stand for tensors.

    Returns:
        The tensors in order, and the attributes, with :class:`Operand` for tensors that are not
        leading arguments. Attributes equal to their default are left out. ``inplace=True`` stays:
        what it writes is the caller's to see.

    Raises:
        TypeError: the row has no such parameter.
    """
    if spec.normalise is not None:
        args, kwargs = spec.normalise(tuple(args), dict(kwargs), is_tensor)
    given = _by_name(spec, args, kwargs, is_tensor)
    names = spec.forward if spec.kind == "module" else spec.signature
    tensors: list[Any] = []

    def pull(value: Any) -> Any:
        if is_tensor(value):
            tensors.append(value)
            return Operand(len(tensors) - 1)
        return value

    if spec.generic:
        positional = [*given.pop("args", ())]
        while positional and is_tensor(positional[0]):
            tensors.append(positional.pop(0))
        given = {"args": tuple(positional), **given} if positional else given
    for name in names:
        if name not in spec.operands:
            if name in spec.positional and name in given and not tensors:
                continue
            break
        value: Any = given.get(name)
        many = (spec.star or spec.variadic) and name == spec.operands[0]
        if not (is_tensor(value) or (many and value and all(is_tensor(v) for v in value))):
            break
        tensors += list(value) if many else [value]
        del given[name]
    attrs: dict[str, Any] = {}
    for name, value in given.items():
        if name in spec.defaults and not is_tensor(value):
            default = spec.defaults[name]
            if _same(value, default):
                continue
        attrs[name] = _pulled(pull, value, spec.name in _INDEXED)
    return tensors, attrs


# Rows where a list is not a tuple: x[[0, 1]] picks two rows, x[(0, 1)] one element.
_INDEXED: Final = frozenset({"getitem", "setitem"})


def _same(value: Any, default: Any) -> bool:
    if value is default:
        return True
    if isinstance(value, bool) != isinstance(default, bool):
        return False
    return type(value) in (int, float, bool, str, tuple) and bool(value == default)


def _pulled(pull: Callable[[Any], Any], value: Any, indexed: bool) -> Any:
    def enter(value: Any) -> Any:
        if isinstance(value, list):
            made = [enter(v) for v in value]
            return FrozenList(made) if indexed else tuple(made)
        if type(value) is tuple or isinstance(value, torch.Size):
            return tuple(enter(v) for v in value)
        if isinstance(value, dict):
            return FrozenDict((k, enter(v)) for k, v in value.items())
        if isinstance(value, slice):
            return slice(enter(value.start), enter(value.stop), enter(value.step))
        return pull(value)

    return enter(value)


def _by_name(
    spec: OpSpec,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    is_tensor: Callable[[Any], bool],
) -> dict[str, Any]:
    names = list(spec.forward if spec.kind == "module" else spec.signature)
    if spec.generic:
        return {"args": tuple(args), **kwargs} if args else dict(kwargs)
    given: dict[str, Any] = dict(spec.fallbacks)
    if spec.swapped:
        names[:2] = names[1::-1]
    for position, value in enumerate(args):
        if position >= len(names):
            raise TypeError(f"{spec.name} takes {len(names)} arguments, not {len(args)}")
        name = names[position]
        if name == spec.rest or (spec.star and name == spec.operands[0]):
            tail = args[position:]
            whole = len(tail) == 1 and not is_tensor(tail[0])
            whole = whole and isinstance(tail[0], list | tuple)
            given[name] = tuple(tail[0] if whole else tail)
            break
        given[name] = value
    for name, value in kwargs.items():
        target = name
        if name not in names:
            target = next((n for n in _SYNONYMS.get(name, ()) if n in names), name)
        if target not in names:
            if name in _IGNORED and value in _IGNORED[name]:
                continue
            raise TypeError(f"{spec.name} has no argument {name!r}")
        given[target] = value
    return {**given, **spec.presets}


def arrange_call(
    spec: OpSpec, attrs: Attrs, operands: Sequence[Any]
) -> tuple[list[Any], dict[str, Any]]:
    """The same for any stand-ins of the inputs: refs, tensors, variable names.

    Args:
        spec: the op's row.
        attrs: the node's attributes.
        operands: what stands for the node's inputs, in order.

    Returns:
        Positional and named arguments; frozen lists and dicts are plain again.
    """
    mentioned: set[int] = set()

    def place(value: Any) -> Any:
        if isinstance(value, Operand):
            mentioned.add(value.index)
            return operands[value.index]
        return value

    values = {
        name: thaw(map_leaves(place, value))
        for name, value in attrs.items()
        if spec.kind != "module" or name in spec.forward
    }
    leading = [o for i, o in enumerate(operands) if i not in mentioned]
    if spec.kind == "module":
        return leading, values
    if spec.generic:
        return [*leading, *values.pop("args", ())], values
    positional: list[Any] = []
    for name in spec.signature:
        if leading and name in spec.operands:
            if spec.variadic or spec.star:
                positional += [leading] if spec.variadic else leading
                leading = []
            else:
                positional.append(leading.pop(0))
        elif name in spec.positional and name in values:
            positional.append(values.pop(name))
        else:
            break
    return [*positional, *leading], values


def thaw(value: Any) -> Any:
    """``value`` with frozen lists and dicts made plain again."""
    if isinstance(value, FrozenList):
        return [thaw(v) for v in value]
    if isinstance(value, FrozenDict):
        return {k: thaw(v) for k, v in value}
    if type(value) is tuple:
        return tuple(thaw(v) for v in value)
    return value
