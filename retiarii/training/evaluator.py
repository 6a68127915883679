"""The interface of everything that scores candidates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from retiarii.mutators.choice import Description
from retiarii.training.trial import Trial


class Evaluator(ABC):
    """Says how candidates are scored.

    Attributes:
        metric: the name of the score among a trial's metrics.
        maximize: whether a higher score is better.
        merges: whether trials given together may be trained as one merged program. Without it
            each trial is run by itself.
        keeps_weights: whether a trial that has a score has its trained weights stored.
        pauses: whether a trial given with a ``limit`` stops there, and goes on from there when it
            is given again with a larger one.
        longest: the most epochs (steps that are reported) of a trial; ``None`` if not known.
    """

    metric: str
    maximize: bool
    merges: ClassVar[bool] = False
    keeps_weights: ClassVar[bool] = False
    pauses: bool = False
    longest: int | None = None

    def hyperparameters(self) -> Mapping[str, Description]:
        """The choices that it asks of every trial: label to what may be chosen."""
        return {}

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What makes scores comparable, as JSON: a search that resumes compares it."""

    def validate(self, space: Any) -> None:
        """Find a user's mistakes before anything is trained.

        Args:
            space: the space that is to be searched, or ``None`` to check the rest.

        Raises:
            EvaluatorError: what was found, where, and what to do.
        """
        del space

    @abstractmethod
    def run(self, cohort: Sequence[Trial]) -> None:
        """Evaluate each trial; each ends by ``finish`` or ``fail``, whatever the others do."""
