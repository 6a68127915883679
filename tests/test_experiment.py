from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retiarii.errors import EvaluatorError, RetiariiError, StoreError, StrategyError
from retiarii.experiment import Experiment
from retiarii.mutators.choice import choice, uniform
from retiarii.result import Result, open_result
from retiarii.runtime.job import point_of
from retiarii.runtime.progress import Progress
from retiarii.runtime.store import Store
from retiarii.search.state import trial_seed
from retiarii.search_space import Point, SearchSpace
from retiarii.strategies.base import Strategy
from retiarii.strategies.random import RandomSearch
from retiarii.training.function import Function
from retiarii.training.trial import Trial
from retiarii.trial_result import TrialResult


def value(trial: Trial) -> float:
    return trial.decisions["a"] * 10 + trial.decisions["b"]


def evaluator(fn: Callable[[Trial], Any] = value, **options: Any) -> Function:
    choices = {"a": choice([1, 2, 3, 4], "a"), "b": choice([1, 2, 3], "b")}
    return Function(fn, hyperparameters=options.pop("hyperparameters", choices), **options)


def search(fn: Callable[[Trial], Any] = value, trials: int = 6, **options: Any) -> Result:
    given = {k: options.pop(k) for k in ("maximize", "metric", "hyperparameters") if k in options}
    options.setdefault("strategy", "grid")
    return Experiment(None, evaluator(fn, **given), trials=trials, **options).run()


def shape(result: Result) -> list[Any]:
    return [(t.id, t.state, dict(t.decisions), t.score, t.same_as) for t in result.trials]


class Scripted(Strategy):
    """Proposes given answers, and keeps what it is told."""

    name = "scripted"

    def __init__(self, *answers: tuple[int, int], stop_at: int | None = None) -> None:
        self.answers = answers
        self.stop_at = stop_at
        self.calls: list[Any] = []

    def ask(self, number: int) -> Point | None:
        self.calls.append(f"ask {number}")
        if number >= len(self.answers):
            return None
        return point_of(self.space, tuple(zip("ab", self.answers[number], strict=True)))

    def tell(self, number: int, score: float | None) -> None:
        self.calls.append(f"tell {number} {score}")


class Listening(Scripted):
    def report(self, number: int, step: int, score: float) -> bool:
        self.calls.append(f"report {number} {step} {score}")
        return self.stop_at is not None and step >= self.stop_at


# -- what a search gives


def test_finds_the_best() -> None:
    result = search(trials=12)
    assert result.ended == "trials"
    assert len(result.trials) == 12
    assert result.best is not None
    assert (result.best.score, dict(result.best.decisions)) == (43, {"a": 4, "b": 3})
    assert result.pareto == (result.best,)
    assert result.best.metrics == {"score": 43}
    assert all(trial.seconds >= 0 and trial.error is None for trial in result.trials)
    assert "12 complete" in result.summary


def test_minimizing() -> None:
    strategy = Scripted((0, 0), (1, 1), (2, 2))
    result = search(trials=3, strategy=strategy, maximize=False)
    assert result.best is not None
    assert result.best.score == 11
    assert [c for c in strategy.calls if c.startswith("tell")] == [
        "tell 0 -11.0", "tell 1 -22.0", "tell 2 -33.0"
    ]  # fmt: skip


def test_exhausted_space_ends_the_search_and_says_so() -> None:
    result = search(trials=100)
    assert (result.ended, len(result.trials)) == ("exhausted", 12)
    assert "used up" in result.summary


def test_seeds_come_from_the_number() -> None:
    seen = {}

    def remember(trial: Trial) -> float:
        seen[trial.number] = (trial.seed, trial.search_seed, trial.attempt)
        return 1.0

    search(remember, trials=3, seed=5)
    assert seen == {n: (trial_seed(5, n, 0), 5, 0) for n in range(3)}
    assert len({seed for seed, _, _ in seen.values()}) == 3


