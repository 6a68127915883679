"""How much memory training takes, before anything is built: the program is run without data.

The plan's own code runs once forward and backward on tensors that have types and no values, while
all storages are counted. So what autograd keeps, gathers copy and kernels return is counted as
torch makes it, and nothing has to be said op by op. What kernels use inside is not seen.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from retiarii.ir.ops import constructor_attrs
from retiarii.ir.types import TensorType
from retiarii.optimizer import kernels
from retiarii.optimizer.compile import Compiled, Options, compile_plan, compiled
from retiarii.optimizer.forest import Item
from retiarii.optimizer.leaving import sharing_without, storage_without, without
from retiarii.optimizer.lift import Model
from retiarii.optimizer.sizes import calls_at
from retiarii.optimizer.watching import StorageWatch


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that training takes.

    Attributes:
        parameters: all parameters and buffers.
        gradients: of the trainable parameters.
        states: of the optimizer.
        activations: what the forward pass leaves for the backward pass, inputs and outputs
            included.
        peak: the most at any time of a step.
        exact: whether the program was run; where it cannot be run without values, activations are
            taken to be all that is ever computed.
    """

    parameters: int
    gradients: int
    states: int
    activations: int
    peak: int
    exact: bool = True

    def __str__(self) -> str:
        about = "" if self.exact else " at most"
        return (
            f"{mib(self.peak)}{about}: parameters {mib(self.parameters)}, gradients "
            f"{mib(self.gradients)}, optimizer {mib(self.states)}, activations "
            f"{mib(self.activations)}"
        )


def mib(size: float) -> str:
    """Bytes, for people."""
    return f"{size / 2**20:.1f} MiB"


def estimate(
    models: Sequence[Model],
    *,
    batch: int | None = None,
    states: float = 1.0,
    device: torch.device | str = "cpu",
    options: Options | None = None,
) -> Memory:
    """What training these models together would take.

    Args:
        models: as for `MergedModel`.
        batch: samples a step; ``None``: as many as the example has.
        states: optimizer state for each parameter, in its own size: 0 for plain SGD, 1 with
            momentum, 2 for Adam.
        device: where they will be trained.
        options: how they will be merged.
    """
    made = compile_plan(models, True, Options(fuse="on") if options is None else options, None)
    return estimate_compiled(made, models, batch, states, torch.device(device))


def fit(
    models: Sequence[Model],
    room: int,
    *,
    batch: int | None = None,
    states: float = 1.0,
    device: torch.device | str = "cpu",
    options: Options | None = None,
) -> int:
    """How many of the models, from the first on, train together in so many bytes.

    Args:
        models: in the order in which they are taken.
        room: bytes that may be used.
        batch: as for `estimate`, as are the others.
        states: of the optimizer.
        device: where.
        options: how.

    Returns:
        The number; 0 where the first alone does not fit.
    """
    if not models:
        return 0
    device = torch.device(device)
    made = compile_plan(models, True, Options(fuse="on") if options is None else options, None)

    def peak(count: int) -> int:
        part = made if count == len(models) else _first(made, count)
        return estimate_compiled(part, models, batch, states, device).peak

    least, most = (0, 0), (len(models), peak(len(models)))
    if most[1] <= room:
        return len(models)
    while most[0] - least[0] > 1:  # the first fit, the second do not
        # Models of a space take about the same, so that few guesses are needed.
        share = (room - least[1]) / max(most[1] - least[1], 1)
        guess = least[0] + round(share * (most[0] - least[0]))
        guess = min(max(guess, least[0] + 1), most[0] - 1)
        found = guess, peak(guess)
        least, most = (found, most) if found[1] <= room else (least, found)
    return least[0]


def _first(made: Compiled, count: int) -> Compiled:
    """The program of the first models."""
    stay = range(count)
    storage, _ = storage_without(made.storage, stay)
    sharing = sharing_without(made.sharing, stay)
    return compiled(without(made.plan, stay), storage, sharing, made.calls[:count], made.choice)


def estimate_compiled(
    made: Compiled, models: Sequence[Model], batch: int | None, states: float, device: torch.device
) -> Memory:
    """`estimate` for a program that is there."""
    stacks = made.storage.stacks
    sizes = [(1 if s.plain else len(s.homes)) * _bytes(s.type) for s in stacks]
    held = sum(sizes)
    gradients = sum(size for size, s in zip(sizes, stacks, strict=True) if s.trainable)
    kept = int(states * gradients)
    forest, was = made.plan.forest, models[0].graph.context.batch
    calls = calls_at(forest, was, was if batch is None else batch)
    inputs = [
        call.results[0]
        for call, item in zip(calls, forest.items, strict=True)
        if item.leaf is not None and item.leaf.kind == "input"
    ]
    try:
        after, peak = _run(made, models, inputs, device)
    except Exception:  # code that needs values: submodules that are called as they are
        after = held + sum(map(_bytes, inputs))
        for call, item in zip(calls, forest.items, strict=True):
            after += sum(map(_bytes, call.results)) if item.leaf is None else 0
        return Memory(held, gradients, kept, after - held, after + gradients + kept, False)
    # Adam and its like make their step in one more tensor as big as the parameters.
    stepping = held + gradients * (2 if states > 1 else 1)
    return Memory(held, gradients, kept, after - held, max(peak, stepping) + kept)


def _run(
    made: Compiled, models: Sequence[Model], inputs: Sequence[TensorType], device: torch.device
) -> tuple[int, int]:
    """Bytes that live after the forward pass, and the most that live at once."""
    code = made.code
    scope: dict[str, Any] = {"torch": torch, "F": functional, "kernels": kernels, **code.scope}
    exec(compile(code.source, "<retiarii memory>", "exec", dont_inherit=True), scope)
    items = made.plan.forest.items
    with torch.random.fork_rng(devices=[]), FakeTensorMode(allow_non_fake_inputs=True):
        held: dict[str, Any] = {}
        for stack in made.storage.stacks:
            shape = stack.type.shape if stack.plain else (len(stack.homes), *stack.type.shape)
            tensor = torch.empty(shape, dtype=stack.type.dtype, device=device)
            held[stack.name] = kernels.filters(tensor).requires_grad_(stack.trainable)
        given = [torch.empty(t.shape, dtype=t.dtype, device=device) for t in inputs]
        streams = [kernels.ModelStream(0, device) for _ in made.calls]
        templates = [_template(items[i], models) for i in code.templates]
        program = SimpleNamespace(**held, streams=streams, templates=templates)
        with StorageWatch() as watch:
            watch.hold([*held.values(), *given])
            outputs = [o for o in scope["run"](program, given) if o.requires_grad]
            after = watch.live
            if outputs:
                torch.autograd.backward(outputs, [torch.ones_like(o) for o in outputs])
            return after, watch.peak


def _template(item: Item, models: Sequence[Model]) -> nn.Module:
    if item.template is not None:
        return copy.deepcopy(models[item.owner].module.get_submodule(item.template))
    with torch.device("meta"):
        made: nn.Module = item.call.spec.target(
            **constructor_attrs(item.call.spec, item.call.attrs)
        )
    return made.train(item.call.training)


def _bytes(kind: TensorType) -> int:
    return prod(kind.shape) * kind.dtype.itemsize
