"""Averages of many models against torch's AveragedModel for each."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from retiarii.training.averaging import Average
from retiarii.training.cohort.averaging import FlatAverages

DECAYS = [0.5, None, 0.9]


def averaged(pair, model, decay):
    module = nn.ParameterList(pair.alone[model])
    return AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay))


def change(pair, seed, models=range(3)):
    """New weights, stacked and alone."""
    pair.grads(seed)
    for model in models:
        for p, merged in zip(pair.alone[model], pair.weights(model), strict=True):
            p.data.add_(p.grad)
            merged.copy_(p.data)


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("decays", [DECAYS, [0.8] * 3])
def test_they_equal_torchs(cohorts, captured, decays):
    pair = cohorts.pair()
    theirs = {m: averaged(pair, m, d) for m, d in enumerate(decays) if d is not None}
    ours = FlatAverages(pair.flat, decays, captured)
    for step in range(12):
        skip = torch.tensor([step in (0, 4, 5), step == 3, False])
        moved = [m for m in range(3) if not skip[m]]
        change(pair, step, moved)
        ours.update(skip if skip.any() else None)
        for model in moved:
            if model in theirs:
                theirs[model].update_parameters(nn.ParameterList(pair.alone[model]))
    before = [[w.clone() for w in pair.weights(m)] for m in range(3)]
    with ours.applied():
        for model in range(3):
            expected = theirs[model].module if model in theirs else pair.alone[model]
            for ours_, own in zip(pair.weights(model), expected, strict=True):
                torch.testing.assert_close(ours_, own.detach(), rtol=1e-14, atol=1e-14)
        changed = [
            not torch.equal(a, b)
            for m in range(3)
            for a, b in zip(before[m], pair.weights(m), strict=True)
        ]
        assert any(changed)
    for model in range(3):
        assert all(
            torch.equal(a, b) for a, b in zip(before[model], pair.weights(model), strict=True)
        )


def test_a_skipped_average_changes_no_bit_though_its_weights_are_nan(cohorts):
    pair = cohorts.pair()
    ours = FlatAverages(pair.flat, [0.5] * 3)
    for step in range(2):
        change(pair, step)
        ours.update()
    kept, _ = ours.state_of(1)
    for weight in pair.weights(1):
        weight.fill_(float("nan"))
    ours.update(torch.tensor([False, True, False]))
    assert all(torch.equal(a, b) for a, b in zip(kept, ours.state_of(1)[0], strict=True))
    assert all(v.isfinite().all() for v in ours.state_of(0)[0] + ours.state_of(2)[0])
    assert [ours.state_of(m)[1] for m in range(3)] == [3, 2, 3]


def test_alone_and_in_a_cohort_and_back(cohorts):
    pair = cohorts.pair(shuffled=True)
    alone = [Average(pair.alone[m], 0.7) for m in range(3)]
    for step in range(3):
        change(pair, step)
        for average in alone[1:]:
            average.update()
    merged = FlatAverages(pair.flat, [0.7] * 3)
    for model, average in enumerate(alone):
        merged.load_state_of(model, list(average.tensors().values()), average.count)
    for step in range(3, 6):
        change(pair, step)
        merged.update()
        for average in alone:
            average.update()
    fresh = [Average(pair.alone[m], 0.7) for m in range(3)]
    for model, average in enumerate(fresh):
        values, count = merged.state_of(model)
        assert count == alone[model].count
        average.restore({f"average.{i}": v for i, v in enumerate(values)}, count)
        for a, b in zip(average.tensors().values(), alone[model].tensors().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)
