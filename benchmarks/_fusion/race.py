"""Timing contestants against each other: in turn, round by round, each at its best setting."""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from _fusion.contestant import Contestant


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Attributes:
        rounds: in which each contestant has one block of steps.
        block: seconds that a block is to take, where a step is shorter.
        threads: how many to try; the fastest is used.
    """

    rounds: int = 7
    block: float = 0.04
    threads: tuple[int, ...] = (1, os.cpu_count() or 1)


@dataclass(frozen=True)
class Ratio:
    """How many times faster than another, in the same rounds.

    Attributes:
        median: of the rounds.
        low: the lower quartile.
        high: the upper quartile.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class Lap:
    """One contestant's times.

    Attributes:
        seconds: of a step of all models, one for each round.
        threads: that it was fastest with.
    """

    seconds: tuple[float, ...]
    threads: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def over(self, other: Lap) -> Ratio:
        """How many times faster this is than ``other``."""
        ratios = [b / a for a, b in zip(self.seconds, other.seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return Ratio(middle, low, high)


def race(contestants: Mapping[str, Contestant], pace: Pace, device: torch.device) -> dict[str, Lap]:
    """Each contestant's times."""
    before = torch.get_num_threads()
    try:
        settings = {name: _best(each, pace, device) for name, each in contestants.items()}
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(pace.rounds):
            gc.collect()
            gc.disable()
            try:
                for name, each in contestants.items():
                    threads, steps = settings[name]
                    if torch.get_num_threads() != threads:
                        torch.set_num_threads(threads)
                        each.run(1)  # what starts or ends threads is not timed
                    seconds[name].append(_block(each, steps, device) / steps)
            finally:
                gc.enable()
        return {name: Lap(tuple(seconds[name]), settings[name][0]) for name in contestants}
    finally:
        torch.set_num_threads(before)


def _best(each: Contestant, pace: Pace, device: torch.device) -> tuple[int, int]:
    """The fastest number of threads, and the steps that make a block."""
    counts: Sequence[int] = dict.fromkeys(pace.threads)  # type: ignore[assignment]
    if each.own_threads or device.type != "cpu":
        counts = pace.threads[-1:]
    found: dict[int, float] = {}
    for threads in counts:
        torch.set_num_threads(threads)
        once = _block(each, 1, device)
        if found and once > 5 * min(found.values()):
            continue  # threads that wait for each other on a busy machine: once is enough
        found[threads] = min(_block(each, 1, device) for _ in range(2))
    threads = min(found, key=lambda t: found[t])
    return threads, max(1, math.ceil(pace.block / found[threads]))


def _block(each: Contestant, steps: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    each.run(steps)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin
