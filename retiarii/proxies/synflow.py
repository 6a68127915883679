"""Synaptic flow."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from retiarii.proxies.base import Pass, Proxy, Sample, is_weight, total

# A batch of one sample is hard to tell from a size of one; all rows are the same.
_ROWS = 2


class SynFlow(Proxy):
    """How much flows through all weights when they are positive: needs no data.

    With the absolute values of all parameters and an input of ones, R is the sum of the outputs;
    the score is the sum over weights of ``w * dR/dw``. BatchNorm runs on its initial statistics.

    Tanaka, Kunin, Yamins and Ganguli, "Pruning neural networks without any data by iteratively
    conserving synaptic flow" (NeurIPS 2020); as a proxy: Abdelfattah et al. (ICLR 2021).
    """

    name: ClassVar[str] = "synflow"
    training: ClassVar[bool] = False

    def prepare(self, model: nn.Module, sample: Sample, seed: int) -> nn.Module:
        del sample, seed
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.is_floating_point():
                    tensor.abs_()
        return model

    def batch(self, sample: Sample, seed: int) -> Sample:
        del seed

        def ones(tensor: torch.Tensor) -> torch.Tensor:
            shape = (_ROWS, *tensor.shape[1:])
            fill = torch.ones if tensor.is_floating_point() else torch.zeros
            return fill(shape, dtype=tensor.dtype, device=tensor.device)

        return sample.mapped(ones)

    def scores(self, run: Pass) -> list[float]:
        flow = torch.stack([total(each.outputs) for each in run.forward(run.sample)]).sum()
        return [
            sum(float((w.value * w.gradient).sum()) for w in own.values() if is_weight(w.value))
            for own in run.gradients(flow / _ROWS)
        ]
