"""One model's tensors in a checkpoint's form, from a merged model and into a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from retiarii.errors import TrialError
from retiarii.optimizer.merged import MergedModel
from retiarii.training.checkpoint import Checkpoint

_MODEL = "model."


def held_by(module: nn.Module) -> dict[str, Tensor]:
    """A model's weights and buffers, also those that are in no ``state_dict``."""
    return {**module.state_dict(), **dict(module.named_buffers())}


def tensors_of(merged: MergedModel, index: int, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a merged model has in the place of what one of its models held at first; copies."""
    return {
        f"{_MODEL}{key}": merged.value_of(index, key, value).clone() for key, value in held.items()
    }


def load_module(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Give a module the weights and buffers of a checkpoint.

    Raises:
        TrialError: it is of another model.
    """
    weights = {
        key.removeprefix(_MODEL): value
        for key, value in checkpoint.tensors.items()
        if key.startswith(_MODEL)
    }
    state_keys = set(module.state_dict())
    buffers = dict(module.named_buffers())
    try:
        module.load_state_dict({k: v for k, v in weights.items() if k in state_keys})
        with torch.no_grad():
            for name in weights.keys() - state_keys:
                buffers[name].copy_(weights[name])
    except (RuntimeError, KeyError) as error:
        raise unfit(checkpoint, error) from error


def scored_weights(checkpoint: Checkpoint, module: nn.Module) -> Mapping[str, Any]:
    """The ``state_dict`` that is stored: with the average of the weights, where there is one."""
    found = {key: checkpoint.tensors[f"{_MODEL}{key}"] for key in module.state_dict()}
    index = {id(p): i for i, p in enumerate(p for p in module.parameters() if p.requires_grad)}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        average = checkpoint.tensors.get(f"average.{index.get(id(parameter), -1)}")
        if average is not None:
            found[name] = average
    return found


def unfit(checkpoint: Checkpoint, error: Exception) -> TrialError:
    """The error of a checkpoint that is of another model."""
    return TrialError(
        f"the checkpoint of epoch {checkpoint.epoch} does not fit the model: {error}",
        fix="the model's code has changed since; start the search in a new directory",
    )
