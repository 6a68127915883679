from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retiarii.mutators.choice import Categorical, Integer, Real, check_raw
from retiarii.strategies.sampling import (
    first,
    fits,
    from_unit,
    last,
    perturb,
    sample,
    sample_open,
    size,
    to_unit,
)

numbers = st.one_of(
    st.builds(
        lambda low, more, log: Integer(low, low + more, log),
        st.integers(1, 50),
        st.integers(0, 1000),
        st.booleans(),
    ),
    st.builds(
        lambda low, more, log: Real(low, low + more, log),
        st.floats(1e-6, 10),
        st.floats(0, 1e6),
        st.booleans(),
    ),
)
domains = st.one_of(numbers, st.builds(Categorical, st.integers(1, 20)))


@given(domains, st.integers(0, 2**32))
def test_drawn_and_moved_values_are_inside(domain, seed):
    rng = Random(seed)
    raw = check_raw("x", domain, sample(domain, rng))
    assert first(domain) <= raw <= last(domain)
    for scale in (0.01, 0.2, 5.0):
        moved = check_raw("x", domain, perturb(domain, raw, rng, scale))
        count = size(domain)
        if count is not None:
            assert (moved != raw) == (count > 1)


@given(numbers, st.floats(0, 1))
def test_unit_space_round_trips(domain, unit):
    raw = check_raw("x", domain, from_unit(domain, unit))
    again = from_unit(domain, to_unit(domain, raw))
    assert again == raw if isinstance(domain, Integer) else math.isclose(again, raw, rel_tol=1e-9)


@given(st.integers(1, 300), st.integers(0, 2**32), st.booleans(), st.data())
def test_open_values_only(count, seed, log, data):
    domain = data.draw(st.sampled_from([Categorical(count), Integer(1, count, log)]))
    every = range(int(first(domain)), int(last(domain)) + 1)
    left = data.draw(st.integers(1, count))
    kept = set(Random(seed).sample(every, left))
    raw = sample_open(domain, Random(seed), set(every) - kept)
    assert raw in kept


def test_open_values_are_as_likely_as_each_other():
    closed = set(range(1, 1000)) - {500}
    counts = Counter(sample_open(Categorical(1000), Random(s), closed) for s in range(2000))
    assert set(counts) == {0, 500}
    assert 850 < counts[0] < 1150


def test_huge_domains_are_not_listed():
    closed = set(range(1, 1000))
    assert sample_open(Integer(1, 10**15), Random(0), closed) >= 1000


def test_log_draws_every_order_of_magnitude_alike():
    rng = Random(0)
    draws = [sample(Real(1e-4, 1.0, True), rng) for _ in range(4000)]
    for low in (1e-4, 1e-3, 1e-2, 1e-1):
        assert 850 < sum(low <= d < low * 10 for d in draws) < 1150
    whole = [sample(Integer(1, 1000, True), rng) for _ in range(4000)]
    assert 0.4 < sum(w <= 31 for w in whole) / 4000 < 0.6


def test_integers_are_alike_to_both_ends():
    counts = Counter(sample(Integer(1, 4), Random(s)) for s in range(4000))
    assert all(850 < counts[v] < 1150 for v in (1, 2, 3, 4))


def test_numbers_move_near_by_and_options_anywhere():
    near = [perturb(Real(0.0, 1.0), 0.5, Random(s), 0.05) for s in range(500)]
    assert all(abs(n - 0.5) < 0.25 for n in near)
    assert 0.03 < (sum((n - 0.5) ** 2 for n in near) / 500) ** 0.5 < 0.07
    at_end = [perturb(Real(0.0, 1.0), 1.0, Random(s), 0.05) for s in range(500)]
    assert all(0.75 < n < 1.0 for n in at_end)
    others = Counter(perturb(Categorical(4), 1, Random(s), 0.05) for s in range(3000))
    assert set(others) == {0, 2, 3}
    assert all(850 < n < 1150 for n in others.values())


@pytest.mark.parametrize(
    ("domain", "count"),
    [(Categorical(3), 3), (Integer(2, 5), 4), (Real(0, 1), None), (Real(2.0, 2.0), 1)],
)
def test_size(domain, count):
    assert size(domain) == count


def test_values_that_mean_the_same_elsewhere():
    assert fits(Categorical(3), 1, Categorical(3))
    assert not fits(Categorical(3), 1, Categorical(4))
    assert fits(Integer(1, 9), 4, Integer(2, 5))
    assert not fits(Integer(1, 9), 8, Integer(2, 5))
    assert not fits(Integer(1, 9), 4, Real(1.0, 9.0))