def test_history_and_steps() -> None:
    def steps(trial: Trial) -> float:
        for step in (1, 2):
            trial.report(step, score=step / 2, loss=1 / step)
        return 1.0

    result = search(steps, trials=1)
    assert result.trials[0].history == [
        {"step": 1, "score": 0.5, "loss": 1.0},
        {"step": 2, "score": 1.0, "loss": 0.5},
    ]


# -- the order of asks and tells


@pytest.mark.parametrize("window", [1, 2, 5])
def test_a_trial_is_asked_for_once_all_before_its_window_are_told(window: int) -> None:
    strategy = Scripted(*[(n % 4, n // 4) for n in range(5)])
    search(trials=5, strategy=strategy, workers=window)
    expected, told = [], 0
    for number in range(5):
        if number >= window:
            expected.append(f"tell {told}")
            told += 1
        expected.append(f"ask {number}")
    expected += [f"tell {n}" for n in range(told, 5)]
    assert [" ".join(call.split()[:2]) for call in strategy.calls] == expected


# -- duplicates


@pytest.mark.parametrize("window", [1, 4])
def test_the_same_model_is_not_trained_twice(window: int) -> None:
    ran = []

    def remember(trial: Trial) -> float:
        ran.append(trial.number)
        trial.report(1, score=0.5)
        return value(trial)

    strategy = Scripted((0, 0), (1, 0), (0, 0), (0, 0))
    result = search(remember, trials=4, strategy=strategy, workers=window)
    assert ran == [0, 1]
    assert [t.same_as for t in result.trials] == [None, None, 0, 0]
    assert [t.state for t in result.trials] == ["complete"] * 4
    assert [t.score for t in result.trials] == [11, 21, 11, 11]
    assert result.trials[2].metrics == {"score": 11}
    assert result.trials[2].history == result.trials[0].history != []
    assert strategy.calls[-1] == "tell 3 11.0"
    shown = result.to_json()["trials"]
    assert shown[2]["same_as"] == 0
    assert "same_as" not in shown[0]
    assert "2 the same as another" in result.summary


@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_duplicate_of_a_failed_trial_is_trained_itself(window: int) -> None:
    ran = []

    def fails_first(trial: Trial) -> float:
        ran.append(trial.number)
        return float("nan") if trial.number == 0 else value(trial)

    strategy = Scripted((0, 0), (0, 0), (0, 0))
    result = search(fails_first, trials=3, strategy=strategy, workers=window, retries=0)
    assert ran == [0, 1]
    assert [(t.state, t.same_as) for t in result.trials] == [
        ("failed", None), ("complete", None), ("complete", 1)
    ]  # fmt: skip


# -- failures


def test_a_failed_trial_is_not_a_failed_search() -> None:
    def fails(trial: Trial) -> float:
        if trial.number == 1:
            raise ValueError("no luck")
        return value(trial)

    strategy = Scripted((0, 0), (1, 0), (2, 0))
    result = search(fails, trials=3, strategy=strategy)
    failed = result.trials[1]
    assert (failed.state, failed.score) == ("failed", None)
    assert failed.error is not None
    assert failed.error.startswith(f"ValueError: no luck\n  at: {__file__}:")
    assert failed.traceback is not None
    assert "raise ValueError" in failed.traceback
    assert failed.attempt == 1
    assert "tell 1 None" in strategy.calls
    assert result.best is not None
    assert result.best.id == 2


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_retries(retries: int) -> None:
    attempts = []

    def fails(trial: Trial) -> float:
        attempts.append((trial.attempt, trial.seed))
        trial.report(1, score=0.0)
        return float("nan")

    result = search(fails, trials=1, retries=retries)
    assert attempts == [(n, trial_seed(0, 0, n)) for n in range(retries + 1)]
    assert len({seed for _, seed in attempts}) == retries + 1
    trial = result.trials[0]
    assert trial.state == "failed"
    assert "nan" in str(trial.error)
    assert result.best is None
    assert result.pareto == ()


def test_a_retry_begins_afresh(tmp_path: Path) -> None:
    places = []

    def second_time(trial: Trial) -> float:
        assert trial.directory is not None
        places.append(trial.directory)
        assert not trial.directory.exists()
        trial.directory.mkdir(parents=True)
        trial.report(trial.attempt + 1, score=1.0)
        if trial.attempt == 0:
            raise RuntimeError("diverged")
        return 1.0

    result = search(second_time, trials=1, directory=tmp_path)
    trial = result.trials[0]
    assert (trial.state, trial.attempt, trial.error) == ("complete", 1, None)
    assert [entry["step"] for entry in trial.history] == [2]
    assert [p.exists() for p in places] == [False, True]
    assert trial.directory == places[1]


def test_all_failed() -> None:
    def fails(trial: Trial) -> float:
        raise RuntimeError

    result = search(fails, trials=4)
    assert result.best is None
    assert result.to_json()["best"] is None
    assert [t.state for t in result.trials] == ["failed"] * 4


# -- early stopping


@pytest.mark.parametrize("maximize", [True, False])
def test_a_strategy_stops_a_trial_early(maximize: bool, tmp_path: Path) -> None:
    def steps(trial: Trial) -> float:
        for step in range(1, 10):
            trial.report(step, score=float(step))
            if trial.should_stop():
                return float(step)
        return 10.0

    strategy = Listening((0, 0), (1, 0), stop_at=3)
    options = {"trials": 2, "maximize": maximize, "directory": tmp_path}
    result = search(steps, strategy=strategy, **options)
    assert [(t.state, t.score) for t in result.trials] == [("pruned", 3.0)] * 2
    sign = 1 if maximize else -1
    assert [c for c in strategy.calls if c.startswith("report 0")] == [
        f"report 0 {step} {sign * float(step)}" for step in (1, 2, 3)
    ]
    assert result.best is None  # a pruned trial's score is not comparable
    again = Listening((0, 0), (1, 0), stop_at=3)
    search(steps, strategy=again, **options)
    assert sorted(again.calls) == sorted(strategy.calls)  # a resumed strategy hears the same


@pytest.mark.parametrize("window", [1, 2])
def test_a_request_to_stop_is_not_forgotten(tmp_path: Path, window: int) -> None:
    steps = []

    def interrupted(trial: Trial) -> float:
        if (trial.number, len(steps)) == (1, 0):
            trial.report(1, score=1.0)
            steps.append(trial.should_stop())
            raise KeyboardInterrupt
        steps.append(trial.should_stop())
        return 1.0

    def strategy() -> Listening:
        return Listening((0, 0), (1, 0), stop_at=1)

    options: dict[str, Any] = {"trials": 2, "workers": window, "directory": tmp_path}

    def first_quiet(trial: Trial) -> float:
        return value(trial) if trial.number == 0 else interrupted(trial)

    assert search(first_quiet, strategy=strategy(), **options).ended == "interrupted"
    again = strategy()
    result = search(first_quiet, strategy=again, **options)
    assert steps == [True, True]
    assert [t.state for t in result.trials] == ["complete", "pruned"]
    assert [c for c in again.calls if c.startswith("report")] == ["report 1 1 1.0"]


# -- resuming


def test_the_same_command_again_runs_nothing(tmp_path: Path) -> None:
    first = search(directory=tmp_path)

    def never(trial: Trial) -> float:
        raise AssertionError("a finished trial was run again")

    never.__name__ = never.__qualname__ = "value"
    experiment = Experiment(None, evaluator(), strategy="grid", trials=6, directory=tmp_path)
    experiment._evaluator._fn = never  # type: ignore[attr-defined]
    experiment._facts = lambda space, window: Store.read(tmp_path).meta("identity")  # type: ignore[method-assign]
    assert experiment.run().to_json() == first.to_json()


@pytest.mark.parametrize("strategy", ["grid", "random", "evolution"])
@pytest.mark.parametrize("window", [1, 3])
def test_a_larger_number_of_trials_extends(tmp_path: Path, strategy: str, window: int) -> None:
    options = {"strategy": strategy, "workers": window, "seed": 3}
    unbroken = search(trials=12, **options)
    for trials in (2, 5, 12):
        result = search(trials=trials, directory=tmp_path, **options)
    assert shape(result) == shape(unbroken)
    assert result.total == 12


def test_a_smaller_number_shows_what_is_done(tmp_path: Path) -> None:
    full = search(trials=8, directory=tmp_path)
    again = search(trials=3, directory=tmp_path)
    assert again.to_json() == full.to_json()
    assert again.ended == "trials"


class _Stop(BaseException):
    """As sudden as a kill, within one process."""


@pytest.mark.parametrize("strategy", ["random", "evolution"])
@pytest.mark.parametrize("window", [1, 3])
def test_stopping_at_every_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, window: int
) -> None:
    """Ends the search at the k-th write to the store, for every k; then goes on."""

    def flaky(trial: Trial) -> float:
        trial.report(1, score=0.0)
        if trial.decisions["a"] == 2 and trial.attempt == 0:
            raise RuntimeError("once")
        return (trial.seed % 1000) / 1000

    options: dict[str, Any] = {
        "strategy": strategy,
        "workers": window,
        "trials": 7,
        "hyperparameters": {"a": choice([1, 2, 2, 4], "a"), "b": choice([1, 2, 2], "b")},
    }
    unbroken = shape(search(flaky, **options))
    # Random draws models that are alike; evolution passes them over.
    assert any(same_as is not None for *_, same_as in unbroken) == (strategy == "random")
    stop_at = [0]
    left = [0]

    def counted(name: str) -> Callable[..., Any]:
        method = getattr(Store, name)

        def write(self: Store, *args: Any) -> Any:
            if left[0] == 0:
                raise _Stop
            left[0] -= 1
            return method(self, *args)

        return write

    for name in ("_write", "_transaction"):
        monkeypatch.setattr(Store, name, counted(name))
    while True:
        directory = tmp_path / str(stop_at[0])
        left[0] = stop_at[0]
        try:
            search(flaky, directory=directory, **options)
            break
        except _Stop:
            left[0] = -1
            assert shape(search(flaky, directory=directory, **options)) == unbroken
        stop_at[0] += 1
    assert stop_at[0] > 25


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    def interrupted(trial: Trial) -> float:
        if trial.number == 2 and not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            signal.raise_signal(signal.SIGINT)  # os.kill may wake another thread
        return value(trial)

    options: dict[str, Any] = {"directory": tmp_path / "search", "trials": 5, "workers": 2}
    result = search(interrupted, **options)
    assert result.ended == "interrupted"
    assert [t.state for t in result.trials] == ["complete", "complete", "waiting", "waiting"][
        : len(result.trials)
    ]
    assert shape(search(interrupted, **options)) == shape(search(trials=5, workers=2))


# -- what is refused


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"seed": 1}, "seed: was 0, is 1"),
        ({"strategy": "random"}, 'strategy: was "grid", is "random"'),
        ({"workers": 2}, "workers: was 1, is 2"),
        ({"retries": 2}, "retries: was 1, is 2"),
        ({"fuse": "off"}, 'fuse: was "auto", is "off"'),
        ({"maximize": False}, "evaluator.maximize: was true, is false"),
        ({"hyperparameters": {"a": choice([1], "a"), "b": choice([1], "b")}}, "choice([1])"),
    ],
)
def test_another_search_is_refused(tmp_path: Path, change: dict[str, Any], line: str) -> None:
    before = search(trials=2, directory=tmp_path)
    with pytest.raises(StoreError) as caught:
        search(trials=2, directory=tmp_path, **change)
    assert line in str(caught.value)
    assert "choose another directory" in str(caught.value)
    assert open_result(tmp_path).to_json() == before.to_json()


