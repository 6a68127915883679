"""Warm starts: what the trials of an earlier search are worth to a new one."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retiarii.errors import RetiariiError
from retiarii.runtime.identity import normal, scoring
from retiarii.runtime.rows import TrialRow
from retiarii.runtime.store import Store
from retiarii.search.beginning import CARRIED, ENQUEUED, Wish, carried_of, numbered
from retiarii.search.state import trial_directory
from retiarii.seeding import derive

if TYPE_CHECKING:
    from retiarii.search_space import Point, SearchSpace
    from retiarii.training.evaluator import Evaluator

#: Of trials whose scores do not hold any more, so many of the best are proposed first,
HINTS = 16
#: and at most this part of the new trials.
HINTS_PART = 4

_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Kept:
    """A trial whose score holds: the earlier one, and its point in the new space."""

    row: TrialRow
    point: Point
    steps: list[tuple[int, dict[str, Any]]]


@dataclass(frozen=True)
class Inheritance:
    """What a search takes over.

    Attributes:
        directory: of the earlier search.
        kept: trials with the same model, hyper-parameters, budget and evaluator.
        hints: candidates to be evaluated again, the best first.
        reason: why scores do not hold, where none of them does.
    """

    directory: Path
    kept: list[Kept]
    hints: list[Wish]
    reason: str | None

    def facts(self) -> dict[str, Any]:
        """What the store remembers of it."""
        return {
            "from": str(self.directory.resolve()),
            "trials": [kept.row.id for kept in self.kept],
            "text": self.text,
        }

    @property
    def text(self) -> str:
        """One line on it."""
        parts = []
        if self.kept:
            parts.append(f"{len(self.kept)} trials of {self.directory} are taken over")
        if self.hints:
            why = f" ({self.reason})" if self.reason else ""
            parts.append(f"{len(self.hints)} of its best are evaluated again first{why}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Asked:
    """What a search is to begin with.

    Attributes:
        wishes: candidates that the user asked for.
        earlier: the directory of an earlier search, or ``None``.
        evaluator: the evaluator of this one.
        definitions: of its space file; empty where there is none.
        helpers: those of them that the evaluator's own code uses.
        trials: how many trials it has, those of the earlier one aside.
        seed: draws what earlier decisions leave open.
    """

    wishes: Sequence[Wish]
    earlier: Path | None
    evaluator: Evaluator
    definitions: Mapping[str, str]
    helpers: frozenset[str]
    trials: int
    seed: int


def begin(store: Store, space: SearchSpace, asked: Asked, directory: Path) -> None:
    """Writes what a search begins with into its store; of one that goes on, what is new.

    Args:
        directory: of this search.

    Raises:
        StoreError: the earlier search cannot be read.
        RetiariiError: none of its trials fits; this search began otherwise; or there are more
            candidates than trials.
    """
    count = store.count()
    if count:
        if asked.earlier is not None:
            _check_source(store, asked.earlier)
        before = store.meta(ENQUEUED, [])
        listed = numbered(before, asked.wishes, count, len(carried_of(store)) + asked.trials)
        if len(listed) > len(before):
            store.set_meta(**{ENQUEUED: listed})
        return
    inheritance = None if asked.earlier is None else _inherit(space, asked, directory)
    kept = [] if inheritance is None else inheritance.kept
    room = max(0, asked.trials - len(asked.wishes))
    hints = [] if inheritance is None else inheritance.hints[:room]
    listed = numbered([], [*asked.wishes, *hints], len(kept), len(kept) + asked.trials)
    if inheritance is not None:
        _bring_weights(inheritance, directory)
    store.carry(
        [(each.row, each.point.decisions, each.steps) for each in kept],
        time.time(),
        {CARRIED: {} if inheritance is None else inheritance.facts(), ENQUEUED: listed},
    )


def _inherit(space: SearchSpace, asked: Asked, directory: Path) -> Inheritance:
    """Looks through the earlier search."""
    assert asked.earlier is not None
    earlier = asked.earlier
    if earlier.resolve() == directory.resolve():
        raise RetiariiError(
            "a search cannot continue from its own directory",
            where=f"--continue-from {earlier}",
            fix="the same command resumes it; for a new search choose another --out",
        )
    with closing(Store.read(earlier)) as store:
        identity: dict[str, Any] | None = store.meta("identity")
        sign = 1.0 if store.meta("maximize", True) else -1.0
        rows = [row for row in store.rows() if row.state == "complete" and row.same_as is None]
        if identity is None or not rows:
            raise _nothing(earlier, "it has no complete trial")
        reason = _other_scores(identity, asked)
        kept: list[Kept] = []
        again: list[tuple[TrialRow, Point]] = []
        refusal = ""
        keys: set[str] = set()
        for row in rows:
            values = {label: shown for label, _, shown in row.decisions}
            try:
                point = space.complete(values, derive(asked.seed, "hint", row.id), all_asked=False)
            except RetiariiError as error:
                refusal = refusal or f"trial {row.id}: {error.cause}"
                continue
            if values and not any(each.label in values for each in point.decisions):
                refusal = refusal or "this space asks for none of its decisions"
                continue
            key = point.key()
            if reason is None and key == row.key and key not in keys:
                keys.add(key)
                kept.append(Kept(row, point, store.steps(row.id)))
            else:
                again.append((row, point))
    again = [(row, point) for row, point in again if point.key() not in keys]
    again.sort(key=lambda pair: (-sign * (pair[0].score or 0.0), pair[0].id))
    count = min(HINTS, max(1, asked.trials // HINTS_PART))
    hints = [
        Wish({label: shown for label, _, shown in row.decisions}, point, row.id)
        for row, point in _different(again)[:count]
    ]
    if not kept and not hints:
        raise _nothing(earlier, refusal)
    return Inheritance(earlier, kept, hints, reason)


def _bring_weights(inheritance: Inheritance, directory: Path) -> None:
    """Puts the weights of trials whose scores hold where those of this search's are."""
    for number, kept in enumerate(inheritance.kept):
        row = kept.row
        old = trial_directory(inheritance.directory, row.id, row.attempt) / _WEIGHTS
        if old.is_file():
            place = trial_directory(directory, number, 0)
            place.mkdir(parents=True, exist_ok=True)
            _link(old, place / _WEIGHTS)


