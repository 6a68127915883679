"""The covariance of Jacobians."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from retiarii.errors import ObjectiveError
from retiarii.proxies.base import Pass, Proxy, Sample, total

_SMALL = 1e-5
_SHIFT = "shift"


class _Shifted(nn.Module):
    """A model whose input is moved by a parameter: its gradient is the model's Jacobian.

    All models of a merged program read the same input, so that the gradient of the input itself
    would be the sum over them.
    """

    def __init__(self, model: nn.Module, like: Tensor) -> None:
        super().__init__()
        self.model = model
        self.shift = nn.Parameter(torch.zeros_like(like))

    def forward(self, x: Tensor) -> Any:
        return self.model(x + self.shift)


class JacobCov(Proxy):
    """How differently the outputs depend on the inputs of different samples.

    J has a row for each sample: the gradient of the sum of its outputs with respect to its input.
    With the eigenvalues v of the rows' correlation matrix, the score is
    ``-sum(log(v + k) + 1 / (v + k))``, k = 1e-5.

    Mellor et al., "Neural architecture search without training" (2020, arXiv:2006.04647v1), as in
    Abdelfattah et al. (ICLR 2021).
    """

    name: ClassVar[str] = "jacob_cov"

    def prepare(self, model: nn.Module, sample: Sample, seed: int) -> nn.Module:
        del seed
        if len(sample.args) != 1 or sample.named or not isinstance(sample.args[0], Tensor):
            raise ObjectiveError(
                "jacob_cov needs models of one input tensor", fix="use another proxy: synflow"
            )
        if not sample.args[0].is_floating_point():
            raise ObjectiveError(
                "jacob_cov needs inputs that are no whole numbers", fix="use another proxy: snip"
            )
        return _Shifted(model, sample.args[0])

    def scores(self, run: Pass) -> list[float]:
        sums = [total(each.outputs) for each in run.forward(run.sample)]
        found = run.gradients(torch.stack(sums).sum())
        return [spread(own[_SHIFT].gradient.flatten(1)) for own in found]


def spread(jacobian: Tensor) -> float:
    """The score of a Jacobian, [samples, inputs]."""
    correlation = torch.corrcoef(jacobian)
    if not bool(torch.isfinite(correlation).all()):
        return -torch.inf  # the outputs do not depend on the input
    values = torch.linalg.eigvalsh(correlation)
    return -float(((values + _SMALL).log() + 1.0 / (values + _SMALL)).sum())
