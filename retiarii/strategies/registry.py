"""Strategies by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from retiarii.errors import RetiariiError, StrategyError, nearest
from retiarii.strategies.base import Strategy

# Places rather than classes: a strategy's own libraries are imported when it is asked for.
STRATEGIES: Mapping[str, str] = MappingProxyType(
    {
        "cmaes": "retiarii.strategies.optuna_strategies:CMAES",
        "evolution": "retiarii.strategies.evolution:Evolution",
        "gp": "retiarii.strategies.optuna_strategies:GP",
        "grid": "retiarii.strategies.grid:GridSearch",
        "local": "retiarii.strategies.local:LocalSearch",
        "nsga2": "retiarii.strategies.optuna_strategies:NSGA2",
        "nsga3": "retiarii.strategies.optuna_strategies:NSGA3",
        "predictor": "retiarii.strategies.predictor:Predictor",
        "random": "retiarii.strategies.random:RandomSearch",
        "reinforce": "retiarii.strategies.reinforce:Reinforce",
        "tpe": "retiarii.strategies.optuna_strategies:TPE",
    }
)

# The entry points by which installed packages offer strategies of their own.
GROUP = "retiarii.strategies"


def make_strategy(spec: str | Strategy, **options: Any) -> Strategy:
    """The strategy that ``spec`` says.

    Args:
        spec: a name (`STRATEGIES`, or an entry point of the group ``retiarii.strategies``),
            ``"module:Class"``, or a strategy that is made already.
        options: keyword arguments of the strategy.

    Raises:
        StrategyError: no such name, module or class; an entry point that does not load, or that
            several packages offer; an unknown option or a value out of range; options for a
            strategy that is made already.
    """
    if isinstance(spec, Strategy):
        if options:
            raise StrategyError(
                f"options {sorted(options)} were given for a strategy that is made already",
                fix=f"give them to {type(spec).__name__}(...)",
            )
        return spec
    if not isinstance(spec, str):
        hint = "give an instance: add ()" if inspect.isclass(spec) else _known()
        raise StrategyError(f"{spec!r} is not a strategy", fix=hint)
    place = _place(spec)
    kind = _load(place)
    _check_options(spec, kind, options)
    try:
        return kind(**options)
    except RetiariiError:
        raise
    except Exception as error:
        raise StrategyError(
            f"{kind.__name__}() failed: {type(error).__name__}: {error}", where=place
        ) from error


def _place(spec: str) -> str:
    """``module:Class`` of a name. Ours come first, so that no package changes what they mean."""
    place = STRATEGIES.get(spec, spec)
    if ":" in place:
        return place
    offered = entry_points(group=GROUP)
    matching = {point.value: point for point in offered if point.name == spec}
    if len(matching) > 1:
        raise StrategyError(
            f"several packages offer a strategy {spec!r}: {', '.join(sorted(matching))}",
            where=f"entry points of the group {GROUP!r}",
            fix="name the one that is meant as module:Class",
        )
    if not matching:
        names = sorted({*STRATEGIES, *(point.name for point in offered)})
        raise StrategyError(
            f"there is no strategy {spec!r}",
            fix=f"nearest: {nearest(spec, names)}; or module:Class for your own",
        )
    (point,) = matching.values()
    return _checked(point)


def _checked(point: EntryPoint) -> str:
    """``module:Class`` of an entry point, which is loaded as what is written like that."""
    module, attribute = point.value.partition(":")[::2]
    if not module or not attribute or "[" in attribute:
        raise StrategyError(
            f"the entry point {point.name!r} is {point.value!r}, which is no module:Class",
            where=_origin(point),
            fix=f'write {point.name} = "module:Class" in its package',
        )
    place = f"{module.strip()}:{attribute.strip()}"
    try:
        _load(place)
    except StrategyError as error:
        raise StrategyError(
            f"the entry point {point.name!r} does not load: {error.cause}",
            where=_origin(point),
            fix=error.fix,
        ) from error
    return place


def _origin(point: EntryPoint) -> str:
    package = f" of {point.dist.name}" if point.dist is not None else ""
    return f"entry point {point.name!r} in {GROUP!r}{package}"


def _load(place: str) -> type[Strategy]:
    module_name, _, class_name = place.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        raise StrategyError(
            f"the module {module_name!r} of strategy {place!r} cannot be imported: "
            f"{type(error).__name__}: {error}",
            where=place,
            fix="check its name, and that it is installed or beside the space file",
        ) from error
    kind = getattr(module, class_name, None)
    if not inspect.isclass(kind) or not issubclass(kind, Strategy):
        found = [
            name
            for name, value in vars(module).items()
            if inspect.isclass(value)
            and issubclass(value, Strategy)
            and not inspect.isabstract(value)
        ]
        raise StrategyError(
            f"{module_name!r} has no strategy class {class_name!r}",
            where=place,
            fix=f"nearest: {nearest(class_name, found)}"
            if found
            else "write a subclass of retiarii.strategies.Strategy there",
        )
    if inspect.isabstract(kind):
        missing = ", ".join(sorted(kind.__abstractmethods__))
        raise StrategyError(
            f"{class_name} does not define {missing}", where=place, fix="write the methods"
        )
    return kind


def _check_options(spec: str, kind: type[Strategy], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(kind).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for option in options:
        if option not in parameters:
            raise StrategyError(
                f"strategy {spec!r} has no option {option!r}",
                fix=f"nearest: {nearest(option, list(parameters))}"
                if parameters
                else "it takes no options",
            )


def _known() -> str:
    return f"give one of {', '.join(sorted(STRATEGIES))}, or module:Class"
