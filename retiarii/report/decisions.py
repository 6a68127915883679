"""The decisions of a search's trials as numbers between 0 and 1, for plots and importance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retiarii.mutators.choice import Numbered, show

if TYPE_CHECKING:
    from retiarii.result import Result

# A positive range that spans so much is seen in its logarithm.
_WIDE = 50.0


@dataclass(frozen=True)
class Axis:
    """One decision over all trials.

    Attributes:
        label: its label.
        options: the values that were chosen, in order; empty for a number.
        low, high: the ends of a number; 0 and 1 otherwise.
        log: whether a number is seen in its logarithm.
        places: trial -> an index into ``options``, or where a number lies between ``low`` and
            ``high``, from 0 to 1. Trials that were not asked are missing.
    """

    label: str
    options: tuple[str, ...]
    low: float
    high: float
    log: bool
    places: Mapping[int, float]

    @property
    def varies(self) -> bool:
        return len(set(self.places.values())) > 1


def axes_of(result: Result, trials: list[int]) -> list[Axis]:
    """The decisions of these trials, in the order in which they are first asked."""
    found: dict[str, dict[int, tuple[Any, Any]]] = {}
    for number in trials:
        for label, raw, shown in result.row(number).decisions:
            found.setdefault(label, {})[number] = (raw, shown)
    return [_axis(label, made) for label, made in found.items()]


def _axis(label: str, made: Mapping[int, tuple[Any, Any]]) -> Axis:
    # An index that is shown as itself is a number too, as far as order and distance go.
    if all(_is_number(shown) and shown == raw for raw, shown in made.values()):
        return _numeric(label, {number: float(raw) for number, (raw, _) in made.items()})
    # The same index may stand for another option where a label is asked in two branches.
    options = sorted({(raw, show(shown)) for raw, shown in made.values()})
    index = {option: float(at) for at, option in enumerate(options)}
    places = {number: index[raw, show(shown)] for number, (raw, shown) in made.items()}
    return Axis(label, tuple(name for _, name in options), 0.0, 1.0, False, places)


def _numeric(label: str, values: Mapping[int, float]) -> Axis:
    low, high = min(values.values()), max(values.values())
    log = low > 0 and high / low >= _WIDE

    def place(value: float) -> float:
        if low == high:
            return 0.5
        if log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    return Axis(label, (), low, high, log, {n: place(v) for n, v in values.items()})


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool | Numbered)
    return number and math.isfinite(value)
