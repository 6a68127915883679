"""Candidates that the user asks for: evaluated first, once, and the same again on resuming."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retiarii.errors import RetiariiError, SpaceError
from retiarii.experiment import Experiment
from retiarii.mutators.choice import choice, randint, uniform
from retiarii.result import Result, open_result
from retiarii.runtime.store import Store
from retiarii.strategies.base import Strategy
from retiarii.training.function import Function
from retiarii.training.trial import Trial


def parabola(trial: Trial) -> float:
    return -((trial.decisions["x"] - 2.0) ** 2) - trial.decisions["n"]


def experiment(directory: Path | None, trials: int = 6, **options: Any) -> Experiment:
    fn: Callable[[Trial], Any] = options.pop("fn", parabola)
    choices = {"x": uniform(-5.0, 5.0), "n": randint(0, 3), "kind": choice(["a", "b"])}
    evaluator = Function(fn, hyperparameters=choices)
    options.setdefault("strategy", "random")
    return Experiment(None, evaluator, trials=trials, directory=directory, **options)


def shape(result: Result) -> list[Any]:
    return [(t.id, t.state, dict(t.decisions), t.score) for t in result.trials]


def test_candidates_come_first_and_in_order() -> None:
    given = [{"x": 1.0, "n": 0, "kind": "b"}, {"x": 2.0, "n": 1, "kind": "a"}]
    search = experiment(None)
    for each in given:
        search.enqueue(each)
    result = search.run()
    assert [dict(t.decisions) for t in result.trials[:2]] == given
    assert len(result.trials) == 6
    assert result.trials[0].score == -1.0


def test_what_is_left_out_is_drawn_and_stays_the_same() -> None:
    first, second = experiment(None), experiment(None)
    for search in (first, second):
        search.enqueue({"n": 2})
        search.enqueue({"n": 2})
    one, two = first.run(), second.run()
    assert [t.decisions["n"] for t in one.trials[:2]] == [2, 2]
    assert one.trials[0].decisions != one.trials[1].decisions  # asked for twice: drawn twice
    assert shape(one) == shape(two)


def test_resuming_adds_nothing_and_equals_an_unbroken_search(tmp_path: Path) -> None:
    calls: list[int] = []

    def stop_at_3(trial: Trial) -> float:
        calls.append(trial.number)
        if trial.number == 3 and calls.count(3) == 1:
            raise KeyboardInterrupt
        return parabola(trial)

    def enqueued(directory: Path) -> Experiment:
        search = experiment(directory, 8, fn=stop_at_3, strategy="evolution")
        search.enqueue({"x": 1.0})
        search.enqueue({"kind": "a"})
        return search

    calls[:] = [3]
    unbroken = enqueued(tmp_path / "unbroken").run()
    calls.clear()
    assert enqueued(tmp_path / "broken").run().ended == "interrupted"
    resumed = enqueued(tmp_path / "broken").run()
    assert shape(resumed) == shape(unbroken)
    # without asking for them again, too: the directory knows them
    again = experiment(tmp_path / "broken", 8, fn=stop_at_3, strategy="evolution").run()
    assert shape(again) == shape(unbroken)


def test_a_search_that_has_begun_takes_more(tmp_path: Path) -> None:
    before = experiment(tmp_path, 3).run()
    search = experiment(tmp_path, 6)
    search.enqueue({"x": 2.0, "n": 0, "kind": "a"})
    result = search.run()
    assert shape(result)[:3] == shape(before)
    assert result.trials[3].score == 0.0
    assert shape(experiment(tmp_path, 6).run()) == shape(result)


def test_too_many_candidates_leave_the_store_as_it_is(tmp_path: Path) -> None:
    before = experiment(tmp_path, 3).run()
    search = experiment(tmp_path, 3)
    search.enqueue({"x": 2.0})
    with pytest.raises(RetiariiError, match="1 candidates are enqueued after 3 trials"):
        search.run()
    assert shape(open_result(tmp_path)) == shape(before)
    assert Store.read(tmp_path).meta("enqueued") == []


def test_none_are_left_over_from_a_search_that_never_began(tmp_path: Path) -> None:
    Store.create(tmp_path).set_meta(
        enqueued=[{"number": 0, "given": {}, "raws": [], "source": None}]
    )
    assert len(experiment(tmp_path, 2).run().trials) == 2


@pytest.mark.parametrize(
    ("decisions", "says"),
    [
        ({"kind": "c"}, r"'c' is none of the options of 'kind'(.|\n)*\['a', 'b'\]"),
        ({"x": 9.0}, r"'9.0' is not in the range of 'x'(.|\n)*uniform\(-5.0, 5.0\)"),
        ({"x": "two"}, "'two' is not in the range of 'x'"),
        ({"x": True}, "'True' is not in the range of 'x'"),
        ({"n": 1.5}, r"'1.5' is not in the range of 'n'(.|\n)*whole number"),
        ({"kinds": "a"}, r"'kinds' was given, but nothing asked(.|\n)*labels: 'kind'"),
        (["x"], "a candidate is given as a list"),
    ],
)  # fmt: skip
def test_wrong_decisions_name_the_label_and_the_options(decisions: Any, says: str) -> None:
    with pytest.raises(SpaceError, match=says):
        experiment(None).enqueue(decisions)


class Unlearned(Strategy):
    """Knows nothing of points that it did not propose."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def ask(self, number: int) -> Any:
        return self.space.replay(lambda label, domain: 0)

    def tell(self, number: int, score: float | None) -> None:
        self.told.append(number)


def test_a_strategy_is_told_only_what_it_wants_to_know() -> None:
    strategy = Unlearned()
    search = experiment(None, 3, strategy=strategy)
    search.enqueue({"x": 1.0})
    assert len(search.run().trials) == 3
    assert strategy.told == [1, 2]
