"""`SearchSpace`: models and hyper-parameters together, as strategies see them; `Point`: one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from retiarii.errors import InfeasibleError, SpaceError
from retiarii.mutators.choice import (
    Categorical,
    Chooser,
    Decision,
    Description,
    FrozenRecorder,
    Integer,
    Raw,
    Real,
    Recorder,
    show,
)
from retiarii.space import Candidate, ModelSpace


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a search: decisions on the model and on hyper-parameters.

    Attributes:
        decisions: in the order asked; the model's first.
        candidate: the model; ``None`` where only hyper-parameters are searched.
        hyperparameters: label -> value.
    """

    decisions: tuple[Decision, ...]
    candidate: Candidate | None
    hyperparameters: Mapping[str, Any]

    @property
    def raws(self) -> tuple[tuple[str, Raw], ...]:
        """(label, raw answer) of each decision: what the store keeps."""
        return tuple((d.label, d.raw) for d in self.decisions)

    @property
    def values(self) -> dict[str, Any]:
        """label -> value, of model and hyper-parameters."""
        return {d.label: d.value for d in self.decisions}

    def key(self) -> str:
        """Equal for points that train the same thing: canonical graph and hyper-parameters."""
        graph = "" if self.candidate is None else self.candidate.graph.canonical_hash()
        chosen = [f"{label}={show(value)}" for label, value in sorted(self.hyperparameters.items())]
        return hashlib.blake2b("\n".join([graph, *chosen]).encode(), digest_size=16).hexdigest()


class SearchSpace:
    """A model space together with an evaluator's hyper-parameters: what a strategy searches.

    Args:
        model: the models; ``None`` where there are only hyper-parameters.
        hyperparameters: label -> description.

    Raises:
        SpaceError: nothing at all to search.
    """

    def __init__(
        self, model: ModelSpace | None, hyperparameters: Mapping[str, Description] | None = None
    ) -> None:
        self.model = model
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

    def _replay(self, recorder: Recorder) -> Point:
        candidate = None
        try:
            if self.model is not None:
                candidate, _ = self.model._replay(recorder)
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
