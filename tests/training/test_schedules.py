from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from retiarii.errors import EvaluatorError
from retiarii.mutators.choice import choice, uniform
from retiarii.training.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    LinearDecay,
    OneCycle,
    StepDecay,
    WarmUp,
    make_schedule,
)


def by_torch(make, steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.5)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


lr_scheduler = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Constant(), lambda o: lr_scheduler.ConstantLR(o, 1.0)),
        (Cosine(), lambda o: lr_scheduler.CosineAnnealingLR(o, 40)),
        (Cosine(minimum=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, 40, eta_min=0.05)),
        (
            LinearDecay(start=1.0, end=0.2),
            lambda o: lr_scheduler.LinearLR(o, 1.0, 0.2, total_iters=40),
        ),
        (StepDecay(every=2, gamma=0.5), lambda o: lr_scheduler.StepLR(o, 10, gamma=0.5)),
        (
            OneCycle(),
            lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=41, cycle_momentum=False),
        ),
        (
            OneCycle(rise=0.5, start_divisor=10, end_divisor=100),
            lambda o: lr_scheduler.OneCycleLR(
                o,
                0.5,
                total_steps=41,
                pct_start=0.5,
                div_factor=10,
                final_div_factor=100,
                cycle_momentum=False,
            ),
        ),
    ],
    ids=repr,
)
def test_it_equals_torchs(ours, theirs):
    total = 41 if isinstance(ours, OneCycle) else 40
    assert [ours.lr(s, total, 0.5, epoch_steps=5) for s in range(40)] == pytest.approx(
        by_torch(theirs, 40), rel=1e-9, abs=1e-12
    )


def test_warm_up_rises_and_hands_over():
    schedule = WarmUp(part=0.25, then="cosine")
    rates = [schedule.lr(s, 16, 1.0) for s in range(16)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == [Cosine().lr(s, 12, 1.0) for s in range(12)]
    assert WarmUp(part=0.5, start=0.5).lr(0, 4, 1.0) == 0.75


@given(
    st.sampled_from(
        [kind() for kind in SCHEDULES.values()]
        + [WarmUp(part=p, then=t) for p in (0, 0.5, 1) for t in ("cosine", "one-cycle", None)]
        + [OneCycle(rise=r) for r in (0, 0.01, 0.99, 1)]
    ),
    st.integers(1, 30),
    st.integers(1, 7),
    st.data(),
)
def test_rates_stay_between_zero_and_the_base(schedule, total, epoch_steps, data):
    step = data.draw(st.integers(0, total + 3))
    rate = schedule.lr(step, total, 0.1, epoch_steps)
    assert 0 <= rate <= 0.1 * (1 + 1e-12)
    assert rate == schedule.lr(step, total, 0.1, epoch_steps)


def test_labels():
    schedule = WarmUp(part=uniform(0, 0.2), then=StepDecay(gamma=choice([0.1, 0.5])))
    found = schedule.descriptions("schedule")
    assert list(found) == ["schedule.part", "schedule.then.gamma"]
    plain = schedule.resolved({"schedule.part": 0.1, "schedule.then.gamma": 0.5}, "schedule")
    assert plain == WarmUp(part=0.1, then=StepDecay(gamma=0.5))


@pytest.mark.parametrize(
    "make",
    [
        lambda: StepDecay(every=0),
        lambda: StepDecay(every=1.5),
        lambda: StepDecay(gamma=0),
        lambda: StepDecay(gamma=uniform(-1, 1)),
        lambda: Cosine(minimum=2),
        lambda: LinearDecay(end=-1),
        lambda: OneCycle(rise=1.5),
        lambda: WarmUp(part=-0.1),
        lambda: WarmUp(then=3),
        lambda: make_schedule(torch.optim.lr_scheduler.StepLR),
        lambda: make_schedule(choice([Cosine(), 3])),
    ],
)
def test_bad_fields(make):
    with pytest.raises(EvaluatorError):
        make()


def test_names():
    assert make_schedule(None) == Constant()
    assert make_schedule("warm-up") == WarmUp()
    with pytest.raises(EvaluatorError, match="nearest: 'cosine'"):
        make_schedule("cosin")
