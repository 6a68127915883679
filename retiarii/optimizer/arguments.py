"""From the arguments of a call to the graph's inputs, in order."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from retiarii.errors import MergeError
from retiarii.ir.context import InputSpec
from retiarii.ir.types import FrozenDict, Result, TypeOf


def signature_of(spec: InputSpec) -> inspect.Signature:
    """The signature of the models' ``forward``: what holds no tensor keeps its value as default."""
    made = []
    for name, structure in spec.params:
        kind = (
            inspect.Parameter.KEYWORD_ONLY
            if name in spec.keyword_only
            else inspect.Parameter.POSITIONAL_OR_KEYWORD
        )
        default = inspect.Parameter.empty if _holds_input(structure) else structure
        made.append(inspect.Parameter(name, kind, default=default))
    made.sort(key=lambda p: (p.kind, p.default is not inspect.Parameter.empty))
    return inspect.Signature(made)


def common_spec(specs: Sequence[InputSpec]) -> InputSpec | None:
    """How models take their inputs in common; ``None`` where they do not take them alike.

    What holds no input, such as a mask that was not given, keeps the value that each model was
    lowered with. Only where all have the same may it be named in a call.
    """
    first = specs[0]
    if len({taken(spec) for spec in specs}) > 1:
        return None
    known = [dict(spec.params) for spec in specs]
    params = tuple(
        (name, structure)
        for name, structure in first.params
        if _holds_input(structure) or all(_has(own, name, structure) for own in known)
    )
    return InputSpec(params, first.keyword_only & {name for name, _ in params})


def taken(spec: InputSpec) -> str:
    """How the arguments hold the inputs, whatever they are called, as text."""
    return repr([structure for _, structure in spec.params if _holds_input(structure)])


def _has(params: Mapping[str, Any], name: str, structure: Any) -> bool:
    return name in params and repr(params[name]) == repr(structure)


def inputs_of(
    spec: InputSpec,
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> list[Tensor]:
    """The tensors in the arguments, by the number of the graph's input.

    Raises:
        MergeError: arguments of another structure than the models were lowered with.
    """
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise MergeError(
            f"the merged model cannot be called so: {error}",
            fix=f"call it as its models: merged{signature}",
        ) from error
    found: dict[int, Tensor] = {}
    for name, structure in spec.params:
        value = bound.arguments.get(name, structure)
        _take(structure, value, name, found)
    return [found[i] for i in sorted(found)]


def _take(structure: Any, value: Any, where: str, found: dict[int, Tensor]) -> None:
    if isinstance(structure, Result):
        if not isinstance(value, Tensor):
            raise _unlike(where, "a tensor", value)
        found[structure.index] = value
    elif isinstance(structure, FrozenDict):
        if not isinstance(value, Mapping):
            raise _unlike(where, "a dict", value)
        for key, part in structure:
            if key not in value:
                raise _unlike(f"{where}[{key!r}]", "a value", None)
            _take(part, value[key], f"{where}[{key!r}]", found)
    elif type(structure) is tuple and len(structure) == 2 and isinstance(structure[0], TypeOf):
        for key, part in structure[1]:
            by_key = isinstance(value, Mapping)
            _take(part, value[key] if by_key else getattr(value, key), f"{where}.{key}", found)
    elif isinstance(structure, tuple):
        if not isinstance(value, list | tuple) or len(value) != len(structure):
            raise _unlike(where, f"{len(structure)} values", value)
        for i, (part, given) in enumerate(zip(structure, value, strict=True)):
            _take(part, given, f"{where}[{i}]", found)
    elif value is not structure and value != structure:
        raise _unlike(where, repr(structure), value)


def _holds_input(structure: Any) -> bool:
    if isinstance(structure, tuple):
        return any(map(_holds_input, structure))
    return isinstance(structure, Result)


def _unlike(where: str, wanted: str, value: Any) -> MergeError:
    return MergeError(
        f"argument {where} is {type(value).__name__}: {value!r:.60}, and the models were lowered "
        f"with {wanted}",
        fix="merge them with example_inputs of this structure",
    )
