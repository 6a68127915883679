"""Looking at a space from outside: its labels, its options, how many models it has."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from retiarii.errors import InfeasibleError, SpaceError
from retiarii.mutators.choice import Categorical, Domain, Raw

if TYPE_CHECKING:
    from retiarii.search_space import SearchSpace
    from retiarii.space import ModelSpace

# A survey ends when so many replays in a row showed nothing new.
_QUIET_REPLAYS = 40
# Where counting is fast at all it is very fast; so it gets this part of the time on top.
_COUNTING = 0.6


@dataclass(slots=True)
class Label:
    """One decision that a space can ask for.

    Attributes:
        domain: what may be chosen.
        options: raw answer -> the value behind it, for those that were seen.
    """

    domain: Domain
    options: dict[Raw, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Survey:
    """What replaying a space has shown.

    Attributes:
        labels: the decisions that it asks for.
        replays: how many models were looked at.
        infeasible: how many of them lead to no model.
        reason: of the first of these.
    """

    labels: dict[str, Label]
    replays: int = 0
    infeasible: int = 0
    reason: InfeasibleError | None = None


def survey(space: SearchSpace, seconds: float = 1.0) -> Survey:
    """Replays a space until nothing new is seen, each option once where possible.

    A label behind rare decisions may be missed; the more replays, the less likely.
    """
    seen = Survey({})
    found = seen.labels
    answered: set[tuple[str, Raw]] = set()
    rng = random.Random(0)
    news = 0

    def choose(label: str, domain: Domain) -> Raw:
        nonlocal news
        if label not in found:
            found[label] = Label(domain)
            news += 1
        if not isinstance(domain, Categorical):
            return domain.low
        left = [raw for raw in range(domain.n) if (label, raw) not in answered]
        if not left:
            return rng.randrange(domain.n)
        news += 1
        answered.add((label, left[0]))
        return left[0]

    quiet, end = 0, time.monotonic() + seconds
    while quiet < _QUIET_REPLAYS and time.monotonic() < end:
        before = news
        seen.replays += 1
        try:
            decisions = space.replay(choose).decisions
        except InfeasibleError as error:
            decisions = error.decisions
            seen.infeasible += 1
            seen.reason = seen.reason or error
        for decision in decisions:
            found[decision.label].options[decision.raw] = decision.value
        quiet = 0 if news > before else quiet + 1
    seen.labels = _in_groups(found, list(space.hyperparameters))
    return seen


def _in_groups(found: dict[str, Label], last: list[str]) -> dict[str, Label]:
    """Labels of one mutator at one target side by side, hyper-parameters at the end."""
    groups: dict[str, list[str]] = {}
    for label in found:
        groups.setdefault(label.rpartition("/")[0], []).append(label)
    order = [label for group in groups.values() for label in group if label not in last]
    return {label: found[label] for label in [*order, *(lb for lb in last if lb in found)]}


@dataclass(frozen=True, slots=True)
class Size:
    """How many models a space has.

    Attributes:
        models: the number; a lower bound unless ``exact``; ``None`` where a choice is continuous.
        exact: whether counting came to its end.
    """

    models: int | None
    exact: bool

    def __str__(self) -> str:
        if self.models is None:
            return "no end of models (a choice is continuous)"
        shown = f"{self.models:,}" if self.models < 10**15 else f"{self.models:.3e}"
        noun = "model" if self.models == 1 else "models"
        return f"{'' if self.exact else 'at least '}{shown} {noun}"


def size(space: ModelSpace, seconds: float) -> Size:
    """Counts a space's models; where that takes long, visits them for about ``seconds``.

    Only the main thread can be cut short; another counts to the end.
    """
    try:
        with _time_limit(seconds * _COUNTING):
            return Size(space.count(), exact=True)
    except _TimeOver:
        pass
    except SpaceError:
        return Size(None, exact=True)
    end = time.monotonic() + seconds
    number = 0
    for _ in space.enumerate():
        number += 1
        if time.monotonic() > end:
            return Size(number, exact=False)
    return Size(number, exact=True)


class _TimeOver(BaseException):
    """Passes a user's ``except Exception``."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises `_TimeOver` in its body when the time is over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _TimeOver

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
