"""Random streams that leave the caller's as they were."""

from __future__ import annotations

import random
from types import TracebackType
from typing import Any

import numpy as np
import torch


class Stream:
    """A stream of random numbers that the global generators follow while it is entered.

    Entered again it goes on where it was left. It covers torch (CPU, and the device where that is
    a GPU), NumPy and Python, since models, losses and data sets of users draw from any of them.

    Args:
        seed: where the stream begins.
        device: a CUDA device whose generator takes part.
    """

    def __init__(self, seed: int, device: torch.device | None = None) -> None:
        self._seed = seed
        self._cuda = device if device is not None and device.type == "cuda" else None
        self._inner: tuple[Any, ...] | None = None
        self._outer: tuple[Any, ...] = ()

    def __enter__(self) -> Stream:
        self._outer = self._states()
        if self._inner is None:
            self._begin()
        else:
            self._restore(self._inner)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._inner = self._states()
        self._restore(self._outer)

    def _begin(self) -> None:
        # Not torch.manual_seed: it would reseed every GPU of the process.
        torch.default_generator.manual_seed(self._seed)
        if self._cuda is not None:
            with torch.cuda.device(self._cuda):
                torch.cuda.manual_seed(self._seed)
        random.seed(self._seed)
        np.random.seed(self._seed % 2**32)

    def _states(self) -> tuple[Any, ...]:
        cuda = None if self._cuda is None else torch.cuda.get_rng_state(self._cuda)
        return torch.get_rng_state(), cuda, random.getstate(), np.random.get_state()

    def _restore(self, states: tuple[Any, ...]) -> None:
        cpu, cuda, python, numpy = states
        torch.set_rng_state(cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(cuda, self._cuda)
        random.setstate(python)
        np.random.set_state(numpy)
