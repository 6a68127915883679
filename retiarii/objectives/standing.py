"""One score out of several objectives, for strategies that take one."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from retiarii.objectives.pareto import Values, crowding

Array = npt.NDArray[np.float64]


class Standing:
    """How trials stand among each other: what part of them is better in every respect.

    A trial's score is minus the part of all trials told that dominate it (Fonseca and Fleming,
    "Genetic algorithms for multiobjective optimization", ICGA 1993, count them as its rank). Those
    that none dominates lie between 0 and the next rank, the more so the farther they are from
    their neighbours on the front (`crowding`). So a score changes when other trials are told:
    `scores` has all of them anew.
    """

    def __init__(self) -> None:
        self._numbers: list[int] = []
        # A row an objective, with room for more trials than there are.
        self._room: Array = np.empty((0, 0))
        self._counts: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def add(self, number: int, values: Values) -> None:
        """One more trial; more of each value is better."""
        count = len(self._numbers)
        if count == self._counts.size:
            self._grow(len(values))
        known, above = self._room[:, :count], self._counts[:count]
        no_more = np.ones(count, np.bool_)  # in no objective does the earlier trial have more
        no_less = np.ones(count, np.bool_)
        for row, value in zip(known, values, strict=True):
            no_more &= row <= value
            no_less &= row >= value
        above += no_more & ~no_less
        self._room[:, count] = values
        self._counts[count] = np.count_nonzero(no_less & ~no_more)
        self._numbers.append(number)

    def scores(self) -> dict[int, float]:
        """Trial -> score, from -1 to below 1 / number of trials; higher is better."""
        count = len(self._numbers)
        found = -self._counts[:count].astype(float)
        ahead = np.flatnonzero(found == 0)
        lengths = crowding([tuple(point) for point in self._room[:, ahead].T.tolist()])
        found[ahead] = [_share(length) for length in lengths]
        found /= max(1, count)
        return dict(zip(self._numbers, found.tolist(), strict=True))

    def _grow(self, axes: int) -> None:
        count = len(self._numbers)
        room, counts = np.empty((axes, 2 * count + 64)), np.zeros(2 * count + 64, np.int64)
        room[:, :count], counts[:count] = self._room.reshape(axes, count), self._counts
        self._room, self._counts = room, counts


def _share(length: float) -> float:
    """A distance as a number from 0 to 0.5, so that no front member gets to another rank."""
    return 0.5 if math.isinf(length) else 0.5 * length / (1.0 + length)
