"""All of it at once: stacked models against the same models in ordinary loops of torch."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from retiarii.training.accumulation import shares
from retiarii.training.averaging import Average
from retiarii.training.cohort.accumulation import GradientSum
from retiarii.training.cohort.averaging import FlatAverages
from retiarii.training.cohort.clipping import Clipping
from retiarii.training.cohort.losses import stacked_loss
from retiarii.training.cohort.optimizers import build_optimizer
from retiarii.training.cohort.rates import Progress, Rates
from retiarii.training.cohort.stacks import FlatParameters
from retiarii.training.optimizers import SGD, Adam
from retiarii.training.schedules import Cosine, OneCycle, ReduceOnPlateau

K, EPOCHS, BATCHES = 3, 10, 5
LIMITS = [0.5, None, 0.1]
DECAYS = [0.9, None, 0.5]
SCHEDULES = [Cosine(), ReduceOnPlateau(factor=0.5, patience=0, threshold=0.1), OneCycle()]
LOSS = nn.CrossEntropyLoss(label_smoothing=0.1)


def model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def batches():
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(BATCHES, 12, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 4, (BATCHES, 12), generator=generator)


def alone(index, description, every):
    """A loop over one model; returns its weights, its average's, and the rates."""
    net = model(index)
    optimizer = description.build(net.parameters())
    params = list(net.parameters())
    average = None if DECAYS[index] is None else Average(params, DECAYS[index])
    schedule, rates, step = SCHEDULES[index], [], 0
    state = schedule.begin()
    parts = shares([12] * BATCHES, every, summed=False)
    steps = sum(s.ends for s in parts)
    for _ in range(EPOCHS):
        for share, x, y in zip(parts, *batches(), strict=True):
            if share.begins:
                optimizer.zero_grad()
            (LOSS(net(x), y) * share.weight).backward()
            if share.ends:
                rates.append(schedule.lr(step, EPOCHS * steps, description.lr, steps, state))
                optimizer.param_groups[0]["lr"] = rates[-1]
                if LIMITS[index] is not None:
                    nn.utils.clip_grad_norm_(params, LIMITS[index])
                optimizer.step()
                step += 1
                if average is not None:
                    average.update()
        with torch.no_grad(), nullcontext() if average is None else average.applied():
            x, y = batches()
            score = LOSS(net(x[0]), y[0]).item()
        state = schedule.after_epoch(state, score, maximize=False)
    weights = [p.detach().clone() for p in params]
    with nullcontext() if average is None else average.applied():
        return weights, [p.detach().clone() for p in params], rates, score


def forward(params, x):
    w1, b1, w2, b2 = params
    hidden = torch.tanh(torch.baddbmm(b1.unsqueeze(1), x.expand(K, -1, -1), w1.mT))
    return torch.baddbmm(b2.unsqueeze(1), hidden, w2.mT)


def merged(descriptions, every):
    nets = [list(model(k).parameters()) for k in range(K)]
    params = [nn.Parameter(torch.stack(list(p)).detach()) for p in zip(*nets, strict=True)]
    flat = FlatParameters(params, [range(K)] * len(params))
    optimizer = build_optimizer(flat, descriptions)
    clipping, averages = Clipping(flat, LIMITS), FlatAverages(flat, DECAYS)
    total, rates = GradientSum(flat), Rates(SCHEDULES, [d.lr for d in descriptions])
    parts = [shares([12] * BATCHES, n, summed=False) for n in every]
    steps = [sum(s.ends for s in row) for row in parts]
    done, used = [0] * K, [[] for _ in range(K)]
    for _ in range(EPOCHS):
        for batch, (x, y) in enumerate(zip(*batches(), strict=True)):
            losses = stacked_loss(LOSS, forward(params, x), y)
            weights = torch.tensor([row[batch].weight for row in parts], dtype=torch.float64)
            total.add(flat.gather(torch.autograd.grad((losses * weights).sum(), params)))
            due = [row[batch].ends for row in parts]
            if not any(due):
                continue
            gradient = total.take(due)
            clipping.apply(gradient)
            lrs = rates.at([Progress(done[k], EPOCHS * steps[k], steps[k]) for k in range(K)])
            skip = ~torch.tensor(due)
            optimizer.step(gradient, lrs, skip)
            averages.update(skip)
            for k in range(K):
                if due[k]:
                    done[k] += 1
                    used[k].append(lrs[k])
        x, y = batches()
        with torch.no_grad(), averages.applied():
            scores = stacked_loss(LOSS, forward(params, x[0]), y[0]).tolist()
        for k in range(K):
            rates.after_epoch(k, scores[k], maximize=False)
    data = [b.data for b in flat.blocks]
    weights = [[w.clone() for w in flat.member_of(data, k)] for k in range(K)]
    with averages.applied():
        averaged = [[w.clone() for w in flat.member_of(data, k)] for k in range(K)]
    return weights, averaged, used, scores


@pytest.mark.parametrize("every", [[1, 1, 1], [2, 1, 5]])
@pytest.mark.parametrize(
    "descriptions",
    [
        [SGD(lr=0.5, momentum=0.9), SGD(lr=0.1), SGD(lr=0.3, momentum=0.5, nesterov=True)],
        [Adam(lr=0.01), SGD(lr=0.1, momentum=0.9), Adam(lr=0.05, amsgrad=True)],
    ],
    ids=["one class", "two classes"],
)
def test_it_equals_training_alone(cohorts, descriptions, every):
    found = merged(descriptions, every)
    for k in range(K):
        expected = alone(k, descriptions[k], every[k])
        for ours, theirs in zip((found[0][k], found[1][k]), expected[:2], strict=True):
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        assert found[2][k] == pytest.approx(expected[2], rel=1e-12)
        assert found[3][k] == pytest.approx(expected[3], rel=1e-10)
    assert len(set(found[2][1])) > 1, "the plateau was never reached"
