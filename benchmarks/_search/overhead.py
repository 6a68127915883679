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
    took: list[float] = []
    began = time.process_time()
    while len(took) < trials and time.process_time() - began < limit:
        before = time.process_time()
        try:
            point = strategy.ask(len(took))
        except StrategyError as error:
            return str(error).splitlines()[0]
        if point is None:
            break
        score = _score(point.decisions)
        strategy.tell(len(took), score)
        took.append(time.process_time() - before)
    recent = took[-last:]
    return len(took), 1e3 * sum(recent) / len(recent)
