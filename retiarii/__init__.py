"""A compiler for neural architecture search: `import retiarii as rt`.

Names are loaded when they are first used, so that importing the package costs nothing and the
command line can answer ``--help`` without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retiarii import spaces
    from retiarii.errors import InfeasibleError, RetiariiError
    from retiarii.experiment import Experiment
    from retiarii.ir.edit.matching import Match
    from retiarii.ir.edit.patterns import wildcard
    from retiarii.ir.graph import Graph
    from retiarii.ir.node import Node, Value
    from retiarii.ir.parse import parse
    from retiarii.mutators.attention import add_heads, open_attention
    from retiarii.mutators.choice import ValueChoice, choice, loguniform, randint, uniform
    from retiarii.mutators.growth import Net2Deeper, Net2Wider, deepen, widen
    from retiarii.mutators.layers import Cell, InputChoice, LayerChoice, Repeat
    from retiarii.mutators.mutator import Mutator
    from retiarii.mutators.prune import prune_channels, prune_heads
    from retiarii.optimizer.merge import merge
    from retiarii.optimizer.merged import MergedModel
    from retiarii.result import Result, open_result
    from retiarii.schedulers.base import Scheduler
    from retiarii.space import Candidate, ModelSpace
    from retiarii.strategies.base import Strategy
    from retiarii.training.evaluator import Evaluator
    from retiarii.training.function import Function
    from retiarii.training.optimizers import SGD, Adagrad, Adam, AdamW, RMSprop
    from retiarii.training.schedules import (
        Constant,
        Cosine,
        LinearDecay,
        OneCycle,
        ReduceOnPlateau,
        Schedule,
        StepDecay,
        WarmUp,
    )
    from retiarii.training.supervised import Supervised

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Candidate",
    "Cell",
    "Constant",
    "Cosine",
    "Evaluator",
    "Experiment",
    "Function",
    "Graph",
    "InfeasibleError",
    "InputChoice",
    "LayerChoice",
    "LinearDecay",
    "Match",
    "MergedModel",
    "ModelSpace",
    "Mutator",
    "Net2Deeper",
    "Net2Wider",
    "Node",
    "OneCycle",
    "RMSprop",
    "ReduceOnPlateau",
    "Repeat",
    "Result",
    "RetiariiError",
    "Schedule",
    "Scheduler",
    "StepDecay",
    "Strategy",
    "Supervised",
    "Value",
    "ValueChoice",
    "WarmUp",
    "__version__",
    "add_heads",
    "choice",
    "deepen",
    "loguniform",
    "merge",
    "open_attention",
    "open_result",
    "parse",
    "prune_channels",
    "prune_heads",
    "randint",
    "spaces",
    "uniform",
    "widen",
    "wildcard",
]

_NAMES_BY_MODULE = {
    "errors": "InfeasibleError RetiariiError",
    "experiment": "Experiment",
    "ir.graph": "Graph",
    "ir.edit.matching": "Match",
    "ir.node": "Node Value",
    "ir.parse": "parse",
    "ir.edit.patterns": "wildcard",
    "mutators.attention": "add_heads open_attention",
    "mutators.choice": "ValueChoice choice loguniform randint uniform",
    "mutators.growth": "Net2Deeper Net2Wider deepen widen",
    "mutators.layers": "Cell InputChoice LayerChoice Repeat",
    "mutators.mutator": "Mutator",
    "mutators.prune": "prune_channels prune_heads",
    "optimizer.merge": "merge",
    "optimizer.merged": "MergedModel",
    "result": "Result open_result",
    "schedulers.base": "Scheduler",
    "space": "Candidate ModelSpace",
    "strategies.base": "Strategy",
    "training.evaluator": "Evaluator",
    "training.function": "Function",
    "training.optimizers": "SGD Adagrad Adam AdamW RMSprop",
    "training.schedules": (
        "Constant Cosine LinearDecay OneCycle ReduceOnPlateau Schedule StepDecay WarmUp"
    ),
    "training.supervised": "Supervised",
}


def __getattr__(name: str) -> Any:
    if name == "spaces":
        return importlib.import_module(f"{__name__}.spaces")
    for module, names in _NAMES_BY_MODULE.items():
        if name in names.split():
            value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
