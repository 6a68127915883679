"""`retiarii run` with objectives, constraints and proxies; `retiarii show --pareto`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from retiarii.cli import app

SPACE = """
import torch
from torch import nn
import retiarii as rt

class Widths(rt.Mutator):
    def mutate(self, graph, target):
        graph.update(target, out_features=self.choice([2, 4, 8, 16], label="width"))

model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
space = rt.ModelSpace(model, torch.zeros(2, 4)).apply_mutator(["0", "2"], Widths())

def score(trial):
    return {"score": float(sum(trial.decisions.values())), "unevenness": 0.5}

evaluator = rt.Function(score)
"""
LIMITED = '\nobjectives = {"score": "max", "params": "min"}\nconstraints = ["params <= 120"]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "space.py"
    path.write_text(SPACE)
    return path


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def run(file: Path, *words: str, code: int = 0) -> Result:
    out = file.parent / "out"
    result = invoke("run", file, "--out", out, "--strategy", "random", "--trials", "10", *words)
    assert result.exit_code == code, result.output
    return result


def shown(file: Path, *words: str) -> str:
    result = invoke("show", file.parent / "out", *words)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_objectives_are_searched_and_shown(file: Path) -> None:
    said = run(file, "--objectives", "score=max,params=min").stdout
    assert "on the Pareto front" in said
    assert "--pareto" in said
    found = json.loads(shown(file, "--json"))
    assert found["objectives"] == {"score": "max", "params": "min"}
    assert found["hypervolume"][-1][0] == 9
    alone = json.loads(shown(file, "--pareto", "--json"))
    assert [trial["id"] for trial in alone["pareto"]] == found["pareto"]
    assert alone["pareto"][0]["score"] == found["best"]["score"]
    assert alone["hypervolume"] == found["hypervolume"]
    head, *rows = shown(file, "--pareto").splitlines()
    assert head.split()[:5] == ["trial", "score", "(max)", "params", "(min)"]
    numbers = [int(row.split()[0]) for row in rows[: len(found["pareto"])]]
    assert numbers == found["pareto"]
    assert any(row.startswith("hypervolume: 0.") for row in rows)
    assert "more (--top" in shown(file, "--pareto", "--top", "1")


def test_with_one_score_the_front_is_the_best(file: Path) -> None:
    run(file)
    assert "objectives" not in json.loads(shown(file, "--json"))
    alone = json.loads(shown(file, "--pareto", "--json"))
    assert alone["objectives"] == {"score": "max"}
    assert len(alone["pareto"]) == 1
    assert shown(file, "--pareto").splitlines()[0].split()[:3] == ["trial", "score", "(max)"]


def test_the_file_says_it_and_the_command_line_comes_first(file: Path) -> None:
    file.write_text(SPACE + LIMITED)
    run(file)
    found = json.loads(shown(file, "--json"))
    assert found["objectives"] == {"score": "max", "params": "min"}
    assert max(t["metrics"]["params"] for t in found["trials"]) <= 120
    refused = run(file, "--objectives", "score=max,unevenness=min", code=2)
    assert "objectives: was" in refused.output
    other = invoke(
        "run", file, "--out", file.parent / "other", "--objectives", "score=max,unevenness=min",
        "--constraints", "params<=60", "--trials", "4", "--json",
    )  # fmt: skip
    assert other.exit_code == 0, other.output
    assert json.loads(other.stdout)["objectives"] == {"score": "max", "unevenness": "min"}


def test_worker_processes_find_the_same(file: Path) -> None:
    words = ("--objectives", "score=max,params=min", "--constraints", "params<=120")
    run(file, *words, "--cohort", "2", "--executor", "local")
    here = invoke(
        "run", file, "--out", file.parent / "here", "--strategy", "random", "--trials", "10",
        "--cohort", "2", *words, "--json",
    )  # fmt: skip
    assert here.exit_code == 0, here.output
    found = json.loads(shown(file, "--json"))
    assert found["pareto"] == json.loads(here.stdout)["pareto"]
    assert found["hypervolume"] == json.loads(here.stdout)["hypervolume"]


def test_proxies_on_the_command_line(file: Path) -> None:
    run(file, "--prefilter", "zen,times=2", "--warm-start", "synflow", "--cohort", "2")
    assert len(json.loads(shown(file, "--json"))["trials"]) == 10


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--objectives", "score"), "no direction"),
        (("--objectives", "score=min"), "the higher it is"),
        (("--objectives", "score=max,speed=max"), "'speed' is not reported"),
        (("--constraints", "params<=1"), "none of 1000 samples was feasible"),
        (("--constraints", "score>=1"), "not known before a model is trained"),
        (("--prefilter", "snap"), "no proxy 'snap'"),
        (("--prefilter", "snip"), "snip needs labelled data"),
        (("--warm-start", "zen,times=0"), "times=0"),
    ],
)
def test_mistakes(file: Path, words: tuple[str, ...], said: str) -> None:
    result = run(file, *words, code=2)
    assert said in result.output
    assert "fix:" in result.output
    assert not (file.parent / "out" / "search.db").exists()
    assert "objectives" not in json.loads(run(file, "--json").stdout)  # as if nothing had been
