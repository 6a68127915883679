"""`retiarii run` with schedulers and budgets, and how `show` marks what was stopped."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from retiarii.cli import app

SPACE = """
import retiarii as rt

def learning(trial):
    for step in range(1, 10):
        score = trial.hyperparameters["a"] * (1 - 0.7**step)
        trial.report(step, score=score)
        if trial.should_stop():
            break
    return score

space = None
evaluator = rt.Function(learning, hyperparameters={"a": rt.choice([1, 2, 3, 4, 5, 6], "a")})
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "space.py"
    path.write_text(SPACE)
    return path


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def run(file: Path, *words: str, code: int = 0) -> Result:
    out = file.parent / "out"
    result = invoke("run", file, "--out", out, "--strategy", "random", "--seed", "1", *words)
    assert result.exit_code == code, result.output
    return result


def test_pruned_scores_are_marked(file: Path) -> None:
    run(file, "--scheduler", "asha,eta=2")
    shown = invoke("show", file.parent / "out")
    lines = shown.stdout.splitlines()
    assert "scheduler: asha" in lines[-1]
    states = [line for line in lines if "complete" in line or "pruned at" in line][:-1]
    marked = ["pruned at" in line for line in states]
    assert marked == sorted(marked)  # after all that are complete
    assert any(marked)
    found = json.loads(invoke("show", file.parent / "out", "--json").stdout)["trials"]
    for trial in found:
        assert (trial["state"] == "pruned") == ("stopped_at" in trial)
    rows = list(csv.DictReader(io.StringIO(invoke("show", file.parent / "out", "--csv").stdout)))
    assert [row["stopped_at"] for row in rows] == [str(t.get("stopped_at", "")) for t in found]
    number = next(t["id"] for t in found if "stopped_at" in t)
    one = invoke("show", file.parent / "out", "--trial", str(number)).stdout
    assert f"trial {number}: pruned at step {found[number]['stopped_at']}" in one


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--target", "3"), "the target is reached"),
        (("--total-epochs", "20"), "the epochs are used up"),
        (("--budget", "1h"), "the space is used up"),
    ],
)
def test_why_it_ended(file: Path, words: tuple[str, ...], why: str) -> None:
    result = run(file, *words)
    assert why in result.stdout
    if why != "the space is used up":
        assert "the space is used up" in run(file).stdout


def test_time_that_is_used_up_before_anything_is_complete(file: Path) -> None:
    result = run(file, "--budget", "0.000001s", code=1)
    assert "the time is used up" in result.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--scheduler", "ahsa"), "nearest: 'asha'"),
        (("--scheduler", "foo"), "at: --scheduler foo"),
        (("--scheduler", "asha,eta=1"), "at least 2"),
        (("--scheduler", "hyperband"), "epochs=27"),
        (("--scheduler", "bohb"), "bohb"),  # with --strategy random
        (("--scheduler", "nowhere:Class"), "cannot be imported"),
        (("--budget", "soon"), "2h"),
        (("--total-epochs", "0"), "from 1 on"),
    ],
)
def test_mistakes(file: Path, words: tuple[str, ...], says: str) -> None:
    result = run(file, *words, code=2)
    assert says in result.stderr
    assert not (file.parent / "out").exists()


def test_nothing_to_export_is_offered_where_there_are_no_models(file: Path) -> None:
    shown = run(file).stdout
    assert "see all trials" in shown
    assert "take the best model" not in shown


POPULATION = """
import torch
from torch import nn

import retiarii as rt

x = torch.arange(16.0).reshape(8, 2) / 16
data = (x, x.sum(1, keepdim=True))
space = rt.ModelSpace(nn.Linear(2, 1), torch.zeros(2, 2))
evaluator = rt.Supervised(
    data, data, loss=nn.MSELoss(), metric="loss", optimizer=rt.SGD(lr=rt.loguniform(1e-3, 1e-1)),
    epochs=2, device="cpu",
)
"""


def test_a_population_that_has_not_come_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "space.py"
    file.write_text(POPULATION)
    words = ("run", file, "--out", tmp_path / "out", "--cohort", "2", "--executor", "inline")
    pbt = (*words, "--strategy", "pbt,population=2,interval=1")
    short = CliRunner().invoke(app, [str(word) for word in (*pbt, "--trials", "2")])
    assert short.exit_code == 1, short.output
    assert "a larger --trials goes on" in short.stderr
    whole = CliRunner().invoke(app, [str(word) for word in (*pbt, "--trials", "4")])
    assert whole.exit_code == 0, whole.output
    assert "take the best model" in whole.stdout


def test_a_function_that_reports_nothing(file: Path) -> None:
    file.write_text(SPACE.replace("trial.report(step, score=score)", "pass"))
    result = run(file, "--scheduler", "asha", code=2)
    assert "nothing to go by" in result.stderr
    assert "trial.report(step, score=...)" in result.stderr


def test_interrupted_says_how_to_go_on(file: Path) -> None:
    file.write_text(
        SPACE.replace("if trial", "if step == 5: raise KeyboardInterrupt\n        if trial")
    )
    result = run(file, "--total-epochs", "50", "--scheduler", "median", code=130)
    assert "--scheduler median --total-epochs 50" in result.stderr
