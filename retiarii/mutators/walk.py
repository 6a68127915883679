"""All decision sequences of a space, one after the other, none of them held in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from retiarii.errors import InfeasibleError, SpaceError
from retiarii.mutators.choice import Categorical, Chooser, Domain, Integer, Raw

T = TypeVar("T")


class _Odometer:
    """A chooser that goes through all answers: the last question turns fastest."""

    def __init__(self) -> None:
        self._answers: list[list[int]] = []  # [answer, number of answers]
        self._lows: list[int] = []
        self._position = 0

    def __call__(self, label: str, domain: Domain) -> Raw:
        low, size = _range(label, domain)
        if self._position == len(self._answers):
            self._answers.append([0, size])
            self._lows.append(low)
        self._position += 1
        return self._lows[self._position - 1] + self._answers[self._position - 1][0]

    def turn(self) -> bool:
        """Goes on to the next sequence; False when there is none."""
        del self._answers[self._position :], self._lows[self._position :]
        self._position = 0
        while self._answers:
            self._answers[-1][0] += 1
            if self._answers[-1][0] < self._answers[-1][1]:
                return True
            self._answers.pop()
            self._lows.pop()
        return False


def _range(label: str, domain: Domain) -> tuple[int, int]:
    match domain:
        case Categorical(n):
            return 0, n
        case Integer(low, high):
            return low, high - low + 1
    raise SpaceError(
        f"{label!r} takes any number in a range, so that its choices cannot be enumerated",
        where=f"decision {label!r}",
        fix="give a list: rt.choice([0.001, 0.01, 0.1])",
    )


def walk(replay: Callable[[Chooser], T]) -> Iterator[T | InfeasibleError]:
    """What ``replay`` makes of each decision sequence, depth first, in the options' order.

    A sequence that is infeasible gives its InfeasibleError.

    Raises:
        SpaceError: a continuous choice.
    """
    odometer = _Odometer()
    while True:
        try:
            yield replay(odometer)
        except InfeasibleError as error:
            yield error
        if not odometer.turn():
            return
