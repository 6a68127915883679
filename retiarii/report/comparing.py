"""Several searches side by side: what each has found, for how many trials and how much time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retiarii.report.budgets import longest
from retiarii.report.clock import elapsed
from retiarii.report.progress import best_so_far
from retiarii.runtime.identity import difference, scoring
from retiarii.runtime.schema import TERMINAL

if TYPE_CHECKING:
    from retiarii.result import Result

_COLUMNS = 6
_SHOWN = 6


@dataclass(frozen=True)
class Found:
    """A complete trial that was better than all before it.

    Attributes:
        trials: how many trials there were by then, it included.
        seconds: how much time the search had spent by then.
        score: its score.
    """

    trials: int
    seconds: float
    score: float


@dataclass(frozen=True)
class Search:
    """One of the searches.

    Attributes:
        name: its directory, as short as the others allow.
        result: what it found.
        found: its best so far, step by step.
        trials: how many trials have ended.
        seconds: how much time it has spent on them.
    """

    name: str
    result: Result
    found: tuple[Found, ...]
    trials: int
    seconds: float

    def best(self, *, trials: float | None = None, seconds: float | None = None) -> float | None:
        """The best score within so many trials, or so much time."""
        within = [
            step.score
            for step in self.found
            if (trials is None or step.trials <= trials)
            and (seconds is None or step.seconds <= seconds)
        ]
        return within[-1] if within else None

    def reached(self, score: float, maximize: bool) -> Found | None:
        """When it had a score that good."""
        sign = 1.0 if maximize else -1.0
        return next((step for step in self.found if sign * step.score >= sign * score), None)


@dataclass(frozen=True)
class Comparison:
    """Several searches, and whether their scores may be compared.

    Attributes:
        searches: in the order given.
        unlike: lines that say why scores cannot be compared; empty where they can.
        spaces: lines that say how the spaces differ: that may be what is compared.
        maximize: whether a higher score is better.
        best: the best score of all; ``None`` where scores cannot be compared.
        target: the best score that every one of them has reached.
    """

    searches: tuple[Search, ...]
    unlike: tuple[str, ...]
    spaces: tuple[str, ...]
    maximize: bool
    best: float | None
    target: float | None

    def regret(self, score: float | None) -> float | None:
        """How far a score is from the best of all."""
        return None if score is None or self.best is None else abs(self.best - score)

    def counts(self) -> list[int]:
        """Numbers of trials to compare at: doubled up to what the longest search has."""
        most = max(search.trials for search in self.searches)
        counts = [most]
        while counts[0] > 1 and len(counts) < _COLUMNS:
            counts.insert(0, (counts[0] + 1) // 2)
        return counts

    def times(self) -> list[float]:
        """Seconds to compare at, likewise."""
        most = max(search.seconds for search in self.searches)
        return [most / 2.0**power for power in reversed(range(_COLUMNS))] if most > 0 else []

    def to_json(self) -> dict[str, Any]:
        return {
            "comparable": not self.unlike,
            "differences": list(self.unlike),
            "space_differences": list(self.spaces),
            "best": self.best,
            "target": self.target,
            "searches": [self._one(search) for search in self.searches],
        }

    def _one(self, search: Search) -> dict[str, Any]:
        result = search.result
        reached = None if self.target is None else search.reached(self.target, self.maximize)
        return {
            "directory": str(result.directory),
            "metric": result.metric,
            "strategy": result.strategy,
            "trials": search.trials,
            "seconds": search.seconds,
            "steps": longest(result),
            "best": None if result.best is None else result.best.to_json(),
            "trials_to_target": None if reached is None else reached.trials,
            "seconds_to_target": None if reached is None else reached.seconds,
            "best_so_far": [[step.trials, step.seconds, step.score] for step in search.found],
            "regret": [[n, self.regret(search.best(trials=n))] for n in self.counts()],
        }


def compare(results: Sequence[Result]) -> Comparison:
    """Puts searches side by side; the first is what the others are compared to."""
    names = _names([result.directory for result in results])
    searches = tuple(_search(name, each) for name, each in zip(names, results, strict=True))
    maximize = results[0].maximize
    unlike = _unlike(searches)
    best = target = None
    bests = [search.found[-1].score for search in searches if search.found]
    if not unlike and bests:
        best = max(bests) if maximize else min(bests)
        if len(bests) == len(searches):
            target = min(bests) if maximize else max(bests)
    return Comparison(searches, unlike, _spaces(searches), maximize, best, target)


def _search(name: str, result: Result) -> Search:
    times = elapsed(result)
    found = [Found(n + 1, times.get(n, 0.0), score) for n, score in best_so_far(result)]
    ended = sum(trial.state in TERMINAL for trial in result.trials)
    return Search(name, result, tuple(found), ended, max(times.values(), default=0.0))


def _names(directories: Sequence[Path]) -> list[str]:
    """Each directory without what all of them share at the front."""
    if len(set(directories)) < 2:
        return [directory.name for directory in directories]
    shared = os.path.commonpath(directories)
    short = [os.path.relpath(directory, shared) for directory in directories]
    return [d.name if s == "." else s for d, s in zip(directories, short, strict=True)]


def _unlike(searches: Sequence[Search]) -> tuple[str, ...]:
    first = searches[0].result
    lines = []
    for search in searches[1:]:
        other = search.result
        for what, a, b in (
            ("metric", first.metric, other.metric),
            ("direction", _direction(first), _direction(other)),
            ("steps of training", longest(first), longest(other)),
        ):
            if a != b:
                lines.append(f"{search.name}: {what} is {b}, not {a}")
        evaluators = difference(_evaluator(first), _evaluator(other), "evaluator")
        lines += [f"{search.name}: {line}" for line in _few(list(evaluators))]
    return tuple(lines)


def _evaluator(result: Result) -> Any:
    # The metric and its direction are told in plain words.
    described = scoring(result.identity.get("evaluator", {}))
    return {k: v for k, v in described.items() if k not in ("metric", "maximize")}


def _spaces(searches: Sequence[Search]) -> tuple[str, ...]:
    first = searches[0].result.identity.get("space", {})
    lines = []
    for search in searches[1:]:
        found = difference(first, search.result.identity.get("space", {}), "space")
        lines += [f"{search.name}: {line}" for line in _few(list(found))]
    return tuple(lines)


def _few(lines: list[str]) -> list[str]:
    more = len(lines) - _SHOWN
    return [*lines[:_SHOWN], f"and {more} more"] if more > 0 else lines


def _direction(result: Result) -> str:
    return "maximised" if result.maximize else "minimised"
