"""`retiarii compare`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from retiarii.cli import app

SPACE = """
import retiarii as rt

space = None


def score(trial):
    return trial.hyperparameters["x"]


evaluator = rt.Function(score, hyperparameters={"x": rt.uniform(0.0, 1.0)})
"""


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    file = tmp_path / "space.py"
    file.write_text(SPACE)
    for name, strategy in (("one", "random"), ("two", "evolution")):
        words = ("run", file, "--out", tmp_path / name, "--trials", "8", "--strategy", strategy)
        assert invoke(*words).exit_code == 0
    return tmp_path / "one", tmp_path / "two"


def test_a_table_of_each_and_of_regret(runs: tuple[Path, Path]) -> None:
    result = invoke("compare", *runs)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split()[:3] == ["search", "strategy", "trials"]
    assert lines[1].split()[:3] == ["one", "random", "8"]
    assert lines[2].split()[:3] == ["two", "evolution", "8"]
    assert "regret (distance from" in result.stdout
    assert "which all have:" in result.stdout


def test_json(runs: tuple[Path, Path]) -> None:
    found = json.loads(invoke("compare", *runs, "--json").stdout)
    assert found["comparable"] is True
    one, two = found["searches"]
    bests = [one["best"]["score"], two["best"]["score"]]
    assert found["best"] == max(bests)
    assert found["target"] == min(bests)
    assert one["regret"][-1] == [8, found["best"] - one["best"]["score"]]


def test_html(runs: tuple[Path, Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert invoke("compare", *runs, "--html", page).exit_code == 0
    assert page.read_text().count("<svg") == 2


def test_other_evaluators_are_not_compared(runs: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "space.py"
    file.write_text(SPACE.replace('trial.hyperparameters["x"]', '2 * trial.hyperparameters["x"]'))
    assert invoke("run", file, "--out", tmp_path / "three", "--trials", "4").exit_code == 0
    result = invoke("compare", runs[0], tmp_path / "three")
    assert result.exit_code == 0, result.output
    assert (
        "the scores cannot be compared:\n  three: evaluator.function.code: changed" in result.stdout
    )
    assert "regret" not in result.stdout


@pytest.mark.parametrize("case", ["one", "formats", "nothing"])
def test_mistakes(case: str, runs: tuple[Path, Path], tmp_path: Path) -> None:
    words: tuple[str | Path, ...] = {
        "one": (runs[0],),
        "formats": (*runs, "--json", "--html", tmp_path / "p.html"),
        "nothing": (runs[0], tmp_path / "nowhere"),
    }[case]
    result = invoke("compare", *words)
    assert result.exit_code == 2
    assert {
        "one": "one search is nothing to compare",
        "formats": "two formats are asked for",
        "nothing": "no search is stored here",
    }[case] in result.output
