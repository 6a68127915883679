from __future__ import annotations

from collections import Counter

import pytest

from retiarii.errors import StrategyError
from retiarii.strategies.random import RandomSearch
from retiarii.testing.strategies import Session, barren, branches, flat, mixed, pitfalls


def test_each_option_is_as_likely():
    counts = Counter(Session(RandomSearch(), branches, seed=s).run(1)[0][0] for s in range(1500))
    assert set(counts) == {("branches", 0), ("branches", 1), ("branches", 2)}
    assert all(400 < n < 600 for n in counts.values())


def test_one_replay_a_proposal_even_near_the_end():
    session = Session(RandomSearch(), flat)
    session.run(72)
    assert session.space.replays == 72


def test_infeasible_ones_are_replayed_once():
    session = Session(RandomSearch(), pitfalls)
    session.run(1000)
    grid_replays = 1 + (3 + 9 + 27) + 3
    assert session.space.replays == grid_replays
    assert session.strategy.infeasible == grid_replays - len(session.proposed)


def test_proposals_do_not_depend_on_scores():
    low = Session(RandomSearch(), mixed, score=lambda number, raws: 0.0)
    none = Session(RandomSearch(), mixed, score=lambda number, raws: None, window=9)
    assert low.run(50) == none.run(50)


def test_patience():
    session = Session(RandomSearch(patience=5), barren)
    with pytest.raises(StrategyError, match="5 proposals in a row"):
        session.step()
    assert session.space.replays == session.strategy.infeasible == 5


@pytest.mark.parametrize("patience", [0, -1, 1.5, True, "many"])
def test_patience_is_checked(patience):
    with pytest.raises(StrategyError, match="patience"):
        RandomSearch(patience=patience)
