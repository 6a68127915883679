"""One strategy on one space: regret after each trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
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
        seconds: of the processor, that strategy and space took in all.
        refused: why it cannot search this space, if so.
    """

    regrets: tuple[Regret, ...]
    seconds: float
    refused: str | None = None

    def with_more(self, more: Run) -> Run:
        """Both together."""
        seconds = self.seconds + more.seconds
        return Run((*self.regrets, *more.regrets), seconds, self.refused or more.refused)


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
    make: Callable[[], Strategy], game: Game, seeds: Iterable[int], trials: int, batch: int = 1
) -> Run:
    """Plays the seeds, one after the other.

    One instance begins anew each time, as strategies must allow.
    """
    strategy = make()
    regrets: list[Regret] = []
    began = time.process_time()
    for seed in seeds:
        try:
            regrets.append(play(strategy, game.space(seed), seed, trials, batch))
        except StrategyError as error:
            return Run((), 0.0, str(error).splitlines()[0])
    return Run(tuple(regrets), time.process_time() - began)
