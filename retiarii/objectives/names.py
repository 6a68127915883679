"""What a user says of objectives and limits, read and checked; no torch is needed for it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from retiarii.errors import ObjectiveError, nearest

#: Measured of a model before it is trained -> whether a batch size and a device may be named.
BUILT_IN: Final[Mapping[str, bool]] = MappingProxyType(
    {
        "params": False,
        "model_size": False,
        "flops": True,
        "activation_memory": True,
        "latency": True,
        "predicted_latency": True,
    }
)
#: Zero-cost proxies: more is better in each.
PROXIES: Final[tuple[str, ...]] = (
    "synflow",
    "naswot",
    "snip",
    "grad_norm",
    "jacob_cov",
    "zen",
)
#: Those of the built-in objectives that run on a device.
TIMED: Final = frozenset({"latency", "predicted_latency"})

_DIRECTIONS: Final[Mapping[str, bool]] = MappingProxyType(
    {"max": True, "maximize": True, "min": False, "minimize": False}
)
_NAME = re.compile(r"(?P<what>[^@:]+)(?:@(?P<batch>\d+))?(?::(?P<device>.+))?")
_LIMIT = re.compile(r"\s*(?P<name>[^<>=\s]+)\s*(?P<how><=|>=|<|>)\s*(?P<bound>\S+)\s*")
_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = MappingProxyType(
    {
        "<=": lambda value, bound: value <= bound,
        ">=": lambda value, bound: value >= bound,
        "<": lambda value, bound: value < bound,
        ">": lambda value, bound: value > bound,
    }
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that is measured of a model: ``latency@32:cuda`` and the like.

    Attributes:
        what: a key of `BUILT_IN`, or a proxy.
        batch: samples; ``None`` is the number of the space's example inputs.
        device: where it is timed; ``None`` is where trials are trained.
    """

    what: str
    batch: int | None = None
    device: str | None = None

    @staticmethod
    def of(name: str) -> Quantity | None:
        """What a name stands for; ``None`` where it is a metric that the evaluator reports.

        Raises:
            ObjectiveError: a batch size or a device where there can be none.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        what, batch, device = found["what"], found["batch"], found["device"]
        if what in PROXIES:
            sized = False
        elif what in BUILT_IN:
            sized = BUILT_IN[what]
        else:
            return None
        if batch is not None and (not sized or int(batch) < 1):
            raise ObjectiveError(
                f"{what} is not measured at a batch of {batch}",
                where=name,
                fix=f"write {what}" + ("@1" if sized else ""),
            )
        if device is not None and what not in TIMED:
            raise ObjectiveError(
                f"{what} does not depend on a device", where=name, fix=f"write {what}"
            )
        return Quantity(what, None if batch is None else int(batch), device)

    @property
    def is_proxy(self) -> bool:
        return self.what in PROXIES


@dataclass(frozen=True, slots=True)
class Objective:
    """One objective of a search.

    Attributes:
        name: of the metric.
        maximize: whether more is better.
    """

    name: str
    maximize: bool

    @property
    def direction(self) -> str:
        return "max" if self.maximize else "min"

    def gain(self, value: float) -> float:
        """The value with more being better."""
        return value if self.maximize else -value


@dataclass(frozen=True, slots=True)
class Limit:
    """What a model must keep to: ``params <= 1e6``.

    Attributes:
        name: of a built-in objective.
        quantity: what it stands for.
        how: ``<=``, ``>=``, ``<`` or ``>``.
        bound: a number.
    """

    name: str
    quantity: Quantity
    how: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name} {self.how} {self.bound:g}"

    def met(self, value: float) -> bool:
        return _COMPARE[self.how](value, self.bound)


def make_objectives(given: Any) -> tuple[Objective, ...]:
    """The objectives that a user means; none for ``None``.

    Args:
        given: ``{"accuracy": "max", "latency": "min"}``, or ``"accuracy=max,latency=min"``.

    Raises:
        ObjectiveError: it is neither, a name is no name, or a direction is neither max nor min.
    """
    if given is None:
        return ()
    if isinstance(given, str):
        given = _from_text(given)
    if not isinstance(given, Mapping) or not given:
        raise ObjectiveError(
            f"objectives are {given!r:.60}",
            where="objectives",
            fix='give a direction for each name: {"accuracy": "max", "latency": "min"}',
        )
    made = []
    for name, direction in given.items():
        if not isinstance(name, str) or not name or any(c in name for c in ",= "):
            raise ObjectiveError(
                f"an objective is called {name!r}",
                where="objectives",
                fix="give the name of a metric, or a built-in one: " + ", ".join(BUILT_IN),
            )
        if not isinstance(direction, str) or direction not in _DIRECTIONS:
            raise ObjectiveError(
                f"the direction of objective {name!r} is {direction!r}",
                where="objectives",
                fix=f'give "max" or "min": {{"{name}": "max"}}',
            )
        Quantity.of(name)
        made.append(Objective(name, _DIRECTIONS[direction]))
    return tuple(made)


def make_limits(given: Any) -> tuple[Limit, ...]:
    """The limits that a user means; none for ``None``.

    Args:
        given: ``["params <= 1e6", "latency@1 <= 0.005"]``, or one text with commas.

    Raises:
        ObjectiveError: a text that is no limit, or on something that is not known before training.
    """
    if given is None:
        return ()
    texts = given.split(",") if isinstance(given, str) else given
    if not isinstance(texts, Sequence):
        raise ObjectiveError(
            f"constraints are {given!r:.60}",
            where="constraints",
            fix='give a list of texts: ["params <= 1e6"]; other conditions: space.require(...)',
        )
    return tuple(_limit(text) for text in texts)


def _limit(text: Any) -> Limit:
    found = _LIMIT.fullmatch(text) if isinstance(text, str) else None
    try:
        bound = float(found["bound"]) if found is not None else math.nan
    except ValueError:
        bound = math.nan
    if found is None or not math.isfinite(bound):
        raise ObjectiveError(
            f"{text!r:.60} is not a limit",
            where="constraints",
            fix="write a name, a comparison and a number: params <= 1e6",
        )
    name = found["name"]
    quantity = Quantity.of(name)
    if quantity is None:
        known = [*BUILT_IN, *PROXIES]
        raise ObjectiveError(
            f"{name!r} is not known before a model is trained",
            where=f"constraint {text.strip()}",
            fix=f"{nearest(name, known)}; other conditions: space.require(...)",
        )
    return Limit(name, quantity, found["how"], bound)


def _from_text(text: str) -> dict[str, str]:
    parts: Iterable[str] = (part.strip() for part in text.split(","))
    found: dict[str, str] = {}
    for part in parts:
        name, equals, direction = part.partition("=")
        if not equals or name in found:
            raise ObjectiveError(
                f"{part!r} is given twice" if equals else f"{part!r} has no direction",
                where=f"objectives {text}",
                fix="write each once, with max or min: accuracy=max,latency=min",
            )
        found[name.strip()] = direction.strip()
    return found


@dataclass(frozen=True, slots=True)
class Sifting:
    """So many times as many proposals as are trained, of which a proxy picks the best.

    Attributes:
        proxy: its name.
        times: 2 or more.
    """

    proxy: str
    times: int

    def __str__(self) -> str:
        return f"{self.proxy},times={self.times}"


def make_sifting(given: Any, what: str, times: int) -> Sifting | None:
    """What a user means by ``"naswot"`` or ``"naswot,times=4"``; ``None`` for ``None``.

    Args:
        given: text, or ``None``.
        what: for errors: ``prefilter`` or ``warm_start``.
        times: where none are given.

    Raises:
        ObjectiveError: no such proxy, or no such number.
    """
    if given is None:
        return None
    name, comma, option = str(given).partition(",")
    name = name.strip()
    if name not in PROXIES:
        raise ObjectiveError(
            f"there is no proxy {name!r}",
            where=what,
            fix=nearest(name, list(PROXIES)),
        )
    key, _, number = option.replace(" ", "").partition("=")
    if comma and (key != "times" or not number.isdecimal() or int(number) < 2):
        raise ObjectiveError(
            f"{option.strip()!r} is not how many times as much is proposed",
            where=f"{what} {given}",
            fix=f"write a whole number from 2 on: {name},times={times}",
        )
    return Sifting(name, int(number) if comma else times)
