"""What a search may cost, and when it is good enough."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from retiarii.errors import RetiariiError

Ended = Literal["trials", "exhausted", "interrupted", "epochs", "time", "target"]

_UNITS: Mapping[str, float] = MappingProxyType({"s": 1, "m": 60, "h": 3600, "d": 86400})
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


@dataclass(frozen=True, slots=True)
class Budget:
    """What ends a search, besides the number of its trials: whatever comes first.

    Attributes:
        epochs: how many epochs all trials may have together (reports, of a function).
        seconds: how long the search may run, earlier runs in the same directory included.
        target: the score that is good enough, in the metric's own direction.
    """

    epochs: int | None = None
    seconds: float | None = None
    target: float | None = None


def make_budget(epochs: Any, time: Any, target: Any) -> Budget:
    """The budget that a user means.

    Args:
        epochs: a whole number from 1 on, or ``None``.
        time: seconds, or text such as ``"90m"`` or ``"1h30m"``; or ``None``.
        target: a finite number, or ``None``.

    Raises:
        RetiariiError: one of them is none of this.
    """
    if epochs is not None and (
        isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1
    ):
        raise RetiariiError(
            f"the number of all epochs is {epochs!r}",
            where=f"total_epochs={epochs!r}",
            fix="give a whole number from 1 on",
        )
    if target is not None and not _is_number(target):
        raise RetiariiError(
            f"the target is {target!r}",
            where=f"target={target!r}",
            fix="give the score that is good enough: 0.95",
        )
    return Budget(
        epochs, None if time is None else seconds(time), None if target is None else float(target)
    )


def seconds(given: Any) -> float:
    """A duration in seconds: a number of them, or ``"2h"``, ``"90m"``, ``"1h30m"``, ``"1d"``.

    Raises:
        RetiariiError: it is neither, or not above 0.
    """
    found = math.nan
    if isinstance(given, str):
        text = given.replace(" ", "").lower()
        if _PART.sub("", text) == "" and text:
            found = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    elif _is_number(given):
        found = float(given)
    if not found > 0:
        raise RetiariiError(
            f"{given!r} is not a duration",
            where=f"budget={given!r}",
            fix="write it as 2h, 90m or 1h30m; in Python a number of seconds will do",
        )
    return found


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
