from __future__ import annotations

import json

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
    ReduceOnPlateau,
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


SCORES = st.lists(st.floats(-2, 2).map(lambda v: round(v, 1)), min_size=1, max_size=25)


@given(
    SCORES,
    st.sampled_from(["min", "max"]),
    st.booleans(),
    st.integers(0, 3),
    st.integers(0, 2),
    st.sampled_from([0.0, 1e-4, 0.3]),
    st.sampled_from([0.0, 0.2]),
)
def test_plateau_equals_torchs(scores, mode, relative, patience, cooldown, threshold, minimum):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.5)
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode,
        factor=0.5,
        patience=patience,
        threshold=threshold,
        threshold_mode="rel" if relative else "abs",
        cooldown=cooldown,
        min_lr=minimum * 0.5,
        eps=0.0,
    )
    options = {
        "factor": 0.5,
        "patience": patience,
        "threshold": threshold,
        "relative": relative,
        "cooldown": cooldown,
        "minimum": minimum,
    }
    given_mode = ReduceOnPlateau(mode=mode, **options)
    by_metric = ReduceOnPlateau(**options)
    state = given_mode.begin()
    other = by_metric.begin()
    for epoch, score in enumerate(scores, start=1):
        theirs.step(score)
        state = json.loads(json.dumps(given_mode.after_epoch(state, score, mode != "max")))
        other = by_metric.after_epoch(other, score, mode == "max")
        rate = given_mode.lr(5 * epoch, 200, 0.5, 5, state)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        assert other == state


def test_plateau_after_a_warm_up():
    schedule = WarmUp(part=0.5, then=ReduceOnPlateau(factor=0.1, patience=0))
    state = schedule.begin()
    for _ in range(2):
        state = schedule.after_epoch(state, 1.0, maximize=True)
    assert schedule.lr(0, 8, 1.0, 2, state) == 0.25
    assert schedule.lr(4, 8, 1.0, 2, state) == 0.1
    assert WarmUp().after_epoch(WarmUp().begin(), 1.0, maximize=True) == {}
    assert Cosine().after_epoch(Cosine().begin(), 1.0, maximize=True) == {}


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
        lambda: ReduceOnPlateau(factor=1.0),
        lambda: ReduceOnPlateau(factor=0),
        lambda: ReduceOnPlateau(patience=-1),
        lambda: ReduceOnPlateau(patience=1.5),
        lambda: ReduceOnPlateau(mode="up"),
        lambda: ReduceOnPlateau(minimum=2),
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
