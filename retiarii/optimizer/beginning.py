"""What a merged model begins with: where tensors lie, their values, and plans that are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from retiarii.optimizer.compile import Compiled, Options, compile_plan
from retiarii.optimizer.lift import Model
from retiarii.optimizer.plan import Plan
from retiarii.optimizer.storage import Home, Stack, Storage

Mode = bool | None


@dataclass(frozen=True)
class Begun:
    """The beginning of a merged model.

    Attributes:
        storage: where parameters and buffers lie.
        sharing: which of the models' tensors are one.
        values: of each stack.
        mode: the training flag of all layers; ``None``: each layer's own.
        training: the training flag of the model itself.
        laid: plans that are made, but for their code, and the calls that each model alone makes.
        opaque: (model, path) -> the submodule that is called as it is.
        first: the program for training, where it is compiled.
    """

    storage: Storage
    sharing: Mapping[Home, Home]
    values: Sequence[Tensor]
    mode: Mode
    training: bool
    laid: Mapping[Mode, tuple[Plan, tuple[int, ...]]]
    opaque: Mapping[tuple[int, str], nn.Module]
    first: Compiled | None = None


def begin(models: Sequence[Model], options: Options) -> Begun:
    """Compiles the program for training, and stacks the models' initial values."""
    first = compile_plan(models, True, options, None)
    values = []
    for stack in first.storage.stacks:
        members = [_initial(models[model], key, stack) for model, key in stack.homes]
        values.append(members[0].clone() if stack.plain else torch.stack(members))
    contexts = [m.graph.context for m in models]
    (flag, uniform), *others = {(c.training, not c.modes) for c in contexts}
    mode = flag if uniform and not others else None
    training = any(c.training for c in contexts)
    return Begun(first.storage, first.sharing, values, mode, training, {}, {}, first)


def _initial(model: Model, key: str, stack: Stack) -> Tensor:
    if stack.kind == "constant":
        return model.graph.context.constants[key.removeprefix("constant:")].detach()
    return model.tensors[key].detach()
