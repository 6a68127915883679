"""Which trials belong together, how far they train, and which of them go on.

Trials are proposed in groups: cohorts, or what a scheduler says. Where a scheduler has rungs, the
trials of a group train up to the next one and pause; when all are there, the verdict is written
down, and those that go on are trained further. A search that resumes goes by what was written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from retiarii.errors import SchedulerError
from retiarii.runtime.store import Store
from retiarii.schedulers.base import Known, Scheduler, reach

CUTS = "cuts"


def verdict_key(start: int, rung: int) -> str:
    """Where the store keeps who went on at a rung, of the group that begins with ``start``."""
    return f"rung.{start}.{rung}"


@dataclass(eq=False, slots=True)
class Group:
    """Trials that were proposed together.

    Attributes:
        start: the first of them.
        stop: one past the last.
        known: how many trials had been told when they were proposed.
        rung: where they pause next.
        closed: whether all of them have been proposed.
        trained: those that were trained and not dropped.
        paused: those that are at the rung.
        ended: those that are not trained any further.
        awaited: those that wait for an equal trial of an earlier group.
        view: the curves of the trials told.
    """

    start: int
    stop: int
    known: int
    rung: int | None
    closed: bool = False
    trained: set[int] = field(default_factory=set)
    paused: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    awaited: set[int] = field(default_factory=set)
    view: Known | None = None


class Verdict(NamedTuple):
    """What was decided at a rung: who goes on and who does not, in order; whether just now."""

    rung: int
    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    new: bool


class Rounds:
    """The groups of one search.

    Args:
        scheduler: what decides; it has begun. ``None``: every trial is trained to its end.
        cohort: how many trials are proposed together, without a scheduler.
        window: how many groups may be without a result.
        pauses: whether trials can pause.
        store: where verdicts are kept.
        first: the first trial that is proposed; earlier ones are known from the beginning.
    """

    def __init__(
        self,
        scheduler: Scheduler | None,
        cohort: int,
        window: int,
        pauses: bool,
        store: Store,
        first: int = 0,
    ) -> None:
        self._scheduler = scheduler
        self._window = window
        self._store = store
        self._pauses = pauses and scheduler is not None
        self._span: Callable[[int], range] = _cohorts(cohort)
        if scheduler is not None:
            self._span = scheduler.group
        self._first = first  # schedulers count from there
        # Without a scheduler nothing is decided in a group, so that one may grow later.
        self._cuts: list[int] = store.meta(CUTS, []) if scheduler is not None else []
        self._groups: list[Group] = []
        self._of: dict[int, Group] = {}
        self._undecided: list[Group] = []
        self._curves: dict[int, list[tuple[int, float]]] = {}
        self._not_known: set[int] = set()
        self._known = Known()  # the view of the last group that was looked at,
        self._seen = 0  # and how many trials that takes in

    # -- groups

    def open(self, number: int) -> int:
        """Begins the group of the next trial, if it is the first; how many trials to tell first."""
        if not self._groups or number >= self._groups[-1].stop:
            ends = [c for c in self._cuts if c > number]
            stop = min([self._span(number - self._first).stop + self._first, *ends])
            before = len(self._groups) - self._window + 1
            known = self._groups[before].start if 0 < before < len(self._groups) else self._first
            if before == len(self._groups):
                known = number
            rung = self._rung(number, 0)
            self._groups.append(Group(number, stop, known, rung))
            if rung is not None:
                self._undecided.append(self._groups[-1])
        return self._groups[-1].known

    def full(self, count: int) -> bool:
        """Whether with ``count`` trials the last group is complete; closes it, if so."""
        if count < self._groups[-1].stop:
            return False
        self._groups[-1].closed = True
        return True

    def close(self, count: int) -> None:
        """There are no trials beyond ``count``: the last group is what it is.

        What is decided in it holds, so that later trials make another group.
        """
        if not self._groups or self._groups[-1].closed:
            return
        last = self._groups[-1]
        if count <= last.start:  # nothing was proposed for it
            self._groups.pop()
            if last in self._undecided:
                self._undecided.remove(last)
            return
        if self._scheduler is not None and count < last.stop and count not in self._cuts:
            self._cuts.append(count)
            self._store.set_meta(**{CUTS: self._cuts})
        last.stop = count
        last.closed = True

    # -- trials

    def enter(self, number: int) -> None:
        """A trial of the last group, or of an earlier one, is to be trained."""
        group = self._group(number)
        group.awaited.discard(number)
        group.trained.add(number)

    def wait(self, number: int, leader: int) -> None:
        """A trial is equal to ``leader``, which has not ended."""
        group = self._group(number)
        if leader < group.start:
            group.awaited.add(number)
        else:
            group.awaited.discard(number)

    def limit(self, number: int) -> int | None:
        """The epoch at which a trial pauses."""
        return self._group(number).rung if self._pauses else None

    def pauses(self, number: int) -> bool:
        """Whether a trial that stopped is at a rung, where it waits for what is decided."""
        return self._pauses and self._group(number).rung is not None

    def paused(self, number: int) -> None:
        """A trial is at its rung."""
        self._group(number).paused.add(number)

    def left(self, number: int, *, known: bool) -> None:
        """A trial has ended; whether its curve is one to compare others with."""
        group = self._group(number)
        group.paused.discard(number)
        group.awaited.discard(number)
        group.ended.add(number)
        if not known:
            self._not_known.add(number)

    def forget(self, number: int) -> None:
        """A trial begins afresh."""
        self._curves.pop(number, None)

    # -- decisions

    def note(self, number: int, step: int, score: float | None) -> None:
        """Takes note of what a trial reported; the same step may come again.

        Args:
            score: higher is better; ``None`` if this step has none.
        """
        if self._scheduler is None or score is None:
            return
        curve = self._curves.setdefault(number, [])
        if not curve or curve[-1][0] < step:
            curve.append((step, score))

    def stops(self, number: int, step: int) -> bool:
        """Whether the scheduler ends a trial after this step."""
        curve = self._curves.get(number)
        if self._scheduler is None or not curve:
            return False
        upto = curve if curve[-1][0] <= step else [each for each in curve if each[0] <= step]
        if not upto:
            return False
        view = self._view(self._group(number))
        return self._scheduler.stops(number - self._first, upto, view)

    @property
    def blind(self) -> bool:
        """Whether there is a scheduler, and no trial has reported any score so far."""
        return self._scheduler is not None and not self._curves

    def decide(self) -> Verdict | None:
        """The next verdict that can be given, if any; call it again until there is none."""
        for group in list(self._undecided):
            verdict = self._verdict(group)
            if verdict is not None:
                group.rung = self._rung(group.start, verdict.rung)
                group.trained -= set(verdict.dropped)
                group.paused -= {*verdict.dropped, *verdict.kept}
                if group.rung is None or group.trained <= group.ended:
                    self._undecided.remove(group)
                return verdict
        return None

    def _verdict(self, group: Group) -> Verdict | None:
        assert group.rung is not None
        assert self._scheduler is not None
        if not group.closed or group.awaited:
            return None
        key = verdict_key(group.start, group.rung)
        stored = self._store.meta(key)
        if stored is not None:
            at = sorted(group.paused)
            kept = set(stored)
            return Verdict(
                group.rung,
                tuple(n for n in at if n in kept),
                tuple(n for n in at if n not in kept),
                new=False,
            )
        if group.trained - group.paused - group.ended:
            return None
        if not group.paused:  # none of them can go on
            self._undecided.remove(group)
            return None
        first = self._first
        reached = {n: reach(self._curves.get(n, ()), group.rung) for n in sorted(group.trained)}
        scores = {n - first: score for n, score in reached.items() if score is not None}
        kept = {n + first for n in self._scheduler.keep(group.rung, scores, self._view(group))}
        self._store.set_meta(**{key: sorted(kept)})
        at = sorted(group.paused)
        return Verdict(
            group.rung,
            tuple(n for n in at if n in kept),
            tuple(n for n in at if n not in kept),
            new=True,
        )

    # -- inside

    def _rung(self, number: int, after: int) -> int | None:
        if not self._pauses or self._scheduler is None:
            return None
        return self._scheduler.rung(number - self._first, after)

    def _group(self, number: int) -> Group:
        if number not in self._of:
            found = next(g for g in reversed(self._groups) if g.start <= number)
            self._of[number] = found
        return self._of[number]

    def _view(self, group: Group) -> Known:
        if group.view is None:
            # With one group under way, nobody looks at the view of the group before it any more.
            view = self._known if self._window == 1 else self._known.copy()
            if group.known < self._seen:  # a later group was looked at first
                view, start = Known(), 0
            else:
                self._known, start, self._seen = view, self._seen, group.known
            for number in range(start, group.known):
                if number in self._curves and number not in self._not_known:
                    view.add(number - self._first, self._curves[number])
            group.view = view
        return group.view


def _cohorts(size: int) -> Callable[[int], range]:
    def span(number: int) -> range:
        start = number // size * size
        return range(start, start + size)

    return span


def of_verdict(verdict: Verdict) -> str:
    """One line on what was decided."""
    every = len(verdict.kept) + len(verdict.dropped)
    epochs = "epoch" if verdict.rung == 1 else "epochs"
    return f"after {verdict.rung} {epochs} {len(verdict.kept)} of {every} go on"


def blind(metric: str, steps: Sequence[tuple[int, Mapping[str, Any]]]) -> SchedulerError:
    """The error of a search whose trials report nothing that a scheduler could go by.

    Args:
        metric: the score's name.
        steps: what a whole trial reported.
    """
    names = list(dict.fromkeys(name for _, metrics in steps for name in metrics))
    if names:
        return SchedulerError(
            f"the scheduler goes by {metric!r}, and trials report only {', '.join(names)}",
            where="trial.report(step, ...)",
            fix=f"report it too: trial.report(step, {metric}=...)",
        )
    return SchedulerError(
        "the scheduler has nothing to go by: a whole trial reported no score on its way",
        where="scheduler",
        fix=f"call trial.report(step, {metric}=...) after each epoch and end when "
        "trial.should_stop(), or search without a scheduler in another directory",
    )
