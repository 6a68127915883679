"""The interface of everything that scores candidates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from retiarii.mutators.choice import Description
from retiarii.training.trial import Trial

if TYPE_CHECKING:
    import torch


class Examples(NamedTuple):
    """A batch of labelled data.

    Attributes:
        inputs: a tensor, or tensors in a tuple, list or dict; the first dimension is the batch.
        targets: likewise.
        loss: for a device and a type of numbers, the loss of outputs and targets.
    """

    inputs: Any
    targets: Any
    loss: Callable[[torch.device, torch.dtype], Callable[[Any, Any], torch.Tensor]]


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
        changes: the hyper-parameters that may differ where a trial goes on from the checkpoint in
            another one's directory, ``trial.parent``; ``None``: trials cannot do that.
        labelled: whether `examples` has a batch.
        pinned: whether it names one GPU by its index, so that workers do not share out GPUs.
        reported: the names of all metrics of a trial; ``None`` if not known.
    """

    metric: str
    maximize: bool
    merges: ClassVar[bool] = False
    keeps_weights: ClassVar[bool] = False
    pauses: bool = False
    longest: int | None = None
    changes: frozenset[str] | None = None
    labelled: ClassVar[bool] = False
    pinned: bool = False
    reported: frozenset[str] | None = None

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

    def trains_on(self) -> torch.device:
        """The device that models are evaluated on: a CUDA device where there is one."""
        import torch

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def examples(self, size: int, seed: int) -> Examples | None:
        """The first ``size`` samples of training, in order by ``seed``; ``None`` without data."""
        del size, seed
        return None

    def kept(self) -> Sequence[torch.Tensor]:
        """Data that it keeps in memory and only reads: a machine needs one copy of it."""
        return ()

    @abstractmethod
    def run(self, cohort: Sequence[Trial]) -> None:
        """Evaluate each trial; each ends by ``finish`` or ``fail``, whatever the others do."""
