"""What a search begins with: trials of an earlier one, and candidates that the user asked for.

Both are written into the store before anything is proposed, and read from there ever after: a
search that resumes needs neither the earlier directory nor the file of candidates again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from retiarii.errors import RetiariiError, SpaceError
from retiarii.runtime.job import Raws, point_of
from retiarii.runtime.shown import plain
from retiarii.runtime.store import Store
from retiarii.seeding import derive

if TYPE_CHECKING:
    from retiarii.search_space import Point, SearchSpace

CARRIED = "carried"
ENQUEUED = "enqueued"


@dataclass(frozen=True)
class Beginning:
    """Trials that no strategy proposes.

    Attributes:
        space: what is searched.
        carried: how many trials, from 0 on, were taken over from an earlier search.
        asked: trial -> the answers of a candidate that is evaluated under that number.
        text: one line on it, or nothing.
    """

    space: SearchSpace
    carried: int = 0
    asked: Mapping[int, Raws] = field(default_factory=lambda: MappingProxyType({}))
    text: str = ""

    def point(self, number: int) -> Point | None:
        """The candidate asked for as trial ``number``; ``None`` where there is none."""
        raws = self.asked.get(number)
        return None if raws is None else point_of(self.space, raws)


@dataclass(frozen=True)
class Wish:
    """A candidate to evaluate.

    Attributes:
        given: label -> value, as JSON has it: what was asked for.
        point: those decisions, and the rest as drawn.
        source: the trial of an earlier search that it comes from; ``None``: the user's own.
    """

    given: Mapping[str, Any]
    point: Point
    source: int | None = None


def carried_of(store: Store) -> list[int]:
    """The trials of the earlier search that the first trials of this one are."""
    found: dict[str, Any] = store.meta(CARRIED, {})
    return list(found.get("trials", []))


def read_beginning(store: Store, space: SearchSpace) -> Beginning:
    """What the store has of it."""
    asked = {
        int(each["number"]): tuple((str(label), raw) for label, raw in each["raws"])
        for each in store.meta(ENQUEUED, [])
    }
    found: dict[str, Any] = store.meta(CARRIED, {})
    return Beginning(space, len(carried_of(store)), asked, str(found.get("text", "")))


def make_wish(space: SearchSpace, decisions: Any, seed: int, before: Sequence[Wish]) -> Wish:
    """A candidate with these decisions (label -> value); what they leave open is drawn.

    Given again, after the same in ``before``, it is another draw.

    Raises:
        SpaceError: a value is none of the options, or nothing asks for a label.
        InfeasibleError: no model follows.
    """
    if not isinstance(decisions, Mapping):
        raise SpaceError(
            f"a candidate is given as a {type(decisions).__name__}",
            fix="give a dict of label -> value, such as trial.decisions",
        )
    given = {str(label): value for label, value in decisions.items()}
    text = _text(given)
    nth = sum(_text(wish.given) == text for wish in before)
    return Wish(plain(given), space.complete(given, derive(seed, "enqueue", text, nth)))


def numbered(
    before: Sequence[Mapping[str, Any]], wishes: Sequence[Wish], first: int, trials: int
) -> list[Mapping[str, Any]]:
    """Gives numbers to candidates that are not there yet; the whole list, as the store has it.

    Numbers begin after all that was proposed. What is there already is not asked for again: the
    same command on the same directory adds nothing.

    Args:
        before: the list so far.
        wishes: all that are asked for.
        first: the first number that is free of trials.
        trials: how many trials the search may have.

    Raises:
        RetiariiError: there are more than it may have.
    """
    known = Counter(_text(each["given"]) for each in before if each["source"] is None)
    taken = max([first, *(each["number"] + 1 for each in before)])
    added: list[Mapping[str, Any]] = []
    for wish in wishes:
        text = _text(wish.given)
        if wish.source is None and known[text]:
            known[text] -= 1
            continue
        number = taken + len(added)
        raws = [list(pair) for pair in wish.point.raws]
        entry = {"number": number, "given": wish.given, "raws": raws, "source": wish.source}
        added.append(entry)
    if taken + len(added) > trials and added:
        raise RetiariiError(
            f"{len(added)} candidates are enqueued after {taken} trials, and the search has "
            f"{trials}",
            where=f"trials={trials}",
            fix=f"give --trials {taken + len(added)} or more",
        )
    return [*before, *added]


def _text(given: Mapping[str, Any]) -> str:
    return json.dumps(plain(given), sort_keys=True)
