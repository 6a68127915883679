"""What a strategy itself takes for a proposal, late in a long search."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import cast

from _search.spaces import KnownPoint
from retiarii.errors import StrategyError
from retiarii.mutators.choice import Categorical, Chooser, Decision, Recorder, choice, recording
from retiarii.search_space import SearchSpace
from retiarii.strategies.base import Strategy


class _Wide:
    """Twenty decisions of four options, no models: replaying takes microseconds."""

    def replay(self, chooser: Chooser) -> KnownPoint:
        recorder = Recorder(chooser)
        with recording(recorder):
            for at in range(20):
                choice(["a", "b", "c", "d"], label=f"op{at}")
        return KnownPoint(recorder.decisions, None, str([d.raw for d in recorder.decisions]))


def _score(decisions: tuple[Decision, ...]) -> float:
    """One option each that is right, and neighbours that should agree."""
    raws = [int(d.raw) for d in decisions if isinstance(d.domain, Categorical)]
    return sum(raw == at % 4 for at, raw in enumerate(raws)) - 0.3 * sum(
        a == b for a, b in pairwise(raws)
    )


def milliseconds(
    make: Callable[[], Strategy], trials: int, last: int, limit: float
) -> tuple[int, float] | str:
    """What ``ask`` and ``tell`` take of the processor, a trial, over the last of many trials.

    Args:
        make: makes the strategy.
        trials: how many there are in all.
        last: over how many of them is averaged.
        limit: seconds of the processor after which it stops earlier.

    Returns:
        How many trials there were, and milliseconds; or why it cannot search.
    """
    strategy, space = make(), _Wide()
    strategy.begin(cast(SearchSpace, space), 0)
    # Read seldom: where many threads run, reading this clock takes milliseconds itself.
    between = max(1, last // 5)
    read = [(0, time.process_time())]
    done = 0
    while done < trials:
        try:
            point = strategy.ask(done)
        except StrategyError as error:
            return str(error).splitlines()[0]
        if point is None:
            break
        strategy.tell(done, _score(point.decisions))
        done += 1
        if done % between == 0:
            read.append((done, time.process_time()))
            if read[-1][1] - read[0][1] > limit:
                break
    read.append((done, time.process_time()))
    begin = max((each for each in read if each[0] <= done - last), default=read[0])
    return done, 1e3 * (read[-1][1] - begin[1]) / max(1, read[-1][0] - begin[0])
