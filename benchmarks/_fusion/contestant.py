"""What takes part in the race: a way to train all models of a cohort."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn


class SkippedError(Exception):
    """It cannot take part; the message says why."""


class _TooLong(BaseException):
    """Not an `Exception`: what compiles must not catch it."""


class Contestant(ABC):
    """One way to train a cohort; building it is done in the constructor.

    Attributes:
        watchable: its steps can be run under a `TorchDispatchMode`.
        own_threads: it runs in threads of its own, and those of this process do not matter.
        setup: seconds that merging or compiling took; 0 where neither is done.
        first: the losses of the first step, where building took one.
        captured: bytes that a CUDA graph holds on to.
    """

    watchable: ClassVar[bool] = True
    own_threads: ClassVar[bool] = False
    setup: float = 0.0
    first: Tensor | None = None
    captured: int = 0

    @abstractmethod
    def step(self) -> Tensor:
        """One optimizer step of all models; their losses before it, ``[K]``."""

    def run(self, steps: int) -> Tensor:
        """Several steps; the losses of the last."""
        for _ in range(steps - 1):
            self.step()
        return self.step()

    @abstractmethod
    def tensors(self) -> Iterable[Tensor]:
        """What it holds between steps: weights, their gradients, and optimizer states."""

    def close(self) -> None:  # noqa: B027 - most have nothing to give back
        """Give back what is not memory."""


def held_by(
    models: Iterable[nn.Module], optimizers: Iterable[torch.optim.Optimizer]
) -> Iterator[Tensor]:
    """Weights, gradients, buffers and states."""
    for model in models:
        yield from model.buffers()
        for parameter in model.parameters():
            yield parameter
            if parameter.grad is not None:
                yield parameter.grad
    for optimizer in optimizers:
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Within it, what takes longer is skipped.

    Raises:
        SkippedError: it took longer.
    """

    def stop(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _TooLong:
        raise SkippedError(f"{what} took more than {seconds:.0f} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
