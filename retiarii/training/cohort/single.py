"""One model trained as a cohort of its own: it can begin where its frozen part ends."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from retiarii.training.cohort.failure import reraise_memory
from retiarii.training.cohort.part import Attach, Part
from retiarii.training.cohort.trainer import CohortTrainer
from retiarii.training.loop import Task


class SingleTrainer:
    """One model in training; does what `EpochTrainer` does.

    Args:
        cohort: of one model.
    """

    def __init__(self, cohort: CohortTrainer) -> None:
        self._cohort = cohort

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self._cohort.epoch

    @property
    def done(self) -> bool:
        """Whether that is all of them."""
        return self.epoch >= self._cohort.parts[0].settings.epochs

    @property
    def model(self) -> nn.Module:
        """The model with its present weights; a copy."""
        made: nn.Module = self._cohort.merged.module_of(0)
        return made

    def advance(self) -> dict[str, float]:
        """As :meth:`EpochTrainer.advance`.

        Raises:
            TrialError: the loss or the metric is not finite.
            EvaluatorError: labels or shapes that do not fit.
        """
        (found,) = self._cohort.advance()
        if isinstance(found, Exception):
            raise found
        return found

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the weights are those to score and to store."""
        return self._cohort.stepping.averaged()

    def tensors(self) -> Mapping[str, Tensor]:
        """As :meth:`EpochTrainer.tensors`."""
        return self._cohort.tensors(0)

    def meta(self) -> dict[str, Any]:
        """As :meth:`EpochTrainer.meta`."""
        return self._cohort.meta(0)


def single_trainer(part: Part, task: Task, attach: Attach) -> SingleTrainer | None:
    """The trainer of one model, where something is kept of its frozen part; else ``None``."""
    try:
        cohort = CohortTrainer([part], task, attach)
    except Exception as error:
        # What is wrong with the model itself, training it as it is will find out, and say.
        reraise_memory(error)
        return None
    return SingleTrainer(cohort) if cohort.rest else None