def test_a_search_that_never_began_is_no_obstacle(tmp_path: Path) -> None:
    with pytest.raises(StrategyError):
        search(directory=tmp_path, hyperparameters={"a": uniform(0, 1, "a")})
    search(directory=tmp_path, trials=1)


def test_a_space_that_depends_on_something_else(tmp_path: Path) -> None:
    search(trials=2, directory=tmp_path, strategy=Scripted((0, 0), (1, 1)))
    with pytest.raises(StoreError, match="trial 1 would not be the same again") as caught:
        search(trials=3, directory=tmp_path, strategy=Scripted((0, 0), (2, 2)))
    assert "{'a': 2, 'b': 2}" in str(caught.value)
    assert "{'a': 3, 'b': 3}" in str(caught.value)
    with pytest.raises(StoreError, match="nothing is proposed"):
        search(trials=3, directory=tmp_path, strategy=Scripted((0, 0)))


def test_a_directory_in_use(tmp_path: Path) -> None:
    def nested(trial: Trial) -> float:
        with pytest.raises(StoreError, match=f"pid {os.getpid()}"):
            search(directory=tmp_path)
        return 1.0

    assert search(nested, directory=tmp_path, trials=1).best is not None


def test_nothing_is_trained_where_nothing_can_be_stored(tmp_path: Path) -> None:
    ran = []
    (tmp_path / "search.db").write_text("something else entirely, of some length" * 99)
    (tmp_path / "file").touch()
    for place in (Path("/proc"), tmp_path, tmp_path / "file"):
        with pytest.raises(StoreError):
            search(lambda trial: ran.append(1) or 1.0, directory=place)
    assert ran == []


