"""The command line as a user meets it: run, resume, show, inspect, export."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from retiarii import Graph, __version__
from retiarii.cli import app
from retiarii.commands.common import command_line, seconds_text
from retiarii.commands.run import default_directory

SpaceFile = Callable[..., Path]


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def succeed(*words: str | Path) -> Result:
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def searched(space_file: SpaceFile, tmp_path: Path) -> Path:
    """The directory of a finished search over four widths, scored by their number."""
    succeed("run", space_file("lookup"), "--out", tmp_path / "out", "--strategy", "grid")
    return tmp_path / "out"


# --- run -------------------------------------------------------------------------------------


def test_run_ends_with_the_best_and_the_next_command(space_file: SpaceFile, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = succeed("run", space_file("lookup"), "--out", out, "--strategy", "grid")
    assert "best: trial 3, score 16" in result.stdout
    assert re.search(r"Widen/0/width +16", result.stdout)
    assert "the space is used up" in result.stdout
    assert f"retiarii export {out} --to best" in result.stdout
    assert "4/64  trial 3: score 16" in result.stderr


def test_run_again_changes_nothing_and_more_trials_extend(
    space_file: SpaceFile, tmp_path: Path
) -> None:
    words = ("run", space_file("lookup"), "--out", tmp_path / "out", "--strategy", "random")
    succeed(*words, "--trials", "2")
    before = json.loads(succeed("show", tmp_path / "out", "--json").stdout)
    again = succeed(*words, "--trials", "2")
    assert "resuming: 2 of 2 trials are done" in again.stderr
    assert json.loads(succeed("show", tmp_path / "out", "--json").stdout) == before
    succeed(*words, "--trials", "4")
    after = json.loads(succeed("show", tmp_path / "out", "--json").stdout)
    assert after["trials"][:2] == before["trials"]
    assert len(after["trials"]) == 4


def test_run_with_json_prints_json_alone(space_file: SpaceFile, tmp_path: Path) -> None:
    result = succeed(
        "run", space_file("lookup"), "--out", tmp_path / "o", "--trials", "2", "--json"
    )
    assert json.loads(result.stdout) == json.loads(succeed("show", tmp_path / "o", "--json").stdout)
    assert "1/2" in result.stderr


def test_failures_are_told_and_the_search_goes_on(space_file: SpaceFile, tmp_path: Path) -> None:
    file = space_file(
        "lookup",
        (
            "    return float(",
            '    assert trial.decisions["Widen/0/width"] > 2, "too thin"\n    return float(',
        ),
    )
    result = succeed("run", file, "--out", tmp_path / "out", "--strategy", "grid", "--retries", "0")
    assert "trial 0 failed: AssertionError: too thin" in result.stderr
    assert "1 failed" in result.stdout
    shown = succeed("show", tmp_path / "out", "--trial", "0").stdout
    assert "too thin" in shown
    assert "Traceback" in shown
    assert "space.py" in shown


def test_no_complete_trial_is_code_1(space_file: SpaceFile, tmp_path: Path) -> None:
    file = space_file(
        "lookup", ("    return float(", '    raise KeyError("gone")\n    return float(')
    )
    result = invoke("run", file, "--out", tmp_path / "out", "--trials", "2", "--retries", "0")
    assert result.exit_code == 1
    assert "no trial is complete" in result.stderr
    assert "gone" in result.stderr
    assert "retiarii show" in result.stderr
    assert "Traceback" not in result.stderr


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(
    space_file: SpaceFile, tmp_path: Path
) -> None:
    stop = (
        "    return float(",
        '    import os\n    if trial.number == 2 and not os.environ.get("GO_ON"):\n'
        "        raise KeyboardInterrupt\n    return float(",
    )
    file, out = space_file("lookup", stop), tmp_path / "out"
    words = ("run", file, "--out", out, "--strategy", "grid", "--seed", "5")
    result = invoke(*words)
    assert result.exit_code == 130
    assert f"2 of 64 trials are finished, and kept in {out}" in result.stderr
    assert f"to go on: retiarii run {file} --out {out} --strategy grid --seed 5" in result.stderr
    result = CliRunner().invoke(app, [str(w) for w in words], env={"GO_ON": "1"})
    assert result.exit_code == 0, result.output
    assert "resuming: 2 of 64" in result.stderr
    assert "best: trial 3, score 16" in result.stdout


def test_workers_run_in_processes(space_file: SpaceFile, tmp_path: Path) -> None:
    file = space_file(
        "lookup", ("    return float(", "    import os\n    print(os.getpid())\n    return float(")
    )
    result = succeed(
        "run", file, "--out", tmp_path / "out", "--workers", "2", "--trials", "3",
        "--executor", "local",
    )  # fmt: skip
    # What they print is in the logs, and not between the lines of the progress.
    assert not [line for line in result.output.splitlines() if line.strip().isdecimal()]
    printed = {path.read_text().strip() for path in (tmp_path / "out/logs").glob("trial-*.log")}
    assert all(pid.isdecimal() for pid in printed)
    assert str(os.getpid()) not in printed
    shown = succeed("show", tmp_path / "out", "--trial", "1").output
    assert f"log: {tmp_path / 'out/logs/trial-00001.log'}" in shown
    assert "best: " in result.stdout


@pytest.mark.parametrize(
    ("file", "directory"),
    [("nets/space.py", "runs/nets"), ("nets/wide.py", "runs/wide")],
)
def test_default_directory(file: str, directory: str) -> None:
    assert default_directory(Path(file)) == Path(directory)


# --- show ------------------------------------------------------------------------------------


def test_show_json_has_the_promised_shape(searched: Path) -> None:
    shown = json.loads(succeed("show", searched, "--json").stdout)
    assert list(shown) == ["space", "strategy", "metric", "trials", "best"]
    assert (shown["strategy"], shown["metric"]) == ("grid", "score")
    assert shown["space"].endswith("space.py")
    assert len(shown["trials"]) == 4
    for each in shown["trials"]:
        assert list(each)[:7] == [
            "id",
            "state",
            "decisions",
            "score",
            "metrics",
            "seconds",
            "error",
        ]
        assert each["state"] == "complete"
        assert each["score"] == each["decisions"]["Widen/0/width"] == each["metrics"]["score"]
    assert shown["best"] == shown["trials"][3]


def test_show_csv(searched: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(succeed("show", searched, "--csv").stdout)))
    assert [row["decisions.Widen/0/width"] for row in rows] == ["2", "4", "8", "16"]
    assert [float(row["metrics.score"]) for row in rows] == [2, 4, 8, 16]
    assert {row["state"] for row in rows} == {"complete"}


def test_show_table_is_best_first(searched: Path) -> None:
    lines = succeed("show", searched).stdout.splitlines()
    assert [line.split()[:3] for line in lines[1:5]] == [
        ["3", "16", "complete"],
        ["2", "8", "complete"],
        ["1", "4", "complete"],
        ["0", "2", "complete"],
    ]
    assert "Widen/0/width=16" in lines[1]
    assert "4 trials: 4 complete" in lines[5]
    assert "and 2 more" in succeed("show", searched, "--top", "2").stdout


def test_show_one_trial(searched: Path) -> None:
    shown = succeed("show", searched, "--trial", "2").stdout
    assert "trial 2: complete" in shown
    assert "Widen/0/width = 8" in shown
    assert "step 1: half 4" in shown
    as_json = json.loads(succeed("show", searched, "--trial", "2", "--json").stdout)
    assert as_json["history"] == [{"step": 1, "half": 4.0}]


# --- inspect ---------------------------------------------------------------------------------


def test_inspect_says_size_choices_and_base_model(space_file: SpaceFile) -> None:
    shown = succeed("inspect", space_file("lookup")).stdout
    assert "4 models" in shown
    assert "Widen/0/width  2, 4, 8, 16" in shown
    assert re.search(r"parameters +26\b", shown)  # 3 * 4 + 4 + 4 * 2 + 2
    assert "float32[2, 3]" in shown
    assert "opaque" not in shown


def test_inspect_json(space_file: SpaceFile) -> None:
    file = space_file(
        "lookup",
        ("rt.Function(score)", 'rt.Function(score, hyperparameters={"x": rt.uniform(0, 2)})'),
    )
    shown = json.loads(succeed("inspect", file, "--seed", "1", "--json").stdout)
    assert (shown["models"], shown["exact"]) == (4, True)
    assert shown["choices"]["Widen/0/width"] == {"size": 4, "options": [2, 4, 8, 16]}
    assert shown["choices"]["x"] == {"low": 0, "high": 2, "log": False}
    width = shown["decisions"]["Widen/0/width"]
    assert shown["graph"]["parameters"] == 3 * width + width + width * 2 + 2


def test_inspect_text_reads_back(space_file: SpaceFile) -> None:
    file = space_file("lookup")
    base = succeed("inspect", file, "--text").stdout
    assert str(Graph.from_text(base)) == base
    sampled = {succeed("inspect", file, "--text", "--seed", str(seed)).stdout for seed in range(6)}
    assert len(sampled) > 1
    assert all(str(Graph.from_text(text)) == text for text in sampled)


def test_inspect_draws(space_file: SpaceFile, tmp_path: Path) -> None:
    shown = succeed("inspect", space_file("lookup"), "--svg", tmp_path / "net.svg").stdout
    assert str(tmp_path / "net.svg") in shown
    assert (tmp_path / "net.svg").read_text().startswith("<svg")


def test_inspect_says_why_decisions_are_infeasible(space_file: SpaceFile) -> None:
    file = space_file(
        "lookup",
        (
            "        graph.update(",
            '        if self.choice([0, 1], label="bad"):\n'
            '            raise rt.InfeasibleError("never together")\n        graph.update(',
        ),
    )
    shown = succeed("inspect", file).stdout
    assert "4 models" in shown
    assert "infeasible: " in shown
    assert "never together" in shown


def test_inspect_shows_opaque_parts_with_reasons(space_file: SpaceFile) -> None:
    file = space_file(
        "lookup",
        (
            "class Widen",
            "class Odd(nn.Module):\n    def forward(self, x):\n"
            "        return torch.from_numpy(x.detach().numpy() + 1)\n\n\nclass Widen",
        ),
        ("nn.ReLU(), nn.Linear", "Odd(), nn.Linear"),
    )
    shown = succeed("inspect", file).stdout
    assert re.search(r"opaque.*\n  1: ", shown)
    assert (
        json.loads(succeed("inspect", file, "--json").stdout)["graph"]["opaque"][0]["node"] == "1"
    )


def test_inspect_counts_with_a_bound_in_time(space_file: SpaceFile) -> None:
    file = space_file(
        "lookup",
        (
            "evaluator = ",
            "def make():\n    for i in range(20):\n"
            '        rt.choice([1, 2, 3, 4], label=f"c{i}")\n    return nn.Linear(3, 2)\n\n\n'
            "space = rt.ModelSpace(make, example_inputs=torch.zeros(2, 3))\nevaluator = ",
        ),
    )
    shown = json.loads(succeed("inspect", file, "--seconds", "0.5", "--json").stdout)
    assert shown["exact"] is False
    assert 0 < shown["models"] < 4**20
    assert len(shown["choices"]) == 20


# --- export ----------------------------------------------------------------------------------


@pytest.fixture
def trained(space_file: SpaceFile, tmp_path: Path) -> Path:
    succeed("run", space_file("trained"), "--out", tmp_path / "out", "--strategy", "grid")
    return tmp_path / "out"


def test_export_runs_without_retiarii(trained: Path, tmp_path: Path) -> None:
    best = tmp_path / "best"
    result = succeed("export", trained, "--to", best)
    assert "usage.py" in result.stdout
    assert sorted(p.name for p in best.iterdir()) == [
        "decisions.json",
        "model.py",
        "usage.py",
        "weights.safetensors",
    ]
    # -I keeps the working copy and PYTHONPATH out; the finder refuses an installed retiarii.
    script = (
        "import runpy, sys\nsys.modules['retiarii'] = None\n"
        f"sys.path.insert(0, {str(best)!r})\nrunpy.run_path({str(best / 'usage.py')!r})\n"
        "assert not [m for m in sys.modules if m.startswith('retiarii.')]"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tensor(")


def test_exported_decisions_and_choice_of_trial(trained: Path, tmp_path: Path) -> None:
    shown = json.loads(succeed("show", trained, "--json").stdout)
    for each in shown["trials"]:
        out = tmp_path / f"trial{each['id']}"
        succeed("export", trained, "--trial", str(each["id"]), "--to", out)
        written = json.loads((out / "decisions.json").read_text())
        assert written["decisions"] == each["decisions"]
        assert (written["metric"], written["score"]) == ("accuracy", each["score"])
        assert written["metrics"] == each["metrics"]
        assert written["weights"] == "trained"
        assert (
            f"nn.Linear(3, {each['decisions']['Widen/0/width']})" in (out / "model.py").read_text()
        )


def test_export_with_force_keeps_other_files(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "best"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "model.py").write_text("old")
    succeed("export", trained, "--to", out, "--force")
    assert (out / "notes.txt").read_text() == "mine"
    assert "class Model" in (out / "model.py").read_text()


def test_export_of_a_function_says_that_weights_are_initial(searched: Path, tmp_path: Path) -> None:
    result = succeed("export", searched, "--to", tmp_path / "best")
    assert "initial" in result.stdout
    assert json.loads((tmp_path / "best" / "decisions.json").read_text())["weights"] == "initial"


def test_export_finds_a_space_that_was_moved(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "space.py").rename(tmp_path / "moved.py")
    succeed("export", trained, "--to", tmp_path / "best", "--space", tmp_path / "moved.py")


# --- bench -----------------------------------------------------------------------------------


def test_bench_lists_and_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "compile" in succeed("bench").stdout
    (tmp_path / "echo.py").write_text(
        '"""Says it again.\n\nAnd more."""\nraise SystemExit(len(__import__("sys").argv))'
    )
    monkeypatch.setattr("retiarii.commands.bench._folder", lambda: tmp_path)
    assert succeed("bench").stdout == "echo  Says it again.\n"
    assert invoke("bench", "echo", "--seconds", "3").exit_code == 3
    wrong = invoke("bench", "ehco")
    assert (wrong.exit_code, "nearest: 'echo'" in wrong.stderr) == (2, True)
    (tmp_path / "echo.py").unlink()
    assert "source" in invoke("bench").stderr


# --- small things ----------------------------------------------------------------------------


def test_version_and_no_arguments() -> None:
    assert succeed("--version").stdout == f"retiarii {__version__}\n"
    assert "inspect" in invoke().output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "250 ms"), (1.24, "1.2 s"), (42.3, "42 s"), (600.0, "10 min"), (9000.0, "2.5 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_next_command_is_one_that_the_shell_finds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "bin" / "retiarii"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(program), "run"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert command_line("show", "my runs") == "bin/retiarii show 'my runs'"
    monkeypatch.setenv("PATH", str(program.parent))
    assert command_line("show", "x") == "retiarii show x"
