"""Schedulers by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from retiarii.errors import SchedulerError
from retiarii.plugins import Family
from retiarii.schedulers.base import Scheduler
from retiarii.strategies.base import Strategy
from retiarii.strategies.registry import STRATEGIES

# Places rather than classes, as with strategies: numpy is imported when it is needed.
SCHEDULERS: Mapping[str, str] = MappingProxyType(
    {
        "asha": "retiarii.schedulers.asha:Asha",
        "bohb": "retiarii.schedulers.bohb:Bohb",
        "curve": "retiarii.schedulers.curve:CurveFit",
        "hyperband": "retiarii.schedulers.hyperband:Hyperband",
        "median": "retiarii.schedulers.median:Median",
    }
)


_FAMILY = Family(
    "scheduler", Scheduler, SchedulerError, SCHEDULERS, "retiarii.schedulers", "asha,eta=4"
)


def make_scheduler(spec: str | Scheduler) -> Scheduler:
    """The scheduler that ``spec`` says.

    Args:
        spec: a name (`SCHEDULERS`, or an entry point of the group ``retiarii.schedulers``) or
            ``"module:Class"``, options after it (``"asha,eta=4,grace=2"``); or a scheduler that
            is made already.

    Raises:
        SchedulerError: no such name, module or class; an entry point that does not load; an
            unknown option or a value out of range.
    """
    return _FAMILY.make(spec, {})


def check_strategy(
    strategy: str | Strategy | None, scheduler: Scheduler | None
) -> str | Strategy | None:
    """The strategy that was asked for, or that of the scheduler; ``None`` if there is neither.

    Raises:
        SchedulerError: the scheduler goes with another strategy, or with one that is not there.
    """
    own = None if scheduler is None else scheduler.strategy
    if scheduler is None or own is None:
        return strategy
    if own not in STRATEGIES:
        raise SchedulerError(
            f"{scheduler.name} proposes by the strategy {own!r}, which this version does not have",
            where=f"scheduler {scheduler.name}",
            fix="use hyperband, with any strategy",
        )
    asked = strategy.name if isinstance(strategy, Strategy) else strategy
    asked = asked if asked is None else asked.partition(",")[0].strip()
    if asked not in (None, own):
        raise SchedulerError(
            f"{scheduler.name} proposes by the strategy {own!r}, not by {asked!r}",
            where=f"scheduler {scheduler.name}",
            fix=f"leave the strategy out; or use hyperband with {asked}",
        )
    return own if strategy is None else strategy