def test_a_full_disk_is_not_a_failed_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise StoreError("the disk is full")

    def catches_everything(trial: Trial) -> float:
        try:
            trial.report(1, score=1.0)
        except Exception:
            return 0.0
        return 1.0

    with monkeypatch.context() as patched:
        patched.setattr(Store, "report", full)
        with pytest.raises(StoreError, match="full"):
            search(catches_everything, directory=tmp_path)
    assert [t.state for t in open_result(tmp_path).trials] == ["waiting"]
    assert search(catches_everything, directory=tmp_path, trials=1).trials[0].score == 1.0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"trials": 0}, "trials must be at least 1, not 0"),
        ({"trials": -3}, "trials must be at least 1"),
        ({"trials": 2.5}, "whole number"),
        ({"trials": True}, "whole number"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"retries": -1}, "retries must be at least 0"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"executor": "locl"}, "nearest: 'local'"),
        ({"fuse": "on"}, "use one of auto, off"),
        ({"strategy": "evolutoin"}, "'evolution'"),
        ({"space": 3}, "space is a int"),
        ({"evaluator": value}, "evaluator is a function"),
        ({"directory": 3}, "directory is a int"),
        ({"progress": 3}, "progress is a int"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], match: str) -> None:
    with pytest.raises(RetiariiError, match=match) as caught:
        Experiment(**{"space": None, "evaluator": evaluator(), **options})
    assert caught.value.where == f"Experiment({next(iter(options))}=...)"
    assert caught.value.fix


