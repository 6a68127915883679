"""What a search found: its trials, the best of them, and their models."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from retiarii.errors import FileError, RetiariiError, StoreError
from retiarii.runtime.job import point_of
from retiarii.runtime.schema import State
from retiarii.runtime.shown import plain
from retiarii.runtime.store import Store, TrialRow
from retiarii.search_state import trial_directory

if TYPE_CHECKING:
    from torch import nn

    from retiarii.search_space import Point, SearchSpace
    from retiarii.space import Candidate, ModelSpace
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


class _Home(Protocol):
    """What a trial needs of the result that it belongs to."""

    @property
    def directory(self) -> Path: ...

    def point(self, number: int) -> Point: ...

    def row(self, number: int) -> TrialRow: ...

    def last_step(self, number: int) -> int | None: ...

    def steps(self, number: int) -> list[tuple[int, dict[str, Any]]]: ...


@dataclass(frozen=True)
class TrialResult:
    """One trial of a search.

    Attributes:
        id: its number, from 0 on.
        state: ``waiting``, ``running``, ``complete``, ``pruned`` or ``failed``.
        decisions: label -> the value chosen, hyper-parameters included; values that JSON does
            not have are shown as text.
        score: the metric, in its own direction; ``None`` without one.
        metrics: name -> number, at the end.
        seconds: how long it was evaluated.
        error: why it failed, or why an earlier attempt did.
        same_as: the trial that is the same model, whose score this is; else ``None``.
        seed: its own seed.
        attempt: how often it began afresh after a failure.
        traceback: where it failed, in full; ``None`` if it did not, or in no Python code.
    """

    id: int
    state: State
    decisions: Mapping[str, Any]
    score: float | None
    metrics: Mapping[str, Any]
    seconds: float
    error: str | None
    same_as: int | None
    seed: int
    attempt: int
    traceback: str | None = field(repr=False)
    _home: _Home = field(repr=False, compare=False)

    @property
    def history(self) -> list[dict[str, Any]]:
        """Metrics after each step (an epoch), each with its ``step``, in order."""
        number = self.id if self.same_as is None else self.same_as
        return [{"step": step, **metrics} for step, metrics in self._home.steps(number)]

    @property
    def stopped_at(self) -> int | None:
        """The last step of a trial that was pruned, whose score is that of less training."""
        if self.state != "pruned":
            return None
        return self._home.last_step(self.id if self.same_as is None else self.same_as)

    @property
    def candidate(self) -> Candidate | None:
        """The model chosen, as a graph; ``None`` where only hyper-parameters were searched.

        Raises:
            RetiariiError: the result was opened without its space.
        """
        return self._home.point(self.id).candidate

    @property
    def directory(self) -> Path:
        """Where its checkpoints and weights are; it exists only if the evaluator wrote some."""
        row = self._home.row(self.id if self.same_as is None else self.same_as)
        return trial_directory(self._home.directory, row.id, row.attempt)

    def load(self) -> nn.Module:
        """The model with its trained weights, on the CPU.

        Raises:
            RetiariiError: no weights are stored, no model was searched, or the result was opened
                without its space.
        """
        from retiarii.training.checkpoint import load_weights

        number = self.id if self.same_as is None else self.same_as
        candidate = self._home.point(number).candidate
        if candidate is None:
            raise RetiariiError(
                "this search has no models, only hyper-parameters",
                where=f"trial {self.id}",
                fix="use .decisions",
            )
        try:
            weights = load_weights(self.directory)
        except FileNotFoundError:
            raise RetiariiError(
                f"no weights are stored for trial {self.id}",
                where=str(self.directory),
                fix="it is not finished, or its evaluator keeps none (rt.Supervised does, "
                "rt.Function does not); trial.candidate.build(seed) makes the untrained model",
            ) from None
        model = candidate.build(self._home.row(number).seed)
        model.load_state_dict(weights)
        return model

    def to_json(self) -> dict[str, Any]:
        """As `retiarii show --json` prints it; numbers that are not finite become text."""
        shown: dict[str, Any] = {
            "id": self.id,
            "state": self.state,
            "decisions": plain(self.decisions),
            "score": self.score,
            "metrics": plain(self.metrics),
            "seconds": round(self.seconds, 6),
            "error": self.error,
        }
        if self.same_as is not None:
            shown["same_as"] = self.same_as
        if self.stopped_at is not None:
            shown["stopped_at"] = self.stopped_at
        return shown


class Result:
    """What a search found, as of when it was made.

    Attributes:
        trials: all trials, by number.
        best: the complete trial with the best score (the first of equals), or ``None``.
        pareto: the trials that no other is better than: with one score, the best alone.
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
        self.total: int = store.meta("trials", 0)
        self.skipped: int = store.meta("skipped", 0)
        self.ended: str | None = store.meta("ended")
        file = store.meta("file")
        self.file: Path | None = None if file is None else Path(file)
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
    def best(self) -> TrialResult | None:
        sign = 1 if self.maximize else -1
        complete = [t for t in self.trials if t.state == "complete" and t.score is not None]
        return max(complete, key=lambda t: sign * (t.score or 0.0), default=None)

    @property
    def pareto(self) -> tuple[TrialResult, ...]:
        return () if self.best is None else (self.best,)

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
        if self.best is not None:
            text += f"; best {self.metric} {self.best.score:.6g} (trial {self.best.id})"
        return text

    def to_json(self) -> dict[str, Any]:
        """The object that `retiarii show --json` prints."""
        return {
            "space": self.space,
            "strategy": self.strategy,
            "metric": self.metric,
            "trials": [trial.to_json() for trial in self.trials],
            "best": None if self.best is None else self.best.to_json(),
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
        point = point_of(self._known_space(), row.raws)
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
