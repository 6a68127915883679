"""A tiny space and candidates, and trials whose events are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from retiarii.training.events import Failed, Finished, Reported, TrialEvent
from retiarii.training.trial import Trial


class Interrupted(BaseException):
    """Stands for the end of the process: no ``except Exception`` catches it."""


@dataclass
class Log:
    """A channel that keeps what it is sent; it can ask to stop, and it can break off."""

    stop_at: int | None = None
    break_at: int | None = None
    events: list[TrialEvent] = field(default_factory=list)

    def send(self, event: TrialEvent) -> None:
        if isinstance(event, Reported) and event.step == self.break_at:
            raise Interrupted
        self.events.append(event)

    def stop_requested(self, number: int) -> bool:
        steps = [e.step for e in self.events if isinstance(e, Reported)]
        return self.stop_at is not None and bool(steps) and max(steps) >= self.stop_at

    @property
    def reports(self) -> list[Reported]:
        return [e for e in self.events if isinstance(e, Reported)]

    @property
    def finished(self) -> Finished:
        (event,) = [e for e in self.events if isinstance(e, Finished | Failed)]
        assert isinstance(event, Finished), event
        return event

    @property
    def failed(self) -> Failed:
        (event,) = [e for e in self.events if isinstance(e, Finished | Failed)]
        assert isinstance(event, Failed), event
        return event


@dataclass
class ToyCandidate:
    make: Callable[[], nn.Module]
    decisions: dict[str, Any] = field(default_factory=dict)
    built: int = 0

    def build(self, seed: int) -> nn.Module:
        self.built += 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make()


@dataclass
class ToySpace:
    make: Callable[[], nn.Module]

    def sample(self, seed: int) -> ToyCandidate:
        return ToyCandidate(self.make)


def convnet(dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(16, 3),
    ).to(dtype)


def image_data(n: int = 37, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 4, 4, generator=generator)
    return x, torch.randint(0, 3, (n,), generator=generator)


class Toys:
    """What tests of this folder share."""

    Interrupted = Interrupted
    Log = Log
    Candidate = ToyCandidate
    Space = ToySpace
    convnet = staticmethod(convnet)
    images = staticmethod(image_data)

    def trial(
        self,
        make: Callable[[], nn.Module] | None = convnet,
        *,
        directory: Path | None = None,
        seed: int = 11,
        number: int = 0,
        search_seed: int = 5,
        log: Log | None = None,
        **hyperparameters: Any,
    ) -> tuple[Trial, Log]:
        log = log or Log()
        trial = Trial(
            number,
            seed,
            search_seed=search_seed,
            candidate=None if make is None else ToyCandidate(make),
            hyperparameters=hyperparameters,
            directory=directory,
            channel=log,
        )
        return trial, log


@pytest.fixture(scope="session")
def toys() -> Toys:
    torch.set_num_threads(1)
    return Toys()