def test_the_evaluator_is_asked_before_anything_is_made(tmp_path: Path) -> None:
    class Refusing(Function):
        def validate(self, space: Any) -> None:
            raise EvaluatorError("no data")

    refusing = Refusing(value, hyperparameters={"a": choice([1, 2], "a")})
    with pytest.raises(EvaluatorError, match="no data"):
        Experiment(None, refusing, directory=tmp_path / "new").run()
    assert not (tmp_path / "new").exists()


# -- what watches it


def test_progress(tmp_path: Path) -> None:
    seen: list[Progress] = []

    def steps(trial: Trial) -> float:
        trial.report(1, score=0.5)
        return value(trial)

    strategy = Scripted((0, 0), (1, 0), (1, 0))
    options: dict[str, Any] = {"directory": tmp_path, "progress": [seen.append]}
    search(steps, trials=3, strategy=strategy, **options)
    assert [(p.kind, p.done) for p in seen] == [
        ("begin", 0), ("step", 0), ("trial", 1), ("step", 1), ("trial", 2), ("trial", 3),
        ("end", 3),
    ]  # fmt: skip
    assert all(p.total == 3 for p in seen)
    assert seen[-1].best == (1, 21)
    assert seen[1].metrics == {"score": 0.5}
    assert seen[5].trial is not None
    assert seen[5].trial.same_as == 1
    seen.clear()
    search(steps, trials=3, strategy=Scripted((0, 0), (1, 0), (1, 0)), **options)
    assert [(p.kind, p.done, p.resumed) for p in seen] == [("begin", 3, 3), ("end", 3, 3)]


