"""Which steps can be recorded: those of which all that changes lies on the device."""

from __future__ import annotations

from collections.abc import Sequence

from retiarii.optimizer.program import Program
from retiarii.training.cohort.criterion import Criterion
from retiarii.training.loop import Settings


def unrecordable(
    program: Program, criterion: Criterion, settings: Sequence[Settings]
) -> str | None:
    """Why a cohort's steps cannot be recorded, as far as is known before one was made.

    Args:
        program: of the training mode.
        criterion: the losses.
        settings: of all models.
    """
    if any(own.accumulate > 1 for own in settings):
        return "gradients are gathered over several batches"
    if not criterion.ours:
        return "the loss is no module of torch.nn: it is called once a model"
    items = program.plan.forest.items
    opaque = next((item for item in items if item.template is not None), None)
    if opaque is not None:
        return f"{opaque.name} is called as it is"
    if ".run(lambda" in program.source:
        return "a call that no rule fuses draws from the host's random numbers"
    return None
