"""Scales of many models against one GradScaler each."""

from __future__ import annotations

import pytest
import torch

from retiarii.training.cohort.optimizers import build_optimizer
from retiarii.training.cohort.scaling import LossScales
from retiarii.training.optimizers import SGD, Adam

OPTIONS = {"growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 3}


def scalers(initial):
    return [torch.amp.GradScaler("cpu", init_scale=initial, **OPTIONS) for _ in range(3)]


def ours(pair, initial):
    return LossScales(pair.flat, torch.device("cpu"), initial, growth=2.0, backoff=0.5, interval=3)


def poison(pair, grads, model, value):
    """Into the gradient of one model, stacked and alone."""
    index, member = pair.places[model][0]
    grads[index][member].view(-1)[1] = value
    pair.alone[model][0].grad.view(-1)[1] = value


@pytest.mark.parametrize("description", [SGD(lr=0.1, momentum=0.9), Adam(lr=0.01)], ids=repr)
def test_it_equals_a_grad_scaler_for_each_model(cohorts, description):
    pair = cohorts.pair(torch.float32)
    own = cohorts.torchs(pair, [description] * 3)
    theirs, scales = scalers(1024.0), ours(pair, 1024.0)
    flat = build_optimizer(pair.flat, [description] * 3)
    bad = {2: (0, float("inf")), 3: (1, float("nan")), 9: (1, float("-inf"))}
    for step in range(16):
        grads = pair.grads(step)
        before = scales.scales.clone()
        for model, scaler in enumerate(theirs):
            # Makes the scaler ready, and shows its scale.
            assert float(scaler.scale(torch.tensor(1.0))) == float(before[model])
        losses = torch.tensor([1.0, 2.0, 3.0])
        assert torch.equal(scales.scale(losses), losses * before)
        for model in range(3):
            for p, (index, member) in zip(pair.alone[model], pair.places[model], strict=True):
                p.grad.mul_(before[model])
                whole = grads[index]
                (whole[member] if whole.ndim > p.ndim else whole).mul_(before[model])
        if step in bad:
            poison(pair, grads, *bad[step])
        for model, scaler in enumerate(theirs):
            scaler.step(own[model])
            scaler.update()
        gradient = pair.flat.gather(grads)
        overflown = scales.unscale(gradient)
        assert overflown.tolist() == [step in bad and bad[step][0] == m for m in range(3)]
        flat.step(gradient, [description.lr] * 3, overflown)
        scales.update(overflown)
        for model, scaler in enumerate(theirs):
            assert scales.state_of(model) == scaler.state_dict()
    pair.assert_equal(1e-5)
    assert len({scales.state_of(m)["scale"] for m in range(3)}) == 3


def test_a_skipped_model_keeps_its_scale(cohorts):
    pair = cohorts.pair()
    scales = ours(pair, 8.0)
    none = torch.zeros(3, dtype=torch.bool)
    for _ in range(3):
        scales.update(none, skip=torch.tensor([True, False, False]))
    assert [scales.state_of(m)["scale"] for m in range(3)] == [8.0, 16.0, 16.0]
    scales.update(~none, skip=torch.tensor([True, False, False]))
    assert scales.state_of(0) == {**scales.state_of(1), "scale": 8.0}
    assert scales.state_of(1)["scale"] == 8.0


def test_a_scale_does_not_grow_to_infinity(cohorts):
    scales = ours(cohorts.pair(), 2.0**127)
    for _ in range(4):
        scales.update(torch.zeros(3, dtype=torch.bool))
    assert scales.state_of(0)["scale"] == 2.0**127


def test_states_go_from_torchs_and_back(cohorts):
    pair = cohorts.pair()
    scales = ours(pair, 8.0)
    (scaler, *_) = scalers(4.0)
    scaler.load_state_dict({**scaler.state_dict(), "scale": 32.0, "_growth_tracker": 2})
    scales.load_state_of(1, scaler.state_dict())
    scales.load_state_of(2, {})
    assert scales.state_of(1) == scaler.state_dict()
    assert scales.state_of(0)["scale"] == scales.state_of(2)["scale"] == 8.0
    scales.update(torch.zeros(3, dtype=torch.bool))
    assert [scales.state_of(m)["scale"] for m in range(3)] == [8.0, 64.0, 8.0]
