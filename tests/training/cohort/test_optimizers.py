"""One flat optimizer against one optimizer of torch for each model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retiarii.training.cohort.optimizers import FLAT, build_optimizer
from retiarii.training.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

STEPS = 50
TIGHT = 1e-12

rates = st.sampled_from([1e-3, 0.01, 0.1]) | st.floats(1e-4, 0.2)
decays = st.sampled_from([0.0, 0.01]) | st.floats(0, 0.3)
betas = st.tuples(st.sampled_from([0.0, 0.8, 0.9]), st.sampled_from([0.9, 0.99, 0.999]))
eps = st.sampled_from([1e-8, 1e-3])
flags = st.booleans()


@st.composite
def sgds(draw):
    momentum = draw(st.sampled_from([0.0, 0.9]) | st.floats(0, 0.99))
    nesterov = momentum > 0 and draw(flags)
    return SGD(
        lr=draw(rates),
        momentum=momentum,
        dampening=0.0 if nesterov else draw(st.sampled_from([0.0, 0.3])),
        weight_decay=draw(decays),
        nesterov=nesterov,
        maximize=draw(flags),
    )


def adams(kind):
    return st.builds(
        kind, lr=rates, betas=betas, eps=eps, weight_decay=decays, amsgrad=flags, maximize=flags
    )


ONE = {
    SGD: sgds(),
    Adam: adams(Adam),
    AdamW: adams(AdamW),
    RMSprop: st.builds(
        RMSprop,
        lr=st.sampled_from([1e-3, 1e-2]),
        alpha=st.sampled_from([0.9, 0.99]),
        eps=st.sampled_from([1e-3, 1e-2]),
        weight_decay=decays,
        momentum=st.sampled_from([0.0, 0.5, 0.9]),
        centered=flags,
        maximize=flags,
    ),
    Adagrad: st.builds(
        Adagrad,
        lr=rates,
        lr_decay=st.sampled_from([0.0, 0.1]),
        weight_decay=decays,
        initial_accumulator_value=st.sampled_from([0.0, 0.5]),
        eps=eps,
        maximize=flags,
    ),
}


def train(
    pair, descriptions, steps=STEPS, missing=(), skips=(), captured=False, own=None, flat=None
):
    """Both side by side; ``missing`` and ``skips`` say for each step what does not take part."""
    own = own or [d.build(p) for d, p in zip(descriptions, pair.alone, strict=True)]
    flat = flat or build_optimizer(pair.flat, descriptions, captured)
    for step in range(steps):
        absent = missing[step % len(missing)] if missing else ()
        skipped = skips[step % len(skips)] if skips else ()
        grads = pair.grads(step, absent)
        lrs = [d.lr * (1 - step / (2 * STEPS)) for d in descriptions]
        for model, optimizer in enumerate(own):
            if model not in skipped:
                optimizer.param_groups[0]["lr"] = lrs[model]
                optimizer.step()
        mask = torch.tensor([m in skipped for m in range(len(own))]) if skips else None
        rate = torch.tensor(lrs, dtype=torch.float64) if captured else lrs
        flat.step(pair.flat.gather(grads), rate, mask)
    return own, flat


def assert_state_equal(left, right, tolerance):
    """Two states as ``torch.optim`` has them."""
    left = {k: {n: v for n, v in e.items() if v is not None} for k, e in left.items()}
    right = {k: {n: v for n, v in e.items() if v is not None} for k, e in right.items()}
    left, right = ({k: e for k, e in s.items() if e} for s in (left, right))
    assert left.keys() == right.keys()
    for index in left:
        assert left[index].keys() == right[index].keys()
        for name, value in left[index].items():
            other = right[index][name]
            assert value.dtype == other.dtype, name
            torch.testing.assert_close(value, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", FLAT, ids=lambda k: k.__name__)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_it_equals_torchs_optimizers(cohorts, kind, data):
    descriptions = data.draw(st.lists(ONE[kind], min_size=3, max_size=3))
    missing = data.draw(st.lists(st.sets(st.integers(0, 3)), max_size=3))
    skips = data.draw(st.lists(st.sets(st.integers(0, 2)), max_size=3))
    captured = data.draw(flags)
    pair = cohorts.pair(shuffled=data.draw(flags))
    own, flat = train(pair, descriptions, missing=missing, skips=skips, captured=captured)
    pair.assert_equal(TIGHT)
    for model, optimizer in enumerate(own):
        assert_state_equal(optimizer.state_dict()["state"], flat.state_of(model), TIGHT)


PLAIN = [
    SGD(lr=0.1),
    SGD(lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    SGD(lr=0.1, momentum=0.9, dampening=0.2, maximize=True),
    Adam(lr=0.01),
    Adam(lr=0.01, amsgrad=True, weight_decay=0.1, maximize=True),
    AdamW(lr=0.01),
    RMSprop(lr=0.01),
    RMSprop(lr=0.01, centered=True, momentum=0.9, eps=1e-3),
    Adagrad(lr=0.1, lr_decay=0.1, initial_accumulator_value=0.1),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("description", PLAIN, ids=repr)
def test_equal_hyper_parameters(cohorts, description, dtype):
    pair = cohorts.pair(dtype)
    before = [w.clone() for w in pair.weights(0)]
    train(pair, [description] * 3)
    pair.assert_equal({torch.float32: 2e-6, torch.float64: 1e-14}[dtype])
    assert not any(torch.equal(a, b) for a, b in zip(before, pair.weights(0), strict=True))


@pytest.mark.parametrize("kind", FLAT, ids=lambda k: k.__name__)
def test_float32_stays_as_close_as_rounding_allows(cohorts, kind):
    fields = {"weight_decay": 0.01, "eps": 1e-3} if kind is not SGD else {"weight_decay": 0.01}
    descriptions = [kind(lr=r, **fields) for r in (0.001, 0.01, 0.05)]
    pair = cohorts.pair(torch.float32)
    train(pair, descriptions)
    pair.assert_equal(1e-5)


@pytest.mark.parametrize("kind", FLAT, ids=lambda k: k.__name__)
@pytest.mark.parametrize("captured", [False, True])
def test_a_skipped_model_changes_no_bit_and_the_others_change_as_without_it(
    cohorts, kind, captured
):
    """The skipped model's gradient is NaN and its weights hold an infinity."""
    descriptions = [kind(lr=r, weight_decay=d) for r, d in ((0.1, 0.0), (0.01, 0.1), (0.1, 0.2))]
    with_it, without = cohorts.pair(), cohorts.pair()
    flats = [build_optimizer(p.flat, descriptions, captured) for p in (with_it, without)]
    for step in range(4):
        for pair, flat in zip((with_it, without), flats, strict=True):
            grads = pair.flat.gather(pair.grads(step))
            rate = torch.tensor([0.1, 0.01, 0.1], dtype=torch.float64)
            skip = None
            if step >= 2 and pair is with_it:
                if step == 2:
                    pair.weights(1)[0].view(-1)[0] = float("inf")
                    kept = [w.clone() for w in pair.weights(1)], flat.state_of(1)
                for part in pair.flat.member_of(grads.tensors, 1):
                    part.fill_(float("nan"))
                skip = torch.tensor([False, True, False])
            flat.step(grads, rate, skip)
    weights, state = kept
    assert all(torch.equal(a, b) for a, b in zip(weights, with_it.weights(1), strict=True))
    assert_state_equal(state, flats[0].state_of(1), 0.0)
    for model in (0, 2):
        for a, b in zip(with_it.weights(model), without.weights(model), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-15, atol=0)
            assert a.isfinite().all()


