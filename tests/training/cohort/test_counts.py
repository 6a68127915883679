from __future__ import annotations

import pytest
import torch

from retiarii.training.cohort.counts import Counts

CPU = torch.device("cpu")


@pytest.mark.parametrize("captured", [False, True])
def test_they_count_apart_once_they_differ(captured):
    counts = Counts(3, CPU, captured)
    assert counts.common == (None if captured else 0)
    counts.advance()
    assert counts.values.tolist() == [1, 1, 1]
    counts.advance(torch.tensor([True, False, True]))
    counts.advance()
    assert counts.common is None
    assert counts.values.tolist() == [3, 2, 3]
    assert counts.get(1) == 2
    counts.set({1: 3})
    assert counts.common == (None if captured else 3)
    assert counts.get(1) == 3
    counts.set({0: 7})
    assert counts.values.tolist() == [7, 3, 3]


def test_a_captured_tensor_stays_where_it_is():
    counts = Counts(2, CPU, captured=True)
    place = counts.values.data_ptr()
    counts.advance()
    counts.advance(torch.tensor([True, False]))
    counts.set({0: 5, 1: 5})
    assert counts.values.data_ptr() == place
