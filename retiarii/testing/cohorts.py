"""Trains models in a cohort and each alone, and compares all that comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from retiarii.training.cohort.part import Part
from retiarii.training.cohort.trainer import CohortTrainer
from retiarii.training.events import Failed, Finished, Noted, Reported, TrialEvent
from retiarii.training.loop import EpochTrainer
from retiarii.training.supervised import Supervised
from retiarii.training.trial import Trial


@dataclass
class Heard:
    """A channel that keeps what it is sent, and asks for an end after some epochs.

    Attributes:
        stop_after: trial number to the epoch after which it is asked to end.
    """

    stop_after: Mapping[int, int] = field(default_factory=dict)
    events: list[TrialEvent] = field(default_factory=list)

    def send(self, event: TrialEvent) -> None:
        self.events.append(event)

    def stop_requested(self, number: int) -> bool:
        steps = [e.step for e in self.of(number) if isinstance(e, Reported)]
        return bool(steps) and max(steps) >= self.stop_after.get(number, 10**9)

    def of(self, number: int) -> list[TrialEvent]:
        """What one trial sent."""
        return [event for event in self.events if event.number == number]

    def history(self, number: int) -> list[dict[str, float]]:
        """What one trial reported, epoch by epoch."""
        found = {e.step: dict(e.metrics) for e in self.of(number) if isinstance(e, Reported)}
        return [found[step] for step in sorted(found)]

    def outcome(self, number: int) -> Finished | Failed:
        """How one trial ended."""
        (found,) = [e for e in self.of(number) if isinstance(e, Finished | Failed)]
        return found

    @property
    def notes(self) -> list[str]:
        """All notes."""
        return [event.text for event in self.events if isinstance(event, Noted)]


def parts_of(evaluator: Supervised, trials: Sequence[Trial]) -> list[Part]:
    """The trials' models as a cohort takes them."""
    found = []
    for trial in trials:
        settings = evaluator.settings(trial)
        module = evaluator.build(trial, settings)
        found.append(Part(trial.candidate.graph, module, settings))
    return found


def distance(ours: Tensor, theirs: Tensor) -> float:
    """The norm of the difference, as a part of the norm."""
    a, b = ours.detach().double().flatten(), theirs.detach().double().flatten()
    return float((a - b).norm() / b.norm().clamp(min=1e-30)) if not torch.equal(a, b) else 0.0


def check_metrics(ours: Mapping[str, float], theirs: Mapping[str, float], within: float) -> None:
    """The metrics of an epoch are the same."""
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert abs(ours[name] - value) <= within * max(abs(value), 1e-30), (name, ours, theirs)


def check_state(cohort: CohortTrainer, index: int, alone: EpochTrainer, within: float) -> None:
    """Weights, buffers, averages, and the states of optimizer and schedule are the same."""
    ours, theirs = cohort.tensors(index), alone.tensors()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert distance(ours[name], tensor) <= within, (index, name)
    meta, expected = cohort.meta(index), alone.meta()
    assert meta.keys() == expected.keys()
    for name in meta.keys() - {"schedule"}:
        assert meta[name] == expected[name], name
    for name, value in expected["schedule"].items():
        both = meta["schedule"][name], value
        assert both[0] == both[1] or abs(both[0] - both[1]) <= within * abs(both[1]), name


def check_cohort(
    evaluator: Supervised, trials: Sequence[Trial], within: float = 1e-9, **options: Any
) -> CohortTrainer:
    """Trains all epochs, and compares after each; all trials have as many.

    ``options`` are the `CohortTrainer`'s.
    """
    cohort = CohortTrainer(parts_of(evaluator, trials), evaluator.task, **options)
    alone = [evaluator.trainer(trial) for trial in trials]
    while not alone[0].done:
        results = cohort.advance()
        for result, trainer in zip(results, alone, strict=True):
            expected = trainer.advance()
            assert isinstance(result, dict), result
            check_metrics(result, expected, within)
    for index, trainer in enumerate(alone):
        check_state(cohort, index, trainer, within)
    return cohort


def candidates_trials(
    candidates: Sequence[Any], channel: Heard | None = None, **hyperparameters: Sequence[Any]
) -> list[Trial]:
    """One trial a candidate, each with its own seed and values of hyper-parameters."""
    return [
        Trial(
            number,
            1000 + number,
            search_seed=5,
            candidate=candidate,
            hyperparameters={k: v[number % len(v)] for k, v in hyperparameters.items()},
            channel=channel,
        )
        for number, candidate in enumerate(candidates)
    ]
