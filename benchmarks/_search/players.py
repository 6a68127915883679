"""Who plays: every registered strategy that only proposes, and references, in parentheses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec

from _search.simple import SimpleEvolution, SimpleLocal
from retiarii.strategies.base import Strategy
from retiarii.strategies.registry import STRATEGIES, make_strategy

# It goes on from trained weights: a table of scores has none.
TRAINING = ("pbt",)


def players() -> Mapping[str, Callable[[], Strategy]]:
    """Name -> what makes the strategy."""
    names = sorted(set(STRATEGIES) - set(TRAINING))
    ours = {name: partial(make_strategy, name) for name in names}
    references = {"(simple evolution)": SimpleEvolution, "(simple local search)": SimpleLocal}
    return ours | references | _optunas()


def _optunas() -> Mapping[str, Callable[[], Strategy]]:
    if find_spec("optuna") is None:
        return {}
    from _search.optunas import SAMPLERS, PlainOptuna

    return {name: partial(PlainOptuna, sampler) for name, sampler in SAMPLERS.items()}
