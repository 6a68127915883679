"""The passes in their order: lift, simplify, dedup, group, lay out, choose, lower."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch

from retiarii.optimizer.arrange import arrange
from retiarii.optimizer.choose import Choice, choose
from retiarii.optimizer.dedup import dedup, storage_of
from retiarii.optimizer.group import group
from retiarii.optimizer.lift import Model, lift
from retiarii.optimizer.lower import Code, lower
from retiarii.optimizer.plan import Plan
from retiarii.optimizer.simplify import simplify
from retiarii.optimizer.stats import Stats, calls_of, stats_of
from retiarii.optimizer.storage import Home, Storage, store

_GIVEN: Final[Mapping[str, Choice]] = MappingProxyType(
    {
        "on": Choice(True, "all that can be is fused, as asked"),
        "off": Choice(False, "nothing is fused, as asked"),
    }
)


@dataclass(frozen=True, slots=True)
class Options:
    """How to merge.

    Attributes:
        dedup: whether equal nodes are computed once.
        fuse: ``"auto"``: where it pays, ``"on"``: all that rules can, ``"off"``: nothing.
        batch: the batch size to choose for; ``None``: the example's.
        choice: what was chosen, once it was.
        seconds: the most that measuring may take, where it may take less than usual.
    """

    dedup: bool = True
    fuse: str = "auto"
    batch: int | None = None
    choice: Choice | None = None
    seconds: float = math.inf


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the passes made.

    Attributes:
        plan: the groups, in order.
        storage: where parameters and buffers lie.
        sharing: which of the models' tensors are one.
        code: the program's text.
        calls: for each model, the calls that it alone makes.
        choice: what is fused, and why.
        stats: what merging did.
    """

    plan: Plan
    storage: Storage
    sharing: Mapping[Home, Home]
    code: Code
    calls: tuple[int, ...]
    choice: Choice
    stats: Stats


def compile_plan(
    models: Sequence[Model],
    mode: bool | None,
    options: Options,
    held: tuple[Storage, Mapping[Home, Home]] | None,
) -> Compiled:
    """Runs the passes for one mode.

    Args:
        models: what to merge.
        mode: the training flag, or ``None`` for the flags that the models were parsed with.
        options: how.
        held: where parameters and buffers lie already, and which are one.
    """
    lifted = lift(models, mode)
    _show("lift", lifted)
    forest = lifted
    if options.dedup:
        forest = simplify(forest)
        _show("simplify", forest)
        forest = dedup(forest, None if held is None else held[1])
        _show("dedup", forest)
    choice = options.choice or _GIVEN.get(options.fuse)
    plan = arrange(forest) if choice is None or choice.fuse else group(forest, _nothing)
    _show("group and layout", plan)
    if choice is None:
        batch = models[0].graph.context.batch
        choice = choose(lifted, plan, batch, options.batch, _device(models), options.seconds)
        plan = plan if choice.fuse else group(forest, _nothing)
    plan = choice.applied(plan)
    _show("choose", choice)
    storage = store(plan) if held is None else held[0]
    sharing = storage_of(forest) if held is None else held[1]
    return compiled(plan, storage, sharing, calls_of(lifted), choice)


def compiled(
    plan: Plan,
    storage: Storage,
    sharing: Mapping[Home, Home],
    calls: tuple[int, ...],
    choice: Choice,
) -> Compiled:
    """The last pass, for a plan that is laid out."""
    code = lower(plan, storage)
    _show("lower", code.source)
    stats = stats_of(calls, plan, code.copies, choice)
    return Compiled(plan, storage, sharing, code, calls, choice, stats)


def _nothing(*_: Any) -> bool:
    return False


def _device(models: Sequence[Model]) -> torch.device:
    tensors = (t for model in models for t in model.tensors.values())
    return next((t.device for t in tensors), torch.device("cpu"))


def _show(name: str, value: Any) -> None:
    """Prints what a pass made, where ``RETIARII_PRINT=passes`` asks for it."""
    if os.environ.get("RETIARII_PRINT") == "passes":
        print(f"--- after {name}\n{value}", file=sys.stderr)
