"""Runs what a rule writes for one group, on tensors at hand: for tests and for measurements."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from retiarii.optimizer import kernels
from retiarii.optimizer.rules.base import Form

_INPUT = re.compile(r"\$(\d+)")


def runner(
    text: str,
    inputs: int,
    batch: int,
    device: torch.device,
    streams: Sequence[torch.Generator] | None = None,
    scope: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """A function of the inputs that computes an expression as in `Lowering.text`.

    Args:
        text: the expression.
        inputs: how many there are.
        batch: the batch size.
        device: of the inputs.
        streams: the members' random streams.
        scope: what else the text names.
    """
    names = {
        "torch": torch,
        "F": functional,
        "kernels": kernels,
        "batch": batch,
        "device": device,
        "streams": streams,
        **(scope or {}),
    }
    body = _INPUT.sub(r"v\1", text).replace("$streams", "streams")
    made: Callable[..., Any] = eval(
        f"lambda {', '.join(f'v{i}' for i in range(inputs))}: {body}", names
    )
    return made


def flat(value: Any) -> list[Tensor]:
    """The tensors of a result, one after the other."""
    if isinstance(value, Tensor):
        return [value]
    if value is None:
        return []
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in flat(v)]
    raise TypeError(type(value))


def stacked(tensors: Sequence[Tensor], form: Form) -> Tensor:
    """Members' tensors as one tensor of the form."""
    if form is Form.MEMBERS:
        return torch.stack(list(tensors))
    assert form is Form.CHANNELS
    return torch.cat(list(tensors), dim=1)


def member(tensor: Tensor, form: Form, index: int, size: int) -> Tensor:
    """One member of a stacked tensor."""
    if form is Form.MEMBERS:
        return tensor[index]
    if form is Form.PLAIN:
        return tensor
    width = tensor.shape[1] // size
    return tensor[:, index * width : (index + 1) * width]
