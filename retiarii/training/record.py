"""What is kept of one trial while it trains: its history, its checkpoints, its reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from retiarii.errors import TrialError
from retiarii.training.checkpoint import Checkpoint, Checkpoints, save_weights
from retiarii.training.trial import Trial


class InTraining(Protocol):
    """A model that is trained an epoch at a time; see `EpochTrainer`."""

    @property
    def epoch(self) -> int: ...

    @property
    def done(self) -> bool: ...

    @property
    def model(self) -> nn.Module: ...

    def advance(self) -> dict[str, float]: ...

    def averaged(self) -> AbstractContextManager[None]: ...

    def tensors(self) -> Mapping[str, Tensor]: ...

    def meta(self) -> dict[str, Any]: ...


class Record:
    """A trial's way from epoch to epoch, however it is trained: alone or in a cohort.

    Args:
        trial: whose.
        keeper: its checkpoints; ``None`` keeps none.
        metric: the score's name among the metrics.
        maximize: whether a higher one is better.
    """

    def __init__(
        self, trial: Trial, keeper: Checkpoints | None, metric: str, maximize: bool
    ) -> None:
        self.trial = trial
        self.history: list[dict[str, float]] = []
        self._inherited = 0  # epochs that were another trial's, and are not reported as this one's
        self._keeper = keeper
        self._metric = metric
        self._maximize = maximize

    @property
    def kept(self) -> bool:
        """Whether there are checkpoints."""
        return self._keeper is not None

    def ended_before(self) -> bool:
        """Whether the trial was trained to its end already; then it ends with what was noted.

        One that has paused, and may go further now, was not.
        """
        done = None if self._keeper is None else self._keeper.finished()
        if done is None:
            return False
        if done.get("paused") and not self._at_limit(done["history"]):
            return False
        self._take_over(done)
        self._finish(done["stopped"])
        return True

    def resumed(self) -> Checkpoint | None:
        """The newest checkpoint, if any; what was reported until then is reported again.

        A trial that goes on from another one has that one's checkpoint until it has its own.

        Raises:
            TrialError: the other one's is not there.
        """
        saved = None if self._keeper is None else self._keeper.newest()
        if saved is not None:
            self._take_over(saved.meta)
        elif self.trial.parent is not None:
            saved = self._inherit(self.trial.parent)
        return saved

    def add(
        self,
        epoch: int,
        metrics: dict[str, float],
        state: Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any]]],
    ) -> None:
        """Note an epoch: write the checkpoint, then report.

        Args:
            epoch: epochs done.
            metrics: of the last of them.
            state: tensors and the rest of what training goes on from; asked for when needed.

        Raises:
            TrialError: the checkpoint cannot be written.
        """
        self.history.append(metrics)
        if self._keeper is not None:
            tensors, meta = state()
            own = {"history": self.history, "best_epoch": self._best()}
            self._keeper.save(epoch, tensors, {**meta, **own, "inherited": self._inherited})
        # After the checkpoint, so that what was reported is never trained again.
        self.trial.report(epoch, **metrics)

    def wants_to_stop(self) -> bool:
        """Whether the search has asked for an early end or a pause, and there is a score."""
        if self._at_limit(self.history):
            return True
        return bool(self.history) and self.trial.should_stop()

    def end(self, weights: Callable[[], Mapping[str, Any]], stopped: bool) -> None:
        """Store the weights, and end the trial with its last score.

        Args:
            weights: the ``state_dict`` to store; asked for when needed.
            stopped: whether it ends early.

        Raises:
            TrialError: the weights cannot be written, or the score is not finite.
        """
        if self.trial.directory is not None:
            save_weights(self.trial.directory, weights())
            if self._keeper is not None:
                paused = stopped and self._at_limit(self.history)
                noted = {"history": self.history, "stopped": stopped, "paused": paused}
                self._keeper.finish({**noted, "inherited": self._inherited}, keep=paused)
        self._finish(stopped)

    def _at_limit(self, history: list[dict[str, float]]) -> bool:
        return self.trial.limit is not None and len(history) >= self.trial.limit

    def _inherit(self, parent: Path) -> Checkpoint:
        """The newest checkpoint of another trial, whose history becomes the begin of this one's."""
        # Decisions and seeds differ; that the weights fit is seen when they are loaded.
        saved = Checkpoints(parent, identity=None).newest()
        if saved is None:
            raise TrialError(
                "the checkpoint that this trial is to go on from is not there",
                where=str(parent),
                fix="restore the directory from a copy, or start the search in a new one",
            )
        self.history = list(saved.meta["history"])
        self._inherited = len(self.history)
        return saved

    def _take_over(self, noted: Mapping[str, Any]) -> None:
        """Report all of this trial's own epochs that were noted.

        They are equal to what was reported before: the controller may have ended before it had
        stored the last ones.
        """
        self.history = list(noted["history"])
        self._inherited = noted.get("inherited", 0)
        for epoch, metrics in enumerate(self.history, start=1):
            if epoch > self._inherited:
                self.trial.report(epoch, **metrics)

    def _finish(self, stopped: bool) -> None:
        last = self.history[-1]
        self.trial.finish(last[self._metric], last, stopped=stopped)

    def _best(self) -> int:
        scores = [metrics[self._metric] for metrics in self.history]
        return scores.index(max(scores) if self._maximize else min(scores)) + 1
