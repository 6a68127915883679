"""A lowered plan as a function that runs."""

from __future__ import annotations

import linecache
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from retiarii.ir.ops import constructor_attrs, op_spec
from retiarii.optimizer import kernels
from retiarii.optimizer.compile import Compiled
from retiarii.optimizer.forest import Item
from retiarii.optimizer.plan import Plan
from retiarii.optimizer.stats import Stats


@dataclass(frozen=True, slots=True)
class Program:
    """The code of one mode.

    Attributes:
        plan: what it runs.
        source: its text.
        run: the compiled text: (merged model, inputs) -> output stacks.
        templates: layers that it calls as they are.
        calls: for each model, the calls that it alone makes.
        stats: what merging did.
    """

    plan: Plan
    source: str
    run: Callable[[Any, Sequence[Tensor]], tuple[Tensor, ...]]
    templates: tuple[nn.Module, ...]
    calls: tuple[int, ...]
    stats: Stats


def program_of(made: Compiled, owner: object, opaque: Callable[[Item], nn.Module]) -> Program:
    """Compiles a plan's code; tracebacks and debuggers show its lines.

    Args:
        made: the lowered plan.
        owner: what keeps the program; when it goes, the lines go.
        opaque: finds the submodule that an item calls as it is.
    """
    code = made.code
    scope: dict[str, Any] = {"torch": torch, "F": functional, "kernels": kernels, **code.scope}
    digest = blake2b(code.source.encode(), digest_size=6).hexdigest()
    name = f"<retiarii merged {digest}.{id(scope):x}>"
    exec(compile(code.source, name, "exec", dont_inherit=True), scope)
    lines = code.source.splitlines(keepends=True)
    linecache.cache[name] = (len(code.source), None, lines, name)
    weakref.finalize(owner, linecache.cache.pop, name, None)
    items = [made.plan.forest.items[i] for i in code.templates]
    templates = tuple(_layer(item) if item.template is None else opaque(item) for item in items)
    for item, template in zip(items, templates, strict=True):
        template.train(item.call.training)
    return Program(made.plan, code.source, scope["run"], templates, made.calls, made.stats)


def _layer(item: Item) -> nn.Module:
    """The layer that an item calls, without tensors of its own: it is given the model's."""
    spec = op_spec(item.call.op)
    with torch.device("meta"):
        made: nn.Module = spec.target(**constructor_attrs(spec, item.call.attrs))
    return made
