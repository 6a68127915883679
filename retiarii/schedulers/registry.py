"""Schedulers by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from retiarii.errors import RetiariiError, SchedulerError, nearest
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


def make_scheduler(spec: str | Scheduler) -> Scheduler:
    """The scheduler that ``spec`` says.

    Args:
        spec: a name (`SCHEDULERS`) or ``"module:Class"``, options after it
            (``"asha,eta=4,grace=2"``); or a scheduler that is made already.

    Raises:
        SchedulerError: no such name, module or class; an unknown option or a value out of range.
    """
    if isinstance(spec, Scheduler):
        return spec
    if not isinstance(spec, str):
        raise SchedulerError(
            f"{spec!r} is not a scheduler",
            fix=f"give one of {', '.join(SCHEDULERS)}, module:Class, or an instance",
        )
    name, *parts = (part.strip() for part in spec.split(","))
    options = dict(_option(part, spec) for part in parts)
    place = SCHEDULERS.get(name, name)
    if ":" not in place:
        raise SchedulerError(
            f"there is no scheduler {name!r}",
            fix=f"nearest: {nearest(name, list(SCHEDULERS))}; or module:Class for your own",
        )
    kind = _load(place)
    parameters = inspect.signature(kind).parameters
    for option in options:
        if option not in parameters:
            raise SchedulerError(
                f"scheduler {name!r} has no option {option!r}",
                where=spec,
                fix=f"nearest: {nearest(option, list(parameters))}"
                if parameters
                else "it takes no options",
            )
    try:
        return kind(**options)
    except RetiariiError:
        raise
    except Exception as error:
        raise SchedulerError(
            f"{kind.__name__}() failed: {type(error).__name__}: {error}", where=place
        ) from error


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
    if asked not in (None, own):
        raise SchedulerError(
            f"{scheduler.name} proposes by the strategy {own!r}, not by {asked!r}",
            where=f"scheduler {scheduler.name}",
            fix=f"leave the strategy out; or use hyperband with {asked}",
        )
    return own if strategy is None else strategy


def _option(part: str, spec: str) -> tuple[str, Any]:
    name, equals, text = part.partition("=")
    if equals:
        for kind in (int, float):
            try:
                return name.strip(), kind(text)
            except ValueError:
                continue
    raise SchedulerError(
        f"{part!r} is not an option with a number", where=spec, fix="write it so: asha,eta=4"
    )


def _load(place: str) -> type[Scheduler]:
    module_name, _, class_name = place.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        raise SchedulerError(
            f"the module {module_name!r} of scheduler {place!r} cannot be imported: "
            f"{type(error).__name__}: {error}",
            where=place,
            fix="check its name, and that it is installed or beside the space file",
        ) from error
    kind = getattr(module, class_name, None)
    if not inspect.isclass(kind) or not issubclass(kind, Scheduler):
        raise SchedulerError(
            f"{module_name!r} has no scheduler class {class_name!r}",
            where=place,
            fix="write a subclass of retiarii.schedulers.Scheduler there",
        )
    return kind
