"""Which errors are the memory's, and how a trial fails with an error that was caught before."""

from __future__ import annotations

import traceback
from typing import Final

import torch

from retiarii.training.trial import Trial, describe_error

_FULL: Final = ("out of memory", "can't allocate memory", "not enough memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory, of a device or of this machine, did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _FULL)


def reraise_memory(error: Exception) -> None:
    """Raises the error again where it is the memory's: no model by itself is at fault."""
    if out_of_memory(error):
        raise error


def fail(trial: Trial, error: Exception) -> None:
    """End a trial with an error, as if it had been raised in it."""
    text = "".join(traceback.format_exception(error))
    trial.fail(describe_error(error), text)
