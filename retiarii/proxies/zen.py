"""Zen-score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from retiarii.ir.graph import Graph
from retiarii.ir.types import Ref
from retiarii.proxies.base import Pass, Proxy, Sample, Seen, is_weight
from retiarii.seeding import derive
from retiarii.training.structure import tensors

_ALPHA = 1e-2
_NORMS: Final = frozenset({"BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "batch_norm"})
_POOLS: Final = frozenset(
    {
        *("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d"),
        *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "mean"),
    }
)


class Zen(Proxy):
    """How much the features change when the input does: needs no data.

    Weights and inputs are drawn from N(0, 1). With f the features ahead of the last global pooling
    (the outputs, where there is none), x the input and e such noise, the score is
    ``log E |f(x + 0.01 e) - f(x)| + sum over BatchNorms of log sqrt(mean over channels of s^2)``,
    where s^2 is the variance that the layer divides by, in the pass of x.

    Lin, Wang, Sun, Chen, Sun, Qian, Li and Jin, "Zen-NAS: a zero-shot NAS for high-performance
    image recognition" (ICCV 2021).
    """

    name: ClassVar[str] = "zen"

    def prepare(self, model: nn.Module, sample: Sample, seed: int) -> nn.Module:
        del sample
        with torch.no_grad():
            for name, value in model.named_parameters():
                if is_weight(value):
                    value.copy_(_drawer(seed, name)(value))
        return model

    def batch(self, sample: Sample, seed: int) -> Sample:
        return sample.mapped(_drawer(seed, "input"))

    def taps(self, graph: Graph) -> Mapping[str, Sequence[Ref]]:
        records = list(graph.records())
        pools = [r.inputs[0] for r in records if r.op in _POOLS]
        norms = [r.inputs[0] for r in records if r.op in _NORMS]
        return {"features": pools[-1:], "norms": norms}

    def scores(self, run: Pass) -> list[float]:
        noise = _drawer(run.seed, "noise")
        moved = run.sample.mapped(lambda t: t + _ALPHA * noise(t) if t.is_floating_point() else t)
        with torch.no_grad():
            before, after = run.forward(run.sample), run.forward(moved)
        return [
            sensitivity(_features(one), _features(other), one.taps["norms"])
            for one, other in zip(before, after, strict=True)
        ]


def sensitivity(before: Tensor, after: Tensor, norms: Sequence[Tensor]) -> float:
    """The score of features [B, ...] and what each BatchNorm is given, [B, C, ...]."""
    change = (after - before).flatten(1).norm(dim=1).mean().log()
    for given in norms:
        others = [d for d in range(given.ndim) if d != 1]
        change = change + given.var(others, correction=0).mean().sqrt().log()
    return float(change)


def _features(seen: Seen) -> Tensor:
    found = seen.taps["features"] or [t for t in tensors(seen.outputs) if t.is_floating_point()]
    return found[0]


def _drawer(seed: int, name: str) -> Callable[[Tensor], Tensor]:
    """A function that makes noise of a tensor's shape; whole numbers stay as they are."""
    generator = _generator(seed, name)

    def drawn(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        # On the CPU, so that a seed is the same draw on every device.
        return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)

    return drawn


def _generator(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive(seed, "zen", name) % 2**63)
