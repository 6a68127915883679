"""Spaces whose scores are known: what a strategy is played on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from retiarii.mutators.choice import Chooser, Decision, Raw
from retiarii.space import Candidate


@dataclass(frozen=True, slots=True)
class KnownPoint:
    """A point whose key was worked out before, as `retiarii.search_space.Point` else."""

    decisions: tuple[Decision, ...]
    candidate: Candidate | None
    known_key: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def raws(self) -> tuple[tuple[str, Raw], ...]:
        return tuple((d.label, d.raw) for d in self.decisions)

    def key(self) -> str:
        return self.known_key


class Played(Protocol):
    """A space to search, and what is known about it."""

    best: float

    def replay(self, chooser: Chooser) -> KnownPoint: ...

    def score(self, point: KnownPoint) -> float: ...


class Game(Protocol):
    """Makes the space of each seed.

    Attributes:
        name: as tables call it.
        unit: what regret is measured in.
        excellent: the regret that counts as a success.
    """

    name: str
    unit: str
    excellent: float

    def space(self, seed: int) -> Played: ...