@pytest.mark.parametrize("kind", FLAT, ids=lambda k: k.__name__)
@pytest.mark.parametrize("equal", [True, False])
def test_nan_of_one_model_reaches_no_other(cohorts, kind, equal):
    descriptions = [kind(lr=0.1 if equal else 0.1 + 0.01 * i, weight_decay=0.1) for i in range(3)]
    sick, well = cohorts.pair(), cohorts.pair()
    flats = [build_optimizer(p.flat, descriptions) for p in (sick, well)]
    for step in range(3):
        for pair, flat in zip((sick, well), flats, strict=True):
            grads = pair.flat.gather(pair.grads(step))
            if pair is sick:
                for part in pair.flat.member_of(grads.tensors, 1):
                    part.view(-1)[0] = float("inf") if step else float("nan")
            flat.step(grads, [d.lr for d in descriptions])
    for model in (0, 2):
        assert all(
            torch.equal(a, b) for a, b in zip(sick.weights(model), well.weights(model), strict=True)
        )
    assert not all(w.isfinite().all() for w in sick.weights(1))


def test_an_infinite_weight_does_not_decay_to_nan_where_there_is_no_decay(cohorts):
    pair = cohorts.pair()
    descriptions = [SGD(lr=0.1), SGD(lr=0.1, weight_decay=0.1), SGD(lr=0.1)]
    for target in (pair.weights(0)[0], pair.alone[0][0].data):
        target.view(-1)[0] = float("inf")
    train(pair, descriptions, steps=2)
    assert pair.weights(0)[0].view(-1)[0] == float("inf")
    pair.assert_equal(TIGHT)


