"""NASWOT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import torch

from retiarii.ir.graph import Graph
from retiarii.ir.types import Ref
from retiarii.proxies.base import Pass, Proxy

# Elementwise activations that are about linear on either side of zero.
_UNITS: Final = frozenset(
    {
        *("ReLU", "ReLU6", "LeakyReLU", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish"),
        *("Hardswish", "PReLU", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu"),
        *("silu", "mish", "hardswish", "prelu"),
    }
)


class NasWot(Proxy):
    """How well the activations' on and off tells the samples of a batch apart.

    A sample's code has a bit for each unit of each ReLU (or GELU, SiLU and the like): whether its
    input is above zero. ``K[i, j]`` is the number of bits in which samples i and j agree; the
    score is ``log |det K|``. It is minus infinity where two samples have the same code.

    Mellor, Turner, Storkey and Crowley, "Neural architecture search without training" (ICML 2021).
    """

    name: ClassVar[str] = "naswot"

    def taps(self, graph: Graph) -> Mapping[str, Sequence[Ref]]:
        return {"units": [r.inputs[0] for r in graph.records() if r.op in _UNITS]}

    def scores(self, run: Pass) -> list[float]:
        with torch.no_grad():
            return [agreement(seen.taps["units"]) for seen in run.forward(run.sample)]


def agreement(taps: Sequence[torch.Tensor]) -> float:
    """``log |det K|`` of the inputs of all activations, [B, ...] each."""
    if not taps:
        return -torch.inf
    bits = torch.cat([(t > 0).flatten(1) for t in taps], 1).double()
    # The determinant is zero then, of which elimination would leave what rounding makes of it.
    if len(torch.unique(bits, dim=0)) < len(bits):
        return -torch.inf
    kernel = bits @ bits.T + (1.0 - bits) @ (1.0 - bits).T
    return float(torch.linalg.slogdet(kernel).logabsdet)
