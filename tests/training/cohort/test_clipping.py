from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from retiarii.training.cohort.clipping import Clipping

limits = st.none() | st.floats(1e-3, 50)


@settings(max_examples=40, deadline=None)
@given(st.lists(limits, min_size=3, max_size=3), st.sets(st.integers(0, 3)), st.integers(0, 99))
def test_it_equals_torchs_for_each_model(cohorts, largest, missing, seed):
    pair = cohorts.pair()
    flat = pair.flat.gather(pair.grads(seed, missing))
    norms = Clipping(pair.flat, largest).apply(flat)
    assert (norms is None) == (largest == [None] * 3)
    for model, limit in enumerate(largest):
        own = pair.alone[model]
        before = [None if p.grad is None else p.grad.clone() for p in own]
        if limit is not None and any(g is not None for g in before):
            norm = nn.utils.clip_grad_norm_(own, limit)
            torch.testing.assert_close(norms[model], norm, rtol=1e-14, atol=0)
        parts = pair.flat.member_of(flat.tensors, model)
        for part, p, old in zip(parts, own, before, strict=True):
            if p.grad is None:
                assert not part.any()
            elif limit is None:
                assert torch.equal(part, old)
            else:
                torch.testing.assert_close(part, p.grad, rtol=1e-14, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_stays_with_its_model(cohorts, bad):
    pair = cohorts.pair()
    well, sick = (pair.flat.gather(pair.grads(0)) for _ in range(2))
    pair.flat.member_of(sick.tensors, 1)[0].view(-1)[0] = bad
    pair.alone[1][0].grad.view(-1)[0] = bad
    for flat in (well, sick):
        Clipping(pair.flat, [0.1, 0.2, None]).apply(flat)
    for model in (0, 2):
        both = (pair.flat.member_of(f.tensors, model) for f in (well, sick))
        assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))
    nn.utils.clip_grad_norm_(pair.alone[1], 0.2)
    for part, p in zip(pair.flat.member_of(sick.tensors, 1), pair.alone[1], strict=True):
        torch.testing.assert_close(part, p.grad, equal_nan=True)
