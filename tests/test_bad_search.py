"""Mistakes of a search: told clearly, and no store is left behind or changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from retiarii.cli import app
from retiarii.errors import RetiariiError, SchedulerError, StrategyError
from retiarii.experiment import Experiment
from retiarii.mutators.choice import Categorical, Decision, choice, uniform
from retiarii.result import open_result
from retiarii.search_space import Point
from retiarii.strategies.base import Strategy
from retiarii.training.function import Function
from retiarii.training.trial import Trial


class Wrong(Strategy):
    """Proposes what is no point of the space, from some trial on."""

    def __init__(self, what: str, at: int = 0) -> None:
        self.what, self.at = what, at

    def ask(self, number: int) -> Any:
        if number < self.at:
            return self.space.replay(lambda label, domain: number)
        return {
            "text": lambda: "a",
            "answer": lambda: self.space.replay(lambda label, domain: 7),
            "point": lambda: Point((Decision("a", Categorical(3), 7, None),), None, {"a": 7}),
            "kind": lambda: Point((Decision("a", Categorical(3), "x", None),), None, {}),  # type: ignore[arg-type]
        }[self.what]()


def constant(trial: Trial) -> float:
    return 1.0


def experiment(directory: Path, strategy: Any, fn: Any = constant, **options: Any) -> Experiment:
    evaluator = Function(fn, hyperparameters={"a": choice([1, 2, 3])})
    return Experiment(None, evaluator, strategy, trials=3, directory=directory, **options)


SAYS = {
    "text": "proposed a str for trial",
    "answer": "7 is outside of Categorical",
    "point": "proposed 7 for 'a', which is outside of",
    "kind": "proposed 'x' for 'a', which is outside of",
}


@pytest.mark.parametrize("what", SAYS)
def test_proposals_outside_of_the_space(what: str, tmp_path: Path) -> None:
    with pytest.raises(RetiariiError, match=SAYS[what]) as caught:
        experiment(tmp_path / "new", Wrong(what)).run()
    assert caught.value.fix is not None
    assert not (tmp_path / "new").exists()


def test_a_directory_that_was_there_stays_with_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("my notes")
    with pytest.raises(StrategyError):
        experiment(tmp_path, Wrong("text")).run()
    assert (tmp_path / "mine").read_text() == "my notes"
    assert not list(tmp_path.glob("search.db*"))
    assert len(experiment(tmp_path, "random").run().trials) == 3


def test_what_was_finished_before_the_mistake_is_kept(tmp_path: Path) -> None:
    with pytest.raises(StrategyError):
        experiment(tmp_path / "new", Wrong("text", at=2)).run()
    assert [t.state for t in open_result(tmp_path / "new").trials] == ["complete", "complete"]


@pytest.mark.parametrize("scheduler", ["median", "asha"])
def test_a_scheduler_without_reports(scheduler: str, tmp_path: Path) -> None:
    with pytest.raises(SchedulerError, match="nothing to go by") as caught:
        experiment(tmp_path / "new", "random", scheduler=scheduler).run()
    assert "trial.report" in str(caught.value.fix)
    assert not (tmp_path / "new").exists()


def test_a_scheduler_without_reports_in_a_search_that_has_begun(tmp_path: Path) -> None:
    def reports_first(trial: Trial) -> float:
        trial.report(1, score=1.0)
        return 1.0

    experiment(tmp_path, "random", reports_first, scheduler="median").run()
    before = open_result(tmp_path).to_json()
    with pytest.raises(RetiariiError, match="another search"):
        experiment(tmp_path, "random", scheduler="median").run()
    assert open_result(tmp_path).to_json() == before


SPACE = """
import retiarii as rt

space = None
evaluator = rt.Function(lambda trial: 1.0, hyperparameters={"a": rt.choice([1, 2, 3])})
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "space.py").write_text(SPACE)
    return tmp_path / "space.py"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--scheduler", "median"], "nothing to go by"),
        (["--strategy", "nowhere:Strategy"], "cannot be imported"),
        (["--strategy", "json:JSONDecoder"], "has no strategy class"),
        (["--scheduler", "nowhere:Scheduler"], "cannot be imported"),
        (["--enqueue", "missing.json"], "there is no such file"),
        (["--continue-from", "missing"], "no search is stored here"),
        (["--confirm", "-1"], "the number of seeds is -1"),
    ],
)
def test_the_command_ends_with_2_and_leaves_nothing(
    words: list[str], says: str, file: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["run", str(file), "--out", str(tmp_path / "out"), *words])
    assert result.exit_code == 2, result.output
    assert says in result.output
    assert "fix:" in result.output
    assert not (tmp_path / "out").exists()


def test_an_entry_point_that_does_not_load(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "broken-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[retiarii.strategies]\nlost = nowhere:Strategy\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    result = CliRunner().invoke(
        app, ["run", str(file), "--out", str(tmp_path / "out"), "--strategy", "lost"]
    )
    assert result.exit_code == 2, result.output
    assert "the entry point 'lost' does not load" in result.output
    assert not (tmp_path / "out").exists()


def test_grid_over_a_range_leaves_nothing(tmp_path: Path) -> None:
    evaluator = Function(constant, hyperparameters={"x": uniform(0.0, 1.0)})
    with pytest.raises(StrategyError, match="cannot enumerate"):
        Experiment(None, evaluator, "grid", directory=tmp_path / "new").run()
    assert not (tmp_path / "new").exists()
