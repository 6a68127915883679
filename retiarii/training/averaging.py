"""An exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The average of the trained parameters (Polyak and Juditsky 1992).

    As ``torch.optim.swa_utils.AveragedModel`` with ``get_ema_multi_avg_fn(decay)`` and without
    ``use_buffers``: after the first step it is the weights, after each later one ``decay`` times
    itself and ``1 - decay`` times the weights. Buffers (running statistics) are not averaged but
    those of the model.

    Args:
        params: the model's trained parameters.
        decay: how much of the average stays, between 0 and 1.
    """

    def __init__(self, params: Sequence[nn.Parameter], decay: float) -> None:
        self._params = list(params)
        self._decay = decay
        self._values = [p.detach().clone() for p in params]
        self.count = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after an optimizer step."""
        if self.count:
            torch._foreach_lerp_(self._values, list(self._params), 1 - self._decay)
        else:
            torch._foreach_copy_(self._values, list(self._params))
        self.count += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the model's weights are the average."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for index, param in enumerate(self._params):
            held = param.data
            param.data = self._values[index]
            self._values[index] = held

    def tensors(self) -> dict[str, Tensor]:
        """The average as it is checkpointed: by the parameters' indices."""
        return {f"average.{i}": value for i, value in enumerate(self._values)}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], count: int) -> None:
        """Go on from what :meth:`tensors` and ``count`` were.

        Raises:
            KeyError: a parameter's average is missing.
        """
        for index, value in enumerate(self._values):
            value.copy_(tensors[f"average.{index}"])
        self.count = count
