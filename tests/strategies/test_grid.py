from __future__ import annotations

import pytest

from retiarii.errors import SpaceError, StrategyError
from retiarii.mutators.choice import choice, randint, uniform
from retiarii.strategies.grid import GridSearch
from retiarii.testing.strategies import Session, barren, branches, flat, pitfalls


@pytest.mark.parametrize("ask", [flat, branches, pitfalls])
def test_in_order_with_the_last_decision_turning_fastest(ask):
    proposed = [tuple(raw for _, raw in raws) for raws in Session(GridSearch(), ask).run(1000)]
    assert proposed == sorted(proposed)


def test_one_replay_a_proposal():
    session = Session(GridSearch(), flat)
    session.run(72)
    assert session.space.replays == 72
    assert not session.step()
    assert session.space.replays == 72


def test_infeasible_ones_are_counted():
    session = Session(GridSearch(), pitfalls)
    session.run(1000)
    assert session.strategy.infeasible == session.space.replays - len(session.proposed) > 0


def test_whole_numbers_are_enumerated_without_listing_them():
    session = Session(GridSearch(), lambda: randint(5, 10**12, label="n"))
    assert session.run(3) == [(("n", 5),), (("n", 6),), (("n", 7),)]


def test_continuous_ranges_are_refused_with_what_to_do():
    def late():
        if choice([1, 2], label="a") == 2:
            uniform(0.0, 1.0, label="momentum")

    session = Session(GridSearch(), late)
    session.run(1)
    with pytest.raises(StrategyError, match="momentum") as caught:
        session.step()
    assert "random or evolution" in str(caught.value)
    assert "choice()" in str(caught.value)


def test_goes_on_after_running_out_of_patience():
    session = Session(GridSearch(patience=3), barren)
    for count in (3, 6):
        with pytest.raises(StrategyError, match="3 proposals in a row"):
            session.step()
        assert session.space.replays == count


def test_a_space_that_asks_otherwise_is_an_error():
    labels = iter(["a", "b", "c", "d"])
    session = Session(GridSearch(), lambda: choice([1, 2, 3], label=next(labels)))
    with pytest.raises(SpaceError, match="other decisions than before"):
        session.run(2)


def test_patience_is_checked():
    with pytest.raises(StrategyError, match="patience"):
        GridSearch(patience=0)
