"""Times the first steps of a cohort: they say whether the steps to come repay compiling."""

from __future__ import annotations

import statistics
import time
from types import TracebackType
from typing import Final

import torch

from retiarii.optimizer.compiling import remember
from retiarii.optimizer.merged import MergedModel

_TIMED: Final = 4
_WARM_UP: Final = 1


class Pacing:
    """A context for each step; it decides after some, and then sees what came of it.

    Args:
        merged: whose training program runs in the steps.
        left: steps that are to come.
        device: where; a device that would have to be waited for is not timed.
    """

    def __init__(self, merged: MergedModel, left: int, device: torch.device) -> None:
        self._merged = merged
        self._left = left
        self._device = device
        self._eager: list[float] = []
        self._compiled: list[float] = []
        self._open = device.type == "cpu"
        self._begin = 0.0

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._open or error is not None:
            return
        took = time.perf_counter() - self._begin
        self._left -= 1
        decided = len(self._eager) == _WARM_UP + _TIMED
        times = self._compiled if decided else self._eager
        times.append(took)
        if len(times) == _WARM_UP + _TIMED:
            self._see() if decided else self._decide()

    def _decide(self) -> None:
        self._open = self._merged.expect(self._left, _usual(self._eager)).compiled

    def _see(self) -> None:
        self._open = False
        if self._merged.execution.compiled:  # else it was found not to work
            eager, compiled = _usual(self._eager), _usual(self._compiled)
            calls = self._merged.stats.nodes_after
            # The first of them compiled the program, forward and backward.
            took = max(self._compiled[0] - compiled, 0.0)
            remember(self._device, calls, took, eager / compiled)


def _usual(times: list[float]) -> float:
    return statistics.median(times[_WARM_UP:])
