"""Tensors inside of tuples, lists and dicts: what data sets yield and models return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from retiarii.errors import EvaluatorError


def map_tensors(fn: Callable[[Tensor], Any], value: Any) -> Any:
    """``value`` with ``fn`` applied to each tensor in it; everything else stays."""
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, Mapping):
        return {k: map_tensors(fn, v) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(fn, v) for v in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(fn, v) for v in value)
    return value


def leaves(value: Any) -> list[Any]:
    """What is not a tuple, list or dict, in order; a dict's in the order of its keys."""
    if isinstance(value, Mapping):
        return [leaf for key in sorted(value, key=str) for leaf in leaves(value[key])]
    if isinstance(value, list | tuple):
        return [leaf for v in value for leaf in leaves(v)]
    return [value]


def tensors(value: Any) -> list[Tensor]:
    """The tensors among the leaves."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]


def pairs(outputs: Any, targets: Any, user: str) -> list[tuple[Tensor, Tensor]]:
    """Outputs with their targets.

    Raises:
        EvaluatorError: they do not match one to one. ``user`` names who needs that.
    """
    left, right = tensors(outputs), tensors(targets)
    if not left or len(left) != len(right):
        raise EvaluatorError(
            f"the model returns {len(left)} tensors and the data has {len(right)} targets; "
            f"{user} needs one target for each",
            where=f"the outputs of the model, given to {user}",
            fix="give a callable that takes (outputs, targets) instead",
        )
    return list(zip(left, right, strict=True))


def place(value: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    """``value`` on a device; floating point tensors in ``dtype`` where one is given."""

    def move(tensor: Tensor) -> Tensor:
        cast = dtype is not None and tensor.is_floating_point()
        return tensor.to(device, dtype if cast else tensor.dtype, non_blocking=True)

    return map_tensors(move, value)


def float_dtype(model: nn.Module) -> torch.dtype | None:
    """The one floating point type of a model's parameters; None where they have several or none."""
    found = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return found.pop() if len(found) == 1 else None


def caller(
    model: nn.Module, inputs: Any, call: Callable[..., Any] | None = None
) -> Callable[[Any], Any]:
    """How a model takes these inputs.

    A tuple is spread over the parameters of ``forward`` where it fits them, a dict over the
    parameters of its keys' names; otherwise either is passed as it is.

    Args:
        model: whose ``forward`` says it.
        inputs: of any batch.
        call: what is called in the model's place.
    """
    signature = inspect.signature(model.forward)
    called = model if call is None else call
    if isinstance(inputs, Mapping):
        if _binds(signature, **inputs):
            return lambda batch: called(**batch)
    elif isinstance(inputs, list | tuple) and _binds(signature, *inputs):
        return lambda batch: called(*batch)
    return called


def _binds(signature: inspect.Signature, *args: Any, **kwargs: Any) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True
