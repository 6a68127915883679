"""The time a search has spent: nights between runs do not count, and trials side by side once."""

from __future__ import annotations

from typing import Any

from retiarii.report.clock import elapsed


class _Timed:
    """A result with trials that ended at given times, after given seconds of evaluation."""

    def __init__(self, *ends: tuple[float, float], carried: int = 0) -> None:
        self._ends = ends
        self.trials = [
            type(
                "T",
                (),
                {
                    "id": n,
                    "state": "complete",
                    "seconds": seconds,
                    "same_as": None,
                    "carried_from": n if n < carried else None,
                },
            )()
            for n, (_, seconds) in enumerate(ends)
        ]

    def row(self, number: int) -> Any:
        return type("R", (), {"finished": self._ends[number][0]})()


def times(*ends: tuple[float, float], carried: int = 0) -> dict[int, float]:
    return elapsed(_Timed(*ends, carried=carried))  # type: ignore[arg-type]


def test_one_after_the_other() -> None:
    assert times((101, 1), (103, 2), (106, 3)) == {0: 1, 1: 3, 2: 6}


def test_the_night_between_two_runs_does_not_count() -> None:
    assert times((101, 1), (9000, 2)) == {0: 1, 1: 3}


def test_side_by_side_counts_once() -> None:
    assert times((110, 10), (110, 10), (112, 8)) == {0: 10, 1: 10, 2: 12}


def test_an_end_while_others_go_on() -> None:
    assert times((110, 10), (105, 2)) == {0: 10, 1: 5}


def test_what_was_taken_over_costs_nothing() -> None:
    assert times((50, 7), (101, 1), carried=1) == {0: 0, 1: 1}
