"""Which GPUs of this machine a search uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retiarii.training.evaluator import Evaluator


def gpus_for(evaluator: Evaluator) -> tuple[str, ...]:
    """The names of the GPUs, in order; none where there are none, or the evaluator wants another.

    An evaluator that names one GPU (``cuda:1``) does so for all: its workers are left to it.
    """
    import torch

    if evaluator.pinned or evaluator.trains_on().type != "cuda":
        return ()
    return tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
