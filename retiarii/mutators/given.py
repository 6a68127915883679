"""Replays of which the decisions are given: all of them, or some."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from retiarii.errors import SpaceError, nearest
from retiarii.mutators.choice import (
    Description,
    Domain,
    Integer,
    Numbered,
    Raw,
    Recorder,
    check_raw,
    show,
)
from retiarii.mutators.draw import uniform_chooser


class FrozenRecorder(Recorder):
    """Answers from given decisions (label -> value), and knows which were not asked for.

    Raises:
        SpaceError: from ``ask``, when a label is missing or its value is none of the options.
    """

    def __init__(self, decisions: Mapping[str, Any]) -> None:
        super().__init__(_no_chooser)
        if not isinstance(decisions, Mapping):
            raise SpaceError(
                f"decisions are given as a {type(decisions).__name__}",
                fix="give a dict of label -> value, such as candidate.decisions",
            )
        self._given = dict(decisions)

    def check_all_asked(self) -> None:
        """Raises SpaceError when a given decision was never asked for."""
        asked = [decision.label for decision in self.decisions]
        unknown = [label for label in self._given if label not in asked]
        if unknown:
            raise SpaceError(
                f"decision {unknown[0]!r} was given, but nothing asked for it",
                where=f"decision {unknown[0]!r}",
                fix=nearest(unknown[0], asked, "labels")
                if asked
                else "this space asks for no decisions",
            )

    def _answer(self, label: str, description: Description) -> Raw:
        if label not in self._given:
            raise SpaceError(
                f"decision {label!r} is missing",
                where=f"options: {description!r}",
                fix=f"add it; given were {sorted(map(str, self._given))}",
            )
        given = _as_tuples(self._given[label])
        if description.options is None:
            return _number(label, description, given)
        for index, option in enumerate(description.options):
            plain = _as_tuples(option)
            if type(plain) is type(given) and _equal(plain, given):
                return index
        shown = [show(o) for o in description.options]
        if show(given) in shown:
            return shown.index(show(given))
        raise SpaceError(
            f"{show(given)!r} is none of the options of {label!r}",
            where=f"decision {label!r}",
            fix=f"choose one of {shown}",
        )


class PartialRecorder(FrozenRecorder):
    """Answers from given decisions (label -> value), and draws what was not given.

    Attributes:
        drawn: how many decisions were drawn.
        refused: whether a given value was none of the options: another draw changes nothing.
    """

    def __init__(self, decisions: Mapping[str, Any], seed: int) -> None:
        super().__init__(decisions)
        self._draw = uniform_chooser(seed)
        self.drawn = 0
        self.refused = False

    def _answer(self, label: str, description: Description) -> Raw:
        if label not in self._given:
            self.drawn += 1
            return check_raw(label, description.domain, self._draw(label, description.domain))
        try:
            return super()._answer(label, description)
        except SpaceError:
            self.refused = True
            raise


def _number(label: str, description: Description, given: Any) -> Raw:
    whole = isinstance(description.domain, Integer)
    if isinstance(given, int if whole else int | float) and not isinstance(given, bool):
        with suppress(SpaceError):
            return check_raw(label, description.domain, given)
    raise SpaceError(
        f"{show(given)!r} is not in the range of {label!r}",
        where=f"decision {label!r}",
        fix=f"give a {'whole ' if whole else ''}number of {description!r}",
    )


def _no_chooser(_label: str, _domain: Domain) -> Raw:
    raise AssertionError("frozen decisions are never chosen")


def _as_tuples(value: Any) -> Any:
    """Lists as tuples: JSON, in which results are kept, does not tell them apart. Nor numbers."""
    if type(value) is Numbered:
        return int(value)
    return tuple(_as_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except Exception:
        return a is b