def _check_source(store: Store, directory: Path) -> None:
    """Makes sure that a search that resumes continues from where it began.

    Raises:
        RetiariiError: it began without an earlier search, or from another one.
    """
    before = store.meta(CARRIED)
    if before and before["from"] == str(directory.resolve()):
        return
    began = "without an earlier one" if not before else f"from {before['from']}"
    raise RetiariiError(
        f"this search began {began}",
        where=f"--continue-from {directory}",
        fix="leave it out to go on, or choose another directory for a new search",
    )


def _different(pairs: list[tuple[TrialRow, Point]]) -> list[tuple[TrialRow, Point]]:
    seen: set[str] = set()
    found = []
    for row, point in pairs:
        if (key := point.key()) not in seen:
            seen.add(key)
            found.append((row, point))
    return found


def _other_scores(identity: Mapping[str, Any], asked: Asked) -> str | None:
    """Why scores of then and now cannot be compared; ``None``: they can."""
    if scoring(identity["evaluator"]) != scoring(normal(asked.evaluator.describe())):
        return "the evaluator is another one"
    before: Mapping[str, str] = identity.get("file", {})
    changed = [n for n in sorted(asked.helpers) if before.get(n) != asked.definitions.get(n)]
    return f"{changed[0]} has changed" if changed else None


def _link(old: Path, new: Path) -> None:
    new.unlink(missing_ok=True)
    with suppress(OSError):  # another disk
        os.link(old, new)
        return
    shutil.copy2(old, new)


def _nothing(directory: Path, detail: str) -> RetiariiError:
    return RetiariiError(
        f"no trial of the earlier search fits this space: {detail}",
        where=f"--continue-from {directory}",
        fix="search without it; or keep the labels and options that it had",
    )
