"""Frozen descriptions whose fields may be choices: their checks, labels and chosen values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

from retiarii.errors import EvaluatorError
from retiarii.mutators.choice import Description, Integer
from retiarii.training.fingerprint import jsonable
from retiarii.training.labels import add_label


@dataclass(frozen=True, slots=True)
class Rule:
    """What a field's value must be.

    Attributes:
        says: ends the sentence "it must be ...".
        holds: tells whether a plain value is that.
    """

    says: str
    holds: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


POSITIVE = Rule("a number above 0", lambda v: is_number(v) and v > 0)
NOT_NEGATIVE = Rule("a number from 0 on", lambda v: is_number(v) and v >= 0)
FRACTION = Rule("a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1)
BELOW_ONE = Rule("a number from 0 up to, but below, 1", lambda v: is_number(v) and 0 <= v < 1)
COUNT = Rule("a whole number above 0", lambda v: is_whole(v) and v > 0)
WHOLE = Rule("a whole number from 0 on", lambda v: is_whole(v) and v >= 0)
FLAG = Rule("True or False", lambda v: isinstance(v, bool))
BETAS = Rule(
    "a pair of numbers, each from 0 up to, but below, 1",
    lambda v: isinstance(v, tuple | list) and len(v) == 2 and all(map(BELOW_ONE.holds, v)),
)


def possible(value: Any) -> Iterator[Any]:
    """The plain values that a check must accept: for a choice all options, or both ends."""
    if isinstance(value, Description):
        # Between whole ends a range of real numbers still has fractions.
        real = value.options is None and not isinstance(value.domain, Integer)
        yield from map(float, value.bounds()) if real else value.bounds()
    elif isinstance(value, tuple | list) and any(isinstance(v, Description) for v in value):
        yield from itertools.product(*map(possible, value))
    else:
        yield value


def check_field(owner: str, name: str, value: Any, rule: Rule) -> None:
    """Raises EvaluatorError when ``value``, or a choice's reach, breaks ``rule``."""
    for plain in possible(value):
        if not rule.holds(plain):
            reach = "" if plain is value else f", which can become {plain!r}"
            raise EvaluatorError(
                f"{name} is {value!r}{reach}; it must be {rule.says}",
                where=f"{owner}({name}=...)",
                fix=f"change {name} to {rule.says}",
            )


class Fields:
    """Base of the descriptions of optimizers and schedules (frozen dataclasses)."""

    RULES: ClassVar[Mapping[str, Rule]] = {}

    def __post_init__(self) -> None:
        for name, rule in self.RULES.items():
            check_field(type(self).__name__, name, getattr(self, name), rule)

    def descriptions(self, prefix: str = "") -> dict[str, Description]:
        """The choices in the fields: label to what may be chosen.

        Args:
            prefix: stands before the names of the fields, not before a choice's own label.
        """
        found: dict[str, Description] = {}

        def enter(name: str, description: Description) -> Description:
            add_label(found, name, description)
            return description

        _walk(self, prefix, enter)
        return found

    def resolved(self, values: Mapping[str, Any], prefix: str = "") -> Self:
        """A copy in which every choice is made.

        Args:
            values: label to the value chosen.
            prefix: as in :meth:`descriptions`.

        Raises:
            EvaluatorError: a label is missing.
        """
        answer: Self = _walk(self, prefix, lambda name, d: chosen(values, name, d))
        return answer

    def describe(self) -> dict[str, Any]:
        """As JSON, choices by their text."""
        answer: dict[str, Any] = jsonable(self)
        return answer


def numbers_in(plain: Fields) -> list[str]:
    """The labels of the choices of numbers in the fields, flags left out."""
    return [
        label
        for label, description in plain.descriptions().items()
        if all(is_number(value) for value in possible(description))
    ]


def chosen(values: Mapping[str, Any], name: str, value: Any) -> Any:
    """``value``, or what was chosen for it when it is a choice.

    Raises:
        EvaluatorError: its label is missing.
    """
    if not isinstance(value, Description):
        return value
    label = value.label or name
    if label not in values:
        raise EvaluatorError(
            f"no value was chosen for hyper-parameter {label!r}",
            where=f"hyper-parameters given: {sorted(values)}",
            fix="pass it in trial.hyperparameters",
        )
    return values[label]


def _walk(value: Any, name: str, visit: Callable[[str, Description], Any]) -> Any:
    """``value`` with each choice replaced by what ``visit`` answers; nested fields too."""
    if isinstance(value, Description):
        refuse_nested(name, value)
        return visit(name, value)
    if isinstance(value, Fields):
        assert is_dataclass(value)
        dot = f"{name}." if name and not name.endswith(".") else name
        changes = {
            f.name: _walk(getattr(value, f.name), f"{dot}{f.name}", visit) for f in fields(value)
        }
        return replace(value, **changes)
    if isinstance(value, tuple | list) and any(isinstance(v, Description) for v in value):
        return tuple(_walk(v, f"{name}.{i}", visit) for i, v in enumerate(value))
    return value


def refuse_nested(name: str, description: Description) -> None:
    """Raises EvaluatorError when an option holds choices itself."""
    for option in description.options or ():
        if isinstance(option, Fields) and option.descriptions():
            raise EvaluatorError(
                f"{name} is a choice with an option that holds choices itself: {option!r}",
                where=f"hyper-parameter {name!r}",
                fix="give the options plain values, or search each option by itself",
            )
