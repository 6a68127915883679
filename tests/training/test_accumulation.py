from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retiarii.training.accumulation import Share, shares


def test_shares():
    assert shares((4, 4, 2), 2, summed=False) == (
        Share(0.5, True, False),
        Share(0.5, False, True),
        Share(1.0, True, True),
    )
    assert [s.weight for s in shares((4, 4, 2), 3, summed=False)] == [0.4, 0.4, 0.2]
    assert [s.weight for s in shares((4, 4, 2), 3, summed=True)] == [1.0] * 3
    assert shares((3,), 1, summed=False) == (Share(1.0, True, True),)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 25))
def test_each_step_weighs_one(sizes, every):
    found = shares(sizes, every, summed=False)
    assert len(found) == len(sizes)
    assert sum(s.ends for s in found) == sum(s.begins for s in found) == -(-len(sizes) // every)
    assert found[0].begins
    assert found[-1].ends
    total = 0.0
    for before, share in zip((None, *found), found, strict=False):
        assert share.begins == (before is None or before.ends)
        total = share.weight + (0.0 if share.begins else total)
        assert total == pytest.approx(1.0) if share.ends else total < 1
