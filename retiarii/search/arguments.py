"""Checks what `Experiment` is given, argument by argument."""

from __future__ import annotations

from typing import Any

from retiarii.errors import RetiariiError, SchedulerError, StrategyError, nearest
from retiarii.schedulers.base import Scheduler
from retiarii.schedulers.registry import make_scheduler
from retiarii.strategies.base import Strategy
from retiarii.strategies.registry import make_strategy


def check_type(name: str, value: Any, kinds: tuple[type, ...], make: str) -> None:
    """Refuses an argument of another type.

    Raises:
        RetiariiError: it is none of ``kinds``.
    """
    if not isinstance(value, kinds):
        raise RetiariiError(
            f"{name} is a {type(value).__name__}",
            where=f"Experiment({name}=...)",
            fix=f"use {make}",
        )


def strategy_of(spec: str | Strategy) -> Strategy:
    """The strategy of a name, or as it is.

    Raises:
        StrategyError: there is none of that name.
    """
    try:
        return make_strategy(spec)
    except StrategyError as error:
        where = error.where or "Experiment(strategy=...)"
        raise StrategyError(error.cause, where=where, fix=error.fix) from error


def scheduler_of(spec: str | Scheduler) -> Scheduler:
    """The scheduler of a name, or as it is.

    Raises:
        SchedulerError: there is none of that name.
    """
    try:
        return make_scheduler(spec)
    except SchedulerError as error:
        where = error.where or "Experiment(scheduler=...)"
        raise SchedulerError(error.cause, where=where, fix=error.fix) from error


def whole(name: str, value: Any, least: int | None) -> int:
    """A whole number, of at least ``least``.

    Raises:
        RetiariiError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        problem = "must be a whole number"
    elif least is not None and value < least:
        problem = f"must be at least {least}"
    else:
        return value
    raise RetiariiError(
        f"{name} {problem}, not {value!r}",
        where=f"Experiment({name}=...)",
        fix=f"give {least} or more" if least is not None else "give a whole number",
    )


def one_of(name: str, value: Any, known: list[str]) -> str:
    """One of the words that are known.

    Raises:
        RetiariiError: it is another.
    """
    if isinstance(value, str) and value in known:
        return value
    raise RetiariiError(
        f"{name}={value!r} is unknown",
        where=f"Experiment({name}=...)",
        fix=f"use one of {', '.join(known)}"
        + (f"; {nearest(value, known)}" if isinstance(value, str) else ""),
    )
