"""What a search found: its trials, the best of them, and their models."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from retiarii.errors import FileError, RetiariiError, StoreError
from retiarii.objectives.names import Objective
from retiarii.objectives.pareto import Values, front, progress
from retiarii.objectives.values import values_of
from retiarii.objectives.wanted import OBJECTIVES
from retiarii.runtime.job import point_of
from retiarii.runtime.rows import TrialRow
from retiarii.runtime.store import Store
from retiarii.search.beginning import CARRIED, carried_of
from retiarii.search.confirmed import Confirmed, leaders, read_confirmed, winner
from retiarii.search.lineage import stages
from retiarii.training.stage import Stage
from retiarii.trial_result import TrialResult

if TYPE_CHECKING:
    from retiarii.search_space import Point, SearchSpace
    from retiarii.space import ModelSpace
    from retiarii.training.evaluator import Evaluator

Steps = Callable[[int], list[tuple[int, dict[str, Any]]]]


# Why a search ended, where that is not that all its trials are done.
_ENDS: Mapping[str, str] = MappingProxyType(
    {
        "exhausted": "the space is used up",
        "epochs": "ended, the epochs are used up",
        "time": "ended, the time is used up",
        "target": "ended, the target is reached",
    }
)


class Result:
    """What a search found, as of when it was made.

    Attributes:
        trials: all trials, by number.
        best: the complete trial with the best score (the first of equals), or ``None``; after
            ``confirm``, the one with the best mean.
        is_confirmed: whether ``best`` is the best by its mean over several seeds.
        identity: what makes it this search and no other: evaluator, space, options, as JSON.
        earlier: the directory of the search that this one continued from, or ``None``.
        objectives: what was searched for, where that was more than the metric.
        pareto: the complete trials that no other is better than in all objectives, the best in the
            first objective first; with one score, the best alone.
        hypervolume: (trial, volume) of each complete trial in order: the volume that the trials up
            to it dominate, as a part of the box between the reference point (the worst value of
            any trial minus a tenth of the range, for each objective) and the best values.
        ended: ``trials`` (all are done), ``exhausted`` (nothing new was left in the space),
            ``epochs``, ``time`` or ``target`` (that much of the budget is spent, that score is
            reached), ``interrupted`` (by Ctrl-C), or ``None`` (still running, or killed).
        space, strategy, metric, maximize: what was searched, by what, for what.
        scheduler: what stopped trials early, or ``None``.
        total: how many trials were asked for.
        skipped: how many proposals were infeasible.
        file: the space file, or ``None``.
        directory: where it is stored.
    """

    def __init__(
        self, store: Store, directory: Path, steps: Steps, space: SearchSpace | None = None
    ) -> None:
        self.directory = directory
        self.space: str = store.meta("space", "")
        self.strategy: str = store.meta("strategy", "")
        self.scheduler: str | None = store.meta("scheduler")
        self.metric: str = store.meta("metric", "")
        self.maximize: bool = store.meta("maximize", True)
        self.objectives = tuple(Objective(*each) for each in store.meta(OBJECTIVES, []))
        self.total: int = store.meta("trials", 0)
        self.skipped: int = store.meta("skipped", 0)
        self.ended: str | None = store.meta("ended")
        file = store.meta("file")
        self.file: Path | None = None if file is None else Path(file)
        self.identity: Mapping[str, Any] = store.meta("identity", {})
        self.confirmed: Mapping[int, Confirmed] = read_confirmed(store)
        self.carried: Sequence[int] = carried_of(store)
        self.stages: Mapping[int, Stage] = stages(store)
        earlier = store.meta(CARRIED, {}).get("from")
        self.earlier: Path | None = None if earlier is None else Path(earlier)
        self._rows = store.rows()
        self._last_steps = store.last_steps()
        self._steps = steps
        self._search_space = space

    @cached_property
    def trials(self) -> tuple[TrialResult, ...]:
        return tuple(
            TrialResult(
                row.id,
                row.state,
                {label: shown for label, _, shown in row.decisions},
                row.score,
                row.metrics,
                row.seconds,
                row.error,
                row.same_as,
                row.seed,
                row.attempt,
                row.trace,
                self,
            )
            for row in self._rows
        )

    @cached_property
    def _winner(self) -> int | None:
        return winner(self.confirmed, leaders(self._rows, self.maximize), self.maximize)

    @property
    def is_confirmed(self) -> bool:
        return self._winner is not None

    @cached_property
    def best(self) -> TrialResult | None:
        if self._winner is not None:
            return self.trials[self._winner]
        sign = 1 if self.maximize else -1
        complete = [t for t in self.trials if t.state == "complete" and t.score is not None]
        return max(complete, key=lambda t: sign * (t.score or 0.0), default=None)

    @cached_property
    def pareto(self) -> tuple[TrialResult, ...]:
        if not self.objectives:
            return () if self.best is None else (self.best,)
        points = {n: v for n, v in self._points.items() if self.trials[n].same_as is None}
        numbers = list(points)
        best = [numbers[at] for at in front(list(points.values()))]
        return tuple(self.trials[n] for n in sorted(best, key=lambda n: (-points[n][0], n)))

    @cached_property
    def hypervolume(self) -> tuple[tuple[int, float], ...]:
        return tuple(zip(self._points, progress(list(self._points.values())), strict=True))

    @cached_property
    def _points(self) -> dict[int, Values]:
        """Complete trial -> its value in each objective, more being better."""
        sign = 1.0 if self.maximize else -1.0
        found: dict[int, Values] = {}
        for trial in self.trials:
            if trial.state != "complete" or trial.score is None:
                continue
            values = values_of(self.objectives, trial.metrics)
            if not self.objectives:
                values = (sign * trial.score,)
            if values is not None:
                found[trial.id] = values
        return found

    @property
    def summary(self) -> str:
        """One line: how many trials ended how, and the best."""
        states = Counter(trial.state for trial in self.trials)
        parts = [f"{count} {state}" for state, count in states.items()]
        reused = sum(trial.same_as is not None for trial in self.trials)
        if reused:
            parts.append(f"{reused} the same as another")
        if self.skipped:
            parts.append(f"{self.skipped} infeasible skipped")
        noun = "trial" if len(self.trials) == 1 else "trials"
        text = f"{len(self.trials)} {noun}" + (f": {', '.join(parts)}" if parts else "")
        why = _ENDS.get(self.ended or "")
        if why is not None:
            text += f"; {why}"
        if self.objectives and self.pareto:
            text += f"; {len(self.pareto)} on the Pareto front"
        return f"{text}; {self.best_text}" if self.best is not None else text

    @property
    def best_text(self) -> str:
        """The best score, how sure it is, and by how much training; empty without one."""
        best = self.best
        if best is None:
            return ""
        if self.is_confirmed and best.confirmed is not None:
            number = f"{best.confirmed} over {best.confirmed.wanted} seeds"
            where = f"trial {best.id}, {best.score:.6g} in the search"
        else:
            number, where = f"{best.score:.6g}", f"trial {best.id}"
        most = max((t.steps or 0 for t in self.trials if t.state == "complete"), default=0)
        if best.steps is not None and best.steps < most:
            where += f", of {best.steps} steps where others had up to {most}"
        return f"best {self.metric} {number} ({where})"

    def to_json(self) -> dict[str, Any]:
        """The object that `retiarii show --json` prints."""
        return {
            "space": self.space,
            "strategy": self.strategy,
            "metric": self.metric,
            "trials": [trial.to_json() for trial in self.trials],
            "best": None if self.best is None else self.best.to_json(),
            **({"confirmed": self.is_confirmed} if self.confirmed else {}),
            **(self.front_to_json() if self.objectives else {}),
        }

    def front_to_json(self) -> dict[str, Any]:
        """The objectives, the trials of the front by number, and the hypervolume over time."""
        own = (Objective(self.metric, self.maximize),)
        return {
            "objectives": {each.name: each.direction for each in self.objectives or own},
            "pareto": [trial.id for trial in self.pareto],
            "hypervolume": [[number, volume] for number, volume in self.hypervolume],
        }

    def __repr__(self) -> str:
        return f"Result({self.summary})"

    # -- for its trials

    def row(self, number: int) -> TrialRow:
        """A trial as stored."""
        return self._rows[number]

    def last_step(self, number: int) -> int | None:
        """The last step that a trial reported."""
        return self._last_steps.get(number)

    def steps(self, number: int) -> list[tuple[int, dict[str, Any]]]:
        """(step, metrics) of a trial, as reported."""
        return self._steps(number)

    def _known_space(self) -> SearchSpace:
        """The space that was given, else the one of the space file, which is run for it.

        Raises:
            RetiariiError: there is neither.
            FileError: the space file is not there, or cannot be loaded.
        """
        if self._search_space is None:
            if self.file is None:
                raise RetiariiError(
                    "this result was opened without its space, which its models follow from",
                    where=str(self.directory),
                    fix="give what was searched: rt.open_result(directory, space, evaluator)",
                )
            if not self.file.exists():
                raise FileError(
                    "the space file is not there any more, and models follow from it",
                    where=str(self.file),
                    fix="give what was searched: rt.open_result(directory, space, evaluator)",
                )
            from retiarii.runtime.source import load_space_file

            loaded = load_space_file(self.file)
            self._search_space = _search_space(loaded.space, loaded.evaluator)
            assert self._search_space is not None
        return self._search_space

    def point(self, number: int) -> Point:
        """The point of the search space that a trial stands for.

        Raises:
            RetiariiError: the result was opened without its space, or with another.
        """
        row = self._rows[number]
        made = point_of(self._known_space(), row.raws)
        point = replace(made, stage=self.stages.get(number))
        if point.key() != row.key:
            raise RetiariiError(
                f"the space has changed: the decisions of trial {number} lead to another model now",
                where=str(self.file or self.directory),
                fix="put the version back that was searched",
            )
        return point


def open_result(
    directory: str | Path,
    space: ModelSpace | SearchSpace | None = None,
    evaluator: Evaluator | None = None,
) -> Result:
    """The result in a directory; a search may be running in it meanwhile.

    Args:
        directory: of the search.
        space: the space that was searched, for `TrialResult.candidate` and `load`. Without it,
            a search that `retiarii run` made runs its space file again when a model is asked for.
        evaluator: the evaluator, whose hyper-parameters were searched too.

    Raises:
        StoreError: no search is stored there, or the store is damaged or not ours.
    """
    path = Path(directory)
    known = _search_space(space, evaluator)
    with closing(Store.read(path)) as store:
        if store.meta("identity") is None:
            raise StoreError(
                "the search in this directory has not begun",
                where=str(path),
                fix="wait a moment, or run it again",
            )
        return Result(store, path.resolve(), _steps_on_disk(path.resolve()), known)


def _search_space(
    space: ModelSpace | SearchSpace | None, evaluator: Evaluator | None
) -> SearchSpace | None:
    from retiarii.search_space import SearchSpace

    if isinstance(space, SearchSpace) or (space is None and evaluator is None):
        return space
    return SearchSpace(space, {} if evaluator is None else evaluator.hyperparameters())


def _steps_on_disk(directory: Path) -> Steps:
    def steps(number: int) -> list[tuple[int, dict[str, Any]]]:
        with closing(Store.read(directory)) as store:
            return store.steps(number)

    return steps


def stored_result(directory: Path, store: Store, space: SearchSpace) -> Result:
    """The result of a search that has just run into a directory."""
    return Result(store, directory, _steps_on_disk(directory), space)


def memory_result(
    directory: Path, store: Store, space: SearchSpace, cleanup: Callable[[], None]
) -> Result:
    """The result of a search without a directory; it owns the store and what ``cleanup`` frees."""
    result = Result(store, directory, store.steps, space)
    weakref.finalize(result, cleanup)
    return result
