from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retiarii.training.cohort.accumulation import GradientSum
from retiarii.training.cohort.optimizers import build_optimizer
from retiarii.training.optimizers import SGD, Adam


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=3, max_size=3),
    st.lists(st.sets(st.integers(0, 3), max_size=2), min_size=1, max_size=5),
    st.sampled_from([SGD(lr=0.1, momentum=0.9, weight_decay=0.1), Adam(lr=0.01, weight_decay=0.1)]),
)
def test_each_model_steps_after_its_own_number_of_batches(cohorts, every, missing, description):
    """Also where a parameter has a gradient in some of the batches, or in none."""
    pair = cohorts.pair()
    own = cohorts.torchs(pair, [description] * 3)
    flat = build_optimizer(pair.flat, [description] * 3)
    total = GradientSum(pair.flat)
    sums = [[None] * len(row) for row in pair.alone]
    for batch in range(12):
        grads = pair.grads(batch, missing[batch % len(missing)])
        total.add(pair.flat.gather(grads))
        due = [(batch + 1) % n == 0 for n in every]
        for model, row in enumerate(pair.alone):
            for i, p in enumerate(row):
                if p.grad is not None:
                    sums[model][i] = p.grad if sums[model][i] is None else sums[model][i] + p.grad
            if due[model]:
                for p, grad in zip(row, sums[model], strict=True):
                    p.grad = grad
                own[model].step()
                sums[model] = [None] * len(row)
        if any(due):
            flat.step(total.take(due), [description.lr] * 3, ~torch.tensor(due))
    pair.assert_equal(1e-12)


def test_nan_is_gone_with_the_step_that_it_was_in(cohorts):
    pair = cohorts.pair()
    total = GradientSum(pair.flat)
    first = pair.flat.gather(pair.grads(0))
    pair.flat.member_of(first.tensors, 1)[0].fill_(float("nan"))
    total.add(first)
    total.take([False, True, False])
    second = pair.flat.gather(pair.grads(1))
    total.add(second)
    taken = total.take([True, True, True])
    assert torch.equal(
        pair.flat.member_of(taken.tensors, 1)[0], pair.flat.member_of(second.tensors, 1)[0]
    )
