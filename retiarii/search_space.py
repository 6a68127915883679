"""`SearchSpace`: models and hyper-parameters together, as strategies see them; `Point`: one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from retiarii.errors import InfeasibleError, SpaceError
from retiarii.mutators.choice import (
    Categorical,
    Chooser,
    Decision,
    Description,
    Integer,
    Raw,
    Real,
    Recorder,
    show,
)
from retiarii.mutators.given import FrozenRecorder, PartialRecorder
from retiarii.seeding import derive
from retiarii.space import Candidate, ModelSpace
from retiarii.training.stage import Stage

if TYPE_CHECKING:
    from retiarii.objectives.limits import Limits

# How many draws `complete` takes before it gives up.
_DRAWS = 200


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a search: decisions on the model and on hyper-parameters.

    Attributes:
        decisions: in the order asked; the model's first.
        candidate: the model; ``None`` where only hyper-parameters are searched.
        hyperparameters: label -> value.
        stage: which part of the training it is; ``None``: all of it.
    """

    decisions: tuple[Decision, ...]
    candidate: Candidate | None
    hyperparameters: Mapping[str, Any]
    stage: Stage | None = None

    @property
    def raws(self) -> tuple[tuple[str, Raw], ...]:
        """(label, raw answer) of each decision: what the store keeps."""
        return tuple((d.label, d.raw) for d in self.decisions)

    @property
    def values(self) -> dict[str, Any]:
        """label -> value, of model and hyper-parameters."""
        return {d.label: d.value for d in self.decisions}

    def key(self) -> str:
        """Equal for points that train the same thing, from the same weights and as far: canonical
        graph, hyper-parameters and stage."""
        graph = "" if self.candidate is None else self.candidate.graph.canonical_hash()
        chosen = [f"{label}={show(value)}" for label, value in sorted(self.hyperparameters.items())]
        if self.stage is not None:
            chosen.append(repr(tuple(self.stage)))
        return hashlib.blake2b("\n".join([graph, *chosen]).encode(), digest_size=16).hexdigest()


class SearchSpace:
    """A model space together with an evaluator's hyper-parameters: what a strategy searches.

    Args:
        model: the models; ``None`` where there are only hyper-parameters.
        hyperparameters: label -> description.
        limits: what models must keep to besides; those that do not are infeasible.

    Raises:
        SpaceError: nothing at all to search.
    """

    def __init__(
        self,
        model: ModelSpace | None,
        hyperparameters: Mapping[str, Description] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.model = model
        self._limits = limits
        self.hyperparameters = MappingProxyType(dict(hyperparameters or {}))
        if model is None and not self.hyperparameters:
            raise SpaceError(
                "nothing to search: no model space, and no hyper-parameter is a choice",
                fix="give a ModelSpace, or choices such as lr=rt.loguniform(1e-4, 1e-1)",
            )

    def replay(self, chooser: Chooser) -> Point:
        """The point that follows when ``chooser`` answers.

        Raises:
            InfeasibleError: the decisions lead to no model; ``error.decisions`` has them.
        """
        return self._replay(Recorder(chooser))

    def freeze(self, decisions: Mapping[str, Any]) -> Point:
        """The point of these decisions (label -> value); errors as in `ModelSpace.freeze`."""
        recorder = FrozenRecorder(decisions)
        point = self._replay(recorder)
        recorder.check_all_asked()
        return point

    def complete(self, decisions: Mapping[str, Any], seed: int, *, all_asked: bool = True) -> Point:
        """A point with these decisions (label -> value); the rest is drawn, determined by ``seed``.

        Where an undrawn decision says whether another one is asked for at all, draws are repeated
        until all that were given are.

        Args:
            decisions: some of them.
            seed: draws the others.
            all_asked: whether a label that nothing asks for is an error.

        Raises:
            SpaceError: a value is none of the options, or nothing asks for a label.
            InfeasibleError: no draw led to a model.
        """
        for attempt in range(_DRAWS):
            recorder = PartialRecorder(decisions, derive(seed, "complete", attempt))
            try:
                point = self._replay(recorder)
                if all_asked:
                    recorder.check_all_asked()
                return point
            except SpaceError:
                last = attempt == _DRAWS - 1 or recorder.drawn == 0
                if last or recorder.refused:
                    raise
        raise AssertionError("the last draw answers or raises")

    def _replay(self, recorder: Recorder) -> Point:
        candidate = None
        try:
            if self.model is not None:
                candidate, _ = self.model._replay(recorder)
                if self._limits is not None:
                    self._limits.check(candidate)
        except InfeasibleError as error:
            error.decisions = recorder.decisions
            raise
        chosen = {
            label: recorder.ask(label, description)
            for label, description in self.hyperparameters.items()
        }
        return Point(recorder.decisions, candidate, MappingProxyType(chosen))

    def count(self) -> int | None:
        """The number of points; ``None`` where a choice is continuous."""
        total = 1
        for description in self.hyperparameters.values():
            match description.domain:
                case Categorical(n):
                    total *= n
                case Integer(low, high):
                    total *= high - low + 1
                case Real():
                    return None
        try:
            return total if self.model is None else total * self.model.count()
        except SpaceError:
            return None

    def describe(self) -> dict[str, Any]:
        """As `ModelSpace.describe`, with the hyper-parameters."""
        return {
            "model": None if self.model is None else self.model.describe(),
            "hyperparameters": {k: repr(d) for k, d in self.hyperparameters.items()},
        }
