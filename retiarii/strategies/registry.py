"""Strategies by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from retiarii.errors import StrategyError
from retiarii.plugins import Family
from retiarii.strategies.base import Strategy

# Places rather than classes: a strategy's own libraries are imported when it is asked for.
STRATEGIES: Mapping[str, str] = MappingProxyType(
    {
        "cmaes": "retiarii.strategies.optuna_strategies:CMAES",
        "evolution": "retiarii.strategies.evolution:Evolution",
        "gp": "retiarii.strategies.optuna_strategies:GP",
        "grid": "retiarii.strategies.grid:GridSearch",
        "local": "retiarii.strategies.local:LocalSearch",
        "nsga2": "retiarii.strategies.optuna_strategies:NSGA2",
        "nsga3": "retiarii.strategies.optuna_strategies:NSGA3",
        "pbt": "retiarii.strategies.pbt:PBT",
        "predictor": "retiarii.strategies.predictor:Predictor",
        "random": "retiarii.strategies.random:RandomSearch",
        "reinforce": "retiarii.strategies.reinforce:Reinforce",
        "tpe": "retiarii.strategies.optuna_strategies:TPE",
    }
)

# What searches where nothing else is asked for; why, docs/strategies.md says.
DEFAULT_STRATEGY = "predictor"

_FAMILY = Family(
    "strategy",
    Strategy,  # type: ignore[type-abstract]
    StrategyError,
    STRATEGIES,
    "retiarii.strategies",
    "predictor,initial=20",
)


def make_strategy(spec: str | Strategy, **options: Any) -> Strategy:
    """The strategy that ``spec`` says.

    Args:
        spec: a name (`STRATEGIES`, or an entry point of the group ``retiarii.strategies``) or
            ``"module:Class"``, options after it (``"predictor,initial=20"``); or a strategy that
            is made already.
        options: keyword arguments of the strategy.

    Raises:
        StrategyError: no such name, module or class; an entry point that does not load, or that
            several packages offer; an unknown option or a value out of range; options for a
            strategy that is made already.
    """
    return _FAMILY.make(spec, options)
