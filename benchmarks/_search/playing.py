"""One strategy on one space: regret after each trial."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from _search.spaces import Game, Played
from retiarii.errors import StrategyError
from retiarii.search_space import SearchSpace
from retiarii.strategies.base import Strategy

Regret = list[float]


@dataclass(frozen=True)
class Run:
    """What became of one strategy on one game, over seeds.

    Attributes:
        regrets: for each seed that was played, the regret after each trial.
        seconds: what the strategy and the space took, a trial.
        refused: why it cannot search this space, if so.
    """

    game: str
    strategy: str
    batch: int
    regrets: tuple[Regret, ...]
    seconds: float
    refused: str | None = None


def play(strategy: Strategy, space: Played, seed: int, trials: int, batch: int) -> Regret:
    """Regret after each trial, where results are told once a batch is complete.

    Where the strategy has nothing left to propose, regret stays.

    Raises:
        StrategyError: the strategy cannot search this space.
    """
    # As `ToySpace`: strategies use `replay` alone.
    strategy.begin(cast(SearchSpace, space), seed)
    best = float("-inf")
    regret: Regret = []
    waiting: list[float] = []
    for number in range(trials):
        point = strategy.ask(number)
        if point is None:
            break
        score = space.score(point)
        best = max(best, score)
        regret.append(space.best - best)
        waiting.append(score)
        if len(waiting) == batch:
            for told, known in enumerate(waiting, start=number + 1 - batch):
                strategy.tell(told, known)
            waiting.clear()
    return regret + [space.best - best] * (trials - len(regret))


def play_seeds(
    name: str,
    make: Callable[[], Strategy],
    game: Game,
    *,
    seeds: int,
    trials: int,
    batch: int = 1,
    limit: float = math.inf,
) -> Run:
    """Plays seeds 0, 1, ..., no more of them than ``limit`` seconds allow (but one).

    One instance begins anew each time, as strategies must allow.
    """
    strategy = make()
    regrets: list[Regret] = []
    began = time.perf_counter()
    while len(regrets) < seeds and (not regrets or time.perf_counter() - began < limit):
        seed = len(regrets)
        try:
            regrets.append(play(strategy, game.space(seed), seed, trials, batch))
        except StrategyError as error:
            return Run(game.name, name, batch, (), 0.0, str(error).splitlines()[0])
    seconds = (time.perf_counter() - began) / (len(regrets) * trials)
    return Run(game.name, name, batch, tuple(regrets), seconds)
