"""One trial of a search, as its result shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from retiarii.errors import RetiariiError
from retiarii.runtime.rows import TrialRow
from retiarii.runtime.schema import State
from retiarii.runtime.shown import plain
from retiarii.search.confirmed import Confirmed
from retiarii.search.state import trial_directory
from retiarii.training.stage import Stage

if TYPE_CHECKING:
    from torch import nn

    from retiarii.search_space import Point
    from retiarii.space import Candidate


class _Home(Protocol):
    """What a trial needs of the result that it belongs to."""

    @property
    def directory(self) -> Path: ...

    def point(self, number: int) -> Point: ...

    def row(self, number: int) -> TrialRow: ...

    def last_step(self, number: int) -> int | None: ...

    def steps(self, number: int) -> list[tuple[int, dict[str, Any]]]: ...

    @property
    def confirmed(self) -> Mapping[int, Confirmed]: ...

    @property
    def carried(self) -> Sequence[int]: ...

    @property
    def stages(self) -> Mapping[int, Stage]: ...


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
    def steps(self) -> int | None:
        """How long it was trained: the last step that it reported, if it reported any."""
        return self._home.last_step(self.id if self.same_as is None else self.same_as)

    @property
    def confirmed(self) -> Confirmed | None:
        """What training it again from other seeds has shown; ``None`` if nobody asked."""
        return self._home.confirmed.get(self.id)

    @property
    def carried_from(self) -> int | None:
        """The trial of the earlier search that this is (``continue_from``), or ``None``."""
        carried = self._home.carried
        return carried[self.id] if self.id < len(carried) else None

    @property
    def parent(self) -> int | None:
        """The trial whose weights it went on from (``pbt``), or ``None``."""
        stage = self._home.stages.get(self.id)
        return None if stage is None else stage.parent

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
        if self.carried_from is not None:
            shown["carried_from"] = self.carried_from
        if self.parent is not None:
            shown["parent"] = self.parent
        if self.confirmed is not None:
            shown["confirmed"] = self.confirmed.to_json()
        return shown