def test_infeasible_proposals_are_counted() -> None:
    class Skipping(RandomSearch):
        def ask(self, number: int) -> Point | None:
            self.infeasible += 2
            return super().ask(number)

    result = search(trials=3, strategy=Skipping())
    assert result.skipped == 6
    assert "6 infeasible skipped" in result.summary


# -- the result


def test_open_result(tmp_path: Path) -> None:
    result = search(directory=tmp_path, trials=3)
    opened = open_result(tmp_path)
    assert opened.to_json() == result.to_json()
    assert json.loads(json.dumps(opened.to_json(), allow_nan=False)) == opened.to_json()
    assert list(opened.to_json()) == ["space", "strategy", "metric", "trials", "best"]
    assert list(opened.to_json()["trials"][0]) == [
        "id", "state", "decisions", "score", "metrics", "seconds", "error"
    ]  # fmt: skip
    assert (opened.strategy, opened.metric, opened.ended) == ("grid", "score", "trials")
    with pytest.raises(RetiariiError, match="without its space"):
        _ = opened.trials[0].candidate


def test_open_result_with_its_space_or_another(tmp_path: Path) -> None:
    search(directory=tmp_path, trials=2)
    same = SearchSpace(None, evaluator().hyperparameters())
    assert open_result(tmp_path, same).point(1).hyperparameters == {"a": 1, "b": 2}
    other = SearchSpace(None, {"a": choice([1, 2], "a"), "b": choice([7, 8, 9], "b")})
    with pytest.raises(RetiariiError, match="lead to another model"):
        open_result(tmp_path, other).point(1)


def test_open_result_with_what_was_searched(tmp_path: Path) -> None:
    search(directory=tmp_path, trials=2)
    opened = open_result(tmp_path, evaluator=evaluator())
    assert opened.point(1).hyperparameters == {"a": 1, "b": 2}
    assert opened.best is not None
    assert opened.best.candidate is None


def test_open_result_while_it_runs(tmp_path: Path) -> None:
    states = []

    def look(trial: Trial) -> float:
        states.append([t.state for t in open_result(tmp_path).trials])
        return 1.0

    search(look, directory=tmp_path, trials=2)
    assert states == [["running"], ["complete", "running"]]


def test_open_result_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no search is stored here"):
        open_result(tmp_path)


def test_without_a_directory_nothing_is_left() -> None:
    places = []

    def remember(trial: Trial) -> float:
        assert trial.directory is not None
        trial.directory.mkdir(parents=True)
        places.append(trial.directory)
        return 1.0

    result: Result | None = search(remember, trials=2)
    assert all(place.is_dir() for place in places)
    assert isinstance(result.trials[0] if result else None, TrialResult)
    del result
    gc.collect()
    assert not any(place.exists() for place in places)


def test_no_weights(tmp_path: Path) -> None:
    result = search(trials=1)
    assert result.trials[0].candidate is None
    with pytest.raises(RetiariiError, match="only hyper-parameters"):
        result.trials[0].load()
