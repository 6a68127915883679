"""Calls that no rule fuses: one model's layer, or one model's function, as torch runs it."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call


class ModelStream:
    """One model's random numbers, as the model alone would draw them from the global generators.

    Attributes:
        generator: what fused random operations draw from.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self.generator = torch.Generator(device)
        self._cpu = self.generator if device.type == "cpu" else torch.Generator()
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Begins anew, in place: a CUDA graph goes on to draw from the very generator."""
        self.generator.manual_seed(seed)
        self._cpu.manual_seed(seed)
        self._python = random.Random(seed).getstate()
        self._numpy = np.random.RandomState(seed % 2**32).get_state()

    def copy(self) -> ModelStream:
        """A stream that goes on as this one would."""
        made = copy.copy(self)
        made.generator = self.generator.clone_state()
        made._cpu = made.generator if self._cpu is self.generator else self._cpu.clone_state()
        return made

    def run(self, call: Callable[[], Any]) -> Any:
        """Runs ``call`` with the global generators in this stream's state, and puts them back."""
        outer = torch.get_rng_state(), random.getstate(), np.random.get_state()
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        torch.set_rng_state(self._cpu.get_state())
        if cuda is not None:
            torch.cuda.set_rng_state(self.generator.get_state(), self.device)
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        try:
            return call()
        finally:
            self._cpu.set_state(torch.get_rng_state())
            if cuda is not None:
                self.generator.set_state(torch.cuda.get_rng_state(self.device))
                torch.cuda.set_rng_state(cuda, self.device)
            self._python, self._numpy = random.getstate(), np.random.get_state()
            torch.set_rng_state(outer[0])
            random.setstate(outer[1])
            np.random.set_state(outer[2])


def call_module(
    module: nn.Module,
    names: Sequence[str],
    tensors: Sequence[Tensor],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """Calls a layer with the given parameters and buffers in the place of its own."""
    return functional_call(
        module, dict(zip(names, tensors, strict=True)), tuple(args), dict(kwargs)
    )


def results(value: Any, take: Callable[[Any], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The tensors of what a call returned, one after the other."""
    return take(value)
