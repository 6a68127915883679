"""What a merged model begins with: where tensors lie, their values, and plans that are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from retiarii.optimizer import kernels
from retiarii.optimizer.allocator import keep_memory
from retiarii.optimizer.compile import Compiled, Options, compile_plan
from retiarii.optimizer.fixed import fixed_of
from retiarii.optimizer.lift import Model
from retiarii.optimizer.plan import Plan
from retiarii.optimizer.storage import Home, Stack, Storage

Mode = bool | None


@dataclass(frozen=True, slots=True)
class Laid:
    """A plan that lacks nothing but code.

    Attributes:
        plan: of all models that there were.
        calls: for each of them, the calls that it alone makes.
        stay: the numbers of those that are left; ``None``: all of them.
    """

    plan: Plan
    calls: tuple[int, ...]
    stay: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Begun:
    """The beginning of a merged model.

    Attributes:
        storage: where parameters and buffers lie.
        sharing: which of the models' tensors are one.
        values: of each stack.
        mode: the training flag of all layers; ``None``: each layer's own.
        training: the training flag of the model itself.
        laid: for modes whose plan is known, how to get at it.
        opaque: (model, path) -> the submodule that is called as it is.
        first: the program for training, where it is compiled.
    """

    storage: Storage
    sharing: Mapping[Home, Home]
    values: Sequence[Tensor]
    mode: Mode
    training: bool
    laid: Mapping[Mode, Laid]
    opaque: Mapping[tuple[int, str], nn.Module]
    first: Compiled | None = None


def begin(models: Sequence[Model], options: Options) -> Begun:
    """Compiles the program for training, and stacks the models' initial values."""
    if all(t.device.type == "cpu" for m in models for t in m.tensors.values()):
        keep_memory()
    only = fixed_of(models).training
    first = compile_plan(models, True if only is None else only, options, None)
    values = []
    for stack in first.storage.stacks:
        members = [_initial(models[model], key, stack) for model, key in stack.homes]
        values.append(members[0].clone() if stack.plain else stack_members(members))
    contexts = [m.graph.context for m in models]
    (flag, uniform), *others = {(c.training, not c.modes) for c in contexts}
    mode = flag if uniform and not others else None
    training = any(c.training for c in contexts)
    return Begun(first.storage, first.sharing, values, mode, training, {}, {}, first)


def stack_members(members: Sequence[Tensor]) -> Tensor:
    """[G, *S]; on a CPU filters of images lie as convolutions run there, channels last."""
    return kernels.filters(torch.stack(list(members)))


def _initial(model: Model, key: str, stack: Stack) -> Tensor:
    if stack.kind == "constant":
        return model.graph.context.constants[key.removeprefix("constant:")].detach()
    return model.tensors[key].detach()
