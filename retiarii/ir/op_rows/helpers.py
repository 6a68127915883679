"""Functions that stand for writes: they return what the tensor is after it.

Their text goes into generated code, so they use nothing but torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch


def setitem(input: torch.Tensor, index: object, value: object) -> torch.Tensor:
    """What ``input`` is after ``input[index] = value``."""
    result = input.clone()
    result[index] = value  # type: ignore[index, assignment]
    return result


def copy(input: torch.Tensor, src: torch.Tensor) -> torch.Tensor:
    """What ``input`` is after ``input.copy_(src)``."""
    return input.clone().copy_(src)


def uniform(input: torch.Tensor, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """What ``input`` is after ``input.uniform_(low, high)``."""
    return torch.empty_like(input).uniform_(low, high)


def gaussian(input: torch.Tensor, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    """What ``input`` is after ``input.normal_(mean, std)``."""
    return torch.empty_like(input).normal_(mean, std)


def by_mode(input: torch.Tensor, other: torch.Tensor, training: bool) -> torch.Tensor:
    """``input`` in training, ``other`` in evaluation."""
    if input.shape != other.shape:
        raise ValueError(f"{list(input.shape)} in training, {list(other.shape)} in evaluation")
    return input if training else other


def text_of(helper: Callable[..., torch.Tensor]) -> str:
    """The helper's text, to print beside generated code that calls it."""
    return inspect.getsource(helper).replace("  # type: ignore[index, assignment]", "")
