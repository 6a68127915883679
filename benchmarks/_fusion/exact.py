"""Whether merging changes results: the weights of some steps in float64, merged and alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from _fusion.ours import CohortLoop, Merged
from _fusion.serial import trained
from _fusion.workloads import MOMENTUM, Cohort

OURS: Mapping[str, type[Merged] | type[CohortLoop]] = MappingProxyType(
    {"rt.merge": Merged, "cohort": CohortLoop}
)


# A bias that a normalisation takes away again has a gradient of rounding errors alone: what is
# smaller than this, of weights around 0.1, is measured as if it were as large.
SMALL = 1e-3


def differences(cohort: Cohort, steps: int) -> dict[str, float]:
    """For each of ours, the largest difference of any tensor's, relative to its largest value."""
    alone = _alone(cohort, steps)
    found = {}
    for name, kind in OURS.items():
        ours = kind(cohort, dtype=torch.float64)
        for _ in range(steps):
            ours.step()
        states = [ours.merged.state_dict_of(i) for i in range(len(alone))]
        found[name] = max(
            _difference(states[i][key], value)
            for i, state in enumerate(alone)
            for key, value in state.items()
        )
    return found


def _difference(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float((a - b).abs().max() / b.abs().max().clamp_min(SMALL))


def _alone(cohort: Cohort, steps: int) -> list[dict[str, Tensor]]:
    """Each model trained by itself, its random numbers from its own seed."""
    x = cohort.x.double()
    found = []
    for make, seed, rate in zip(cohort.makers, cohort.seeds, cohort.rates, strict=True):
        model = make().to(cohort.device, torch.float64)
        optimizer = torch.optim.SGD(trained(model), lr=rate, momentum=MOMENTUM)
        torch.manual_seed(seed)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(x), cohort.y).backward()
            optimizer.step()
        found.append(dict(model.state_dict()))
    return found
