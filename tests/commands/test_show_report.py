"""`show` with curves, importance and a page; `run` with candidates, warm starts, confirmation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from retiarii.cli import app

SPACE = """
from random import Random

import retiarii as rt

STEPS = 3


def score(trial):
    x = trial.hyperparameters["x"]
    for step in range(1, STEPS + 1):
        trial.report(step, score=x - 1 / step)
    return x + (trial.hyperparameters["kind"] == "b") + Random(trial.seed).gauss(0, 0.1)


space = None
evaluator = rt.Function(
    score, hyperparameters={"x": rt.uniform(0.0, 1.0), "kind": rt.choice(["a", "b"])}
)
"""


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def succeed(*words: str | Path) -> str:
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "space.py").write_text(SPACE)
    return tmp_path / "space.py"


@pytest.fixture
def out(file: Path, tmp_path: Path) -> Path:
    succeed("run", file, "--out", tmp_path / "out", "--trials", "8", "--strategy", "random")
    return tmp_path / "out"


def test_curves_and_importance(out: Path) -> None:
    text = succeed("show", out, "--curves", "--top", "3")
    assert text.count("step 3") == 3
    assert "importance" not in text
    text = succeed("show", out, "--importance")
    assert text.startswith("importance for score (fANOVA, 8 complete trials):\n  ")
    assert "%" in text
    both = succeed("show", out, "--curves", "--importance")
    assert both.startswith("learning curves")
    assert "fANOVA" in both


def test_html(out: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert succeed("show", out, "--html", page) == f"written: {page}\n"
    assert page.read_text().startswith("<!doctype html>")
    refused = invoke("show", out, "--html", tmp_path / "no" / "page.html")
    assert refused.exit_code == 2
    refused = invoke("show", out, "--html", page, "--json")
    assert refused.exit_code == 2
    assert "two formats are asked for" in refused.output


def test_unequal_training_is_marked(file: Path, tmp_path: Path) -> None:
    text = SPACE.replace("range(1, STEPS + 1)", "range(1, 2 + (x > 0.5))")
    file.write_text(text)
    succeed("run", file, "--out", tmp_path / "out", "--trials", "8", "--strategy", "random")
    shown = succeed("show", tmp_path / "out")
    assert "unequal training: complete trials had 1 to 2 steps" in shown
    assert "complete, 1 steps" in shown
    short = [line for line in shown.splitlines() if "complete, 1 steps" in line]
    assert all("*" in line for line in short)


def test_candidates_from_a_file(file: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "wanted.json"
    wanted.write_text('[{"x": 0.25, "kind": "b"}, {"kind": "a"}]')
    words = ("run", file, "--out", tmp_path / "out", "--trials", "4", "--json")
    found = json.loads(succeed(*words, "--enqueue", wanted))
    assert found["trials"][0]["decisions"] == {"x": 0.25, "kind": "b"}
    assert found["trials"][1]["decisions"]["kind"] == "a"
    assert json.loads(succeed(*words, "--enqueue", wanted)) == found
    wanted.write_text('{"x": 0.75, "kind": "b"}')
    longer = json.loads(succeed(*words[:4], "--trials", "5", "--json", "--enqueue", wanted))
    assert longer["trials"][4]["decisions"] == {"x": 0.75, "kind": "b"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('[{"x": 0.5}, {"kind": "z"}]', ["candidate 1: decision 'kind'", "['a', 'b']"]),
        ('[{"kin": "a"}]', ["candidate 0", "nearest labels: 'kind'"]),
        ("[1]", ["candidate 0 is a int"]),
        ('"x"', ["it holds a str"]),
        ("{", ["this is not JSON"]),
    ],
)
def test_wrong_candidates(content: str, says: list[str], out: Path, file: Path) -> None:
    before = succeed("show", out, "--json")
    wanted = file.with_name("wanted.json")
    wanted.write_text(content)
    result = invoke(
        "run", file, "--out", out, "--trials", "9", "--strategy", "random", "--enqueue", wanted
    )
    assert result.exit_code == 2
    assert all(each in result.output for each in says), result.output
    assert succeed("show", out, "--json") == before


def test_a_warm_start_says_what_it_takes_over(out: Path, file: Path, tmp_path: Path) -> None:
    file.write_text(SPACE.replace("uniform(0.0, 1.0)", "uniform(0.0, 1.5)"))
    new = tmp_path / "new"
    result = invoke("run", file, "--out", new, "--trials", "2", "--continue-from", out)
    assert result.exit_code == 0, result.output
    assert f"8 trials of {out} are taken over" in result.stderr
    assert "complete, from 0 of the earlier search" in succeed("show", new)
    shown = json.loads(succeed("show", new, "--json"))
    assert [t.get("carried_from") for t in shown["trials"]] == [*range(8), None, None]


def test_a_helper_that_changed_makes_scores_hints(out: Path, file: Path, tmp_path: Path) -> None:
    file.write_text(SPACE.replace("STEPS = 3", "STEPS = 4"))
    result = invoke("run", file, "--out", tmp_path / "new", "--trials", "8", "--continue-from", out)
    assert result.exit_code == 0, result.output
    assert "2 of its best are evaluated again first (space.py: STEPS has changed)" in result.stderr


def test_confirmed(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = succeed("run", file, "--out", out, "--trials", "8", "--confirm", "3")
    assert "trained again from 3 seeds, mean and deviation of score:" in text
    shown = json.loads(succeed("show", out, "--json"))
    assert shown["confirmed"] is True
    best = shown["best"]["confirmed"]
    assert len(best["scores"]) == best["runs"] == 3
    means = [t["confirmed"]["mean"] for t in shown["trials"] if "confirmed" in t]
    assert best["mean"] == max(means)
    assert f"best: trial {shown['best']['id']}, " in text
    assert "over 3 seeds" in succeed("show", out)


def test_a_trial_alone_says_what_confirming_it_showed(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    succeed("run", file, "--out", out, "--trials", "6", "--confirm", "2")
    best = json.loads(succeed("show", out, "--json"))["best"]["id"]
    assert "confirmed: " in succeed("show", out, "--trial", str(best))
