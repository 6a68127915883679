"""Asha and hyperband: who goes on at a rung."""

from __future__ import annotations

import pytest

from retiarii.errors import SchedulerError
from retiarii.schedulers.asha import Asha
from retiarii.schedulers.base import Known, Scheduler, Setting, reach
from retiarii.schedulers.hyperband import Bracket, Hyperband, brackets

NOTHING = Known({})


def begun(scheduler: Scheduler, longest: int | None = 9, *, pauses: bool = True) -> Scheduler:
    scheduler.begin(Setting(4, longest, pauses))
    return scheduler


def test_rungs_by_the_reduction_factor() -> None:
    asha = begun(Asha(eta=3, grace=2))
    rungs = [asha.rung(0, after) for after in (0, 1, 2, 5, 6, 18)]
    assert rungs == [2, 2, 6, 6, 18, 54]


def test_a_third_of_all_that_got_there_goes_on() -> None:
    asha = begun(Asha(eta=3))
    group = {4: 0.1, 5: 0.9, 6: 0.5, 7: 0.9}
    assert asha.keep(1, group, NOTHING) == {5}  # the first of equals
    earlier = Known({n: [(1, 0.2)] for n in range(4)})
    assert asha.keep(1, group, earlier) == {5, 7}
    better = Known({n: [(1, 1.0), (2, 0.0)] for n in range(4)})
    assert asha.keep(1, group, better) == frozenset()
    assert asha.keep(3, group, better) == {5}  # none of them got to this rung


def test_asha_without_pauses_compares_with_earlier_trials() -> None:
    asha = begun(Asha(eta=2), pauses=False)
    known = Known({0: [(1, 0.5), (2, 0.6)], 1: [(1, 0.4)], 2: [(1, 0.7)]})
    assert not asha.stops(3, [(1, 0.6)], known)  # 2 of 4
    assert asha.stops(3, [(1, 0.45)], known)
    assert not asha.stops(3, [(1, 0.6), (3, 0.7)], known)  # past rung 2
    assert asha.stops(3, [(1, 0.6), (3, 0.5)], known)
    assert not asha.stops(3, [(1, 0.6), (2, 0.7), (3, 0.0)], known)  # at no rung


def test_the_brackets_of_the_paper() -> None:
    found = brackets(81, 3)
    assert [b.size for b in found] == [81, 34, 15, 8, 5]
    assert found[0].rungs == (1, 3, 9, 27)
    assert found[-1].rungs == ()
    assert brackets(1, 3) == (Bracket(1, ()),)
    assert brackets(5, 2)[0] == Bracket(4, (1, 2))


def test_a_bracket_is_a_group() -> None:
    hyperband = begun(Hyperband())
    assert [b.size for b in brackets(9, 3)] == [9, 5, 3]
    spans = [hyperband.group(n) for n in (0, 8, 9, 13, 14, 16, 17, 26)]
    assert spans == [
        range(9), range(9), range(9, 14), range(9, 14), range(14, 17), range(14, 17),
        range(17, 26), range(26, 31),
    ]  # fmt: skip
    assert [hyperband.rung(0, after) for after in (0, 1, 3, 9)] == [1, 3, None, None]
    assert [hyperband.rung(9, after) for after in (0, 3)] == [3, None]
    assert hyperband.rung(14, 0) is None
    scores = {n: float(n) for n in range(9)}
    assert hyperband.keep(1, scores, NOTHING) == {6, 7, 8}
    assert hyperband.keep(3, {6: 1.0, 7: 0.0}, NOTHING) == {6}


def test_hyperband_without_pauses_compares_within_a_kind_of_bracket() -> None:
    hyperband = begun(Hyperband(), pauses=False)
    assert hyperband.group(5) == range(4, 8)
    known = Known({0: [(1, 0.5)], 9: [(3, 0.9)], 12: [(3, 0.8)]})
    assert not hyperband.stops(17, [(1, 0.6)], known)
    assert hyperband.stops(17, [(1, 0.4)], known)
    assert hyperband.stops(10, [(1, 0.0), (3, 0.85)], known)
    assert not hyperband.stops(10, [(1, 0.0), (2, 0.1)], known)


def test_hyperband_must_know_the_epochs() -> None:
    with pytest.raises(SchedulerError, match="how many epochs"):
        begun(Hyperband(), None)
    assert begun(Hyperband(epochs=3), None).group(0) == range(3)


def test_reach() -> None:
    curve = [(2, 0.1), (4, 0.3)]
    assert [reach(curve, step) for step in (1, 2, 3, 4, 5)] == [0.1, 0.1, 0.3, 0.3, None]
