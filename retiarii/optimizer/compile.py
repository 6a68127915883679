"""The passes in their order: lift, simplify, dedup, group, lay out, lower."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retiarii.optimizer.dedup import dedup, storage_of
from retiarii.optimizer.group import Wanted, group
from retiarii.optimizer.layout import layout
from retiarii.optimizer.lift import Model, lift
from retiarii.optimizer.lower import Code, lower
from retiarii.optimizer.plan import Plan
from retiarii.optimizer.simplify import simplify
from retiarii.optimizer.stats import Stats, calls_of, stats_of
from retiarii.optimizer.storage import Home, Storage, store


@dataclass(frozen=True, slots=True)
class Options:
    """How to merge.

    Attributes:
        dedup: whether equal nodes are computed once.
        wanted: which calls to fuse, of those that a rule can; ``None`` is all.
    """

    dedup: bool = True
    wanted: Wanted | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the passes made.

    Attributes:
        plan: the groups, in order.
        storage: where parameters and buffers lie.
        sharing: which of the models' tensors are one.
        code: the program's text.
        calls: for each model, the calls that it alone makes.
        stats: what merging did.
    """

    plan: Plan
    storage: Storage
    sharing: Mapping[Home, Home]
    code: Code
    calls: tuple[int, ...]
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
    plan = group(forest, options.wanted)
    _show("group", plan)
    plan = layout(plan)
    _show("layout", plan)
    storage = store(plan) if held is None else held[0]
    sharing = storage_of(forest) if held is None else held[1]
    return compiled(plan, storage, sharing, calls_of(lifted))


def compiled(
    plan: Plan, storage: Storage, sharing: Mapping[Home, Home], calls: tuple[int, ...]
) -> Compiled:
    """The last pass, for a plan that is laid out."""
    code = lower(plan, storage)
    _show("lower", code.source)
    return Compiled(plan, storage, sharing, code, calls, stats_of(calls, plan, code.copies))


def _show(name: str, value: Any) -> None:
    """Prints what a pass made, where ``RETIARII_PRINT=passes`` asks for it."""
    if os.environ.get("RETIARII_PRINT") == "passes":
        print(f"--- after {name}\n{value}", file=sys.stderr)
