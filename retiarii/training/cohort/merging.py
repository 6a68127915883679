"""A cohort's models made one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch

from retiarii.optimizer.collecting import without_collection
from retiarii.optimizer.compile import Options
from retiarii.optimizer.lift import Model
from retiarii.optimizer.merge import check_mergeable
from retiarii.optimizer.merged import MergedModel
from retiarii.optimizer.stats import Stats
from retiarii.training.cohort.part import Part
from retiarii.training.cohort.state import load_module
from retiarii.training.loop import Task

# A call takes at least so many seconds, forward and backward; this share of a training may be
# spent on measuring what is best fused.
_CALL: Final = 60e-6
_MEASURED: Final = 0.1


def merge_parts(parts: Sequence[Part], task: Task) -> MergedModel:
    """The models as one, on their device, with the weights that their training goes on from.

    Raises:
        MergeError: models that cannot be merged.
        TrialError: a state that does not fit its model.
    """
    settings = parts[0].settings
    models = []
    for part in parts:
        if part.state is not None:
            load_module(part.module, part.state)
        # What pays is measured on the device that the models are on.
        models.append(Model.of(part.graph, part.module.to(settings.device)))
    check_mergeable(models)
    options = Options(batch=settings.batch_size, seconds=_measuring(parts, task))
    with without_collection():
        return MergedModel(models, [part.module for part in parts], options)


def steps_left(part: Part, task: Task) -> int:
    """Batches that a model still trains on."""
    batches = math.ceil(task.train.sampling.length / part.settings.batch_size)
    return batches * (part.settings.epochs - (0 if part.state is None else part.state.epoch))


def pays(stats: Stats, task: Task, device: torch.device) -> bool:
    """Whether to train models as one at all.

    Where nothing is fused, because it was measured not to pay, or shared, a merged program saves
    no time on a CPU: small models lose a tenth by it. A GPU gains from fewer launches all the same,
    and data that are not in memory from being read once for all.
    """
    gains = stats.choice.fuse or stats.shared or not task.train.in_memory
    return bool(gains or device.type != "cpu")


def _measuring(parts: Sequence[Part], task: Task) -> float:
    """Seconds that finding out what pays may take: little, beside the training itself."""
    return _MEASURED * _CALL * sum(len(part.graph) * steps_left(part, task) for part in parts)