def test_optimizers_of_different_classes(cohorts):
    descriptions = [SGD(lr=0.1, momentum=0.9), Adam(lr=0.01), AdamW(lr=0.02, amsgrad=True)]
    pair = cohorts.pair()
    own, flat = train(pair, descriptions, missing=[(), (1,)], skips=[(), (2,), ()])
    pair.assert_equal(TIGHT)
    for model, optimizer in enumerate(own):
        assert_state_equal(optimizer.state_dict()["state"], flat.state_of(model), TIGHT)
    again = cohorts.pair()
    fresh = build_optimizer(again.flat, descriptions)
    for model in range(3):
        fresh.load_state_of(model, flat.state_of(model))
        assert_state_equal(fresh.state_of(model), flat.state_of(model), 0.0)
    assert len(list(flat.tensors())) == 1 + 2 + 3


# --- states in and out ----------------------------------------------------------------------------


STATEFUL = [
    [SGD(lr=0.1, momentum=0.9, dampening=0.1), SGD(lr=0.1), SGD(lr=0.1, momentum=0.5)],
    [Adam(lr=0.01), Adam(lr=0.02, amsgrad=True), Adam(lr=0.03, weight_decay=0.1)],
    [AdamW(lr=0.01)] * 3,
    [RMSprop(lr=0.01, eps=1e-3, centered=i > 0, momentum=0.3 * i) for i in range(3)],
    [Adagrad(lr=0.1, initial_accumulator_value=0.1 * i, lr_decay=0.1) for i in range(3)],
]


@pytest.mark.parametrize("descriptions", STATEFUL, ids=lambda d: type(d[0]).__name__)
def test_alone_then_in_a_cohort_then_alone(cohorts, descriptions):
    """Models that join at different steps, one parameter without a gradient until then."""
    pair = cohorts.pair(shuffled=True)
    own = cohorts.torchs(pair, descriptions)
    for model, optimizer in enumerate(own):
        for step in range(3 * model):
            pair.grads(100 + step, missing=(0,))
            optimizer.step()
        for mine, merged in zip(pair.alone[model], pair.weights(model), strict=True):
            merged.copy_(mine.detach())
    flat = build_optimizer(pair.flat, descriptions)
    for model, optimizer in enumerate(own):
        flat.load_state_of(model, optimizer.state_dict()["state"])
    own, flat = train(pair, descriptions, steps=10, own=own, flat=flat)
    pair.assert_equal(TIGHT)
    fresh = cohorts.torchs(pair, descriptions)
    for model, optimizer in enumerate(fresh):
        state = {**optimizer.state_dict(), "state": flat.state_of(model)}
        optimizer.load_state_dict(state)
        assert_state_equal(own[model].state_dict()["state"], optimizer.state_dict()["state"], TIGHT)
    train(pair, descriptions, steps=5, own=fresh, flat=flat)
    pair.assert_equal(TIGHT)


def test_a_state_that_is_taken_over_replaces_the_old_one(cohorts):
    pair = cohorts.pair()
    descriptions = [Adagrad(initial_accumulator_value=0.5)] * 3
    _, flat = train(pair, descriptions, steps=3)
    flat.load_state_of(0, {})
    fresh = cohorts.torchs(cohorts.pair(), descriptions)[0]
    assert_state_equal(flat.state_of(0), fresh.state_dict()["state"], 0.0)
    assert flat.state_of(1)[0]["step"] == 3


def test_a_state_that_does_not_fit_is_refused(cohorts):
    pair = cohorts.pair()
    flat = build_optimizer(pair.flat, [Adam()] * 3)
    good = {n: torch.zeros(3, 2, dtype=torch.float64) for n in ("exp_avg", "exp_avg_sq")}
    good["step"] = torch.tensor(2.0)
    flat.load_state_of(0, {0: good})
    assert flat.state_of(0)[0]["step"] == 2
    with pytest.raises(ValueError, match="holds"):
        flat.load_state_of(0, {0: {"momentum_buffer": good["exp_avg"]}})
    with pytest.raises(ValueError, match="has shape"):
        flat.load_state_of(0, {0: {**good, "exp_avg": torch.zeros(6)}})
    with pytest.raises(ValueError, match="the model has 3"):
        flat.load_state_of(0, {3: good})


def test_a_model_without_a_description_is_refused(cohorts):
    with pytest.raises(ValueError, match="2 optimizers for 3 models"):
        build_optimizer(cohorts.pair().flat, [SGD()] * 2)


def test_every_optimizer_has_a_flat_one():
    assert set(FLAT) == set(Optimizer.__subclasses__())
