"""Every mistake of a user: exit code 2; cause, place and what to do on stderr; no traceback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from retiarii.cli import app

SpaceFile = Callable[..., Path]
Change = tuple[str, str]


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def assert_told(result: Result, *says: str) -> None:
    """Three kinds of lines on stderr, all of ``says`` among them, and exit code 2."""
    assert result.exit_code == 2, f"{result.exit_code}: {result.output}"
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert sum(line.startswith("  at: ") for line in lines) == 1, result.stderr
    assert sum(line.startswith("  fix: ") for line in lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for text in says:
        assert text in result.stderr, f"{text!r} is not in:\n{result.stderr}"


@dataclass(frozen=True)
class Mistake:
    """One mistake in a space file, and what must be said."""

    name: str
    changes: tuple[Change, ...]
    says: tuple[str, ...]
    kind: str = "lookup"
    options: tuple[str, ...] = field(default=())


WIDEN = 'graph.update(target, out_features=self.choice([2, 4, 8, 16], label="width"))'
FILE_MISTAKES = (
    Mistake(
        "syntax error",
        (("class Widen(rt.Mutator):", "class Widen(rt.Mutator:"),),
        ("syntax error", "space.py:9"),
    ),
    Mistake(
        "missing import",
        (("from torch import nn", "from torch import nn\nimport no_such_package"),),
        ("no_such_package", "space.py:5", "install"),
    ),
    Mistake(
        "raises", (("evaluator = ", "1 / 0\nevaluator = "),), ("ZeroDivisionError", "space.py:23")
    ),
    Mistake(
        "no space",
        (("space = rt", "my_space = rt"), ("space.apply", "my_space.apply")),
        ("no `space`", "rename `my_space`"),
    ),
    Mistake(
        "no evaluator",
        (("evaluator = rt.Function(score)", ""),),
        ("no `evaluator`", "rt.Supervised"),
    ),
    Mistake(
        "space of a wrong type",
        (("evaluator = ", "space = space.graph\nevaluator = "),),
        ("`space` is of type Graph",),
    ),
    Mistake(
        "evaluator of a wrong type",
        (("evaluator = rt.Function(score)", "evaluator = score"),),
        ("`evaluator` is of type function",),
    ),
    Mistake(
        "unknown target",
        (('apply_mutator("0"', 'apply_mutator("first"'),),
        ("'first'", "nearest", "space.py:22"),
    ),
    Mistake("empty options", (("[2, 4, 8, 16]", "[]"),), ("without options", "Widen/0/width")),
    Mistake(
        "a label with two lists of options",
        ((WIDEN, f'{WIDEN}\n        self.choice([1, 2], label="width")'),),
        ("Widen/0/width", "two different lists"),
    ),
    Mistake(
        "a mutator that raises",
        ((WIDEN, 'self.choice([1, 2], label="a")\n        raise ValueError("no idea")'),),
        ("Widen", "ValueError: no idea", "space.py:12"),
    ),
    Mistake(
        "a cycle",
        ((WIDEN, 'graph.rewire(target, 0, graph.node("1"))'),),
        ("Widen", "follow from itself"),
    ),
    Mistake(
        "shapes that cannot fit",
        (
            (WIDEN, "graph.replace(target, graph.insert(torch.flatten, target.inputs[0]))"),
            ("nn.Linear(4, 2)", "nn.Linear(4, 2), nn.LayerNorm(2), nn.Unflatten(1, (2, 1))"),
        ),
        ("Widen",),
    ),
    Mistake(
        "empty data",
        (("    (x, y),\n    (x, y),", "    (x[:0], y[:0]),\n    (x, y),"),),
        ("train_data is empty",),
        "trained",
    ),
    Mistake(
        "labels out of range",
        (("(x.sum(1) > 0).long()", "(x.sum(1) > 0).long() * 2"),),
        ("label 2 is out of range", "2 outputs"),
        "trained",
    ),
    Mistake(
        "wrong learning rate", (("lr=0.1", "lr=-0.1"),), ("lr is -0.1", "SGD(lr=...)"), "trained"
    ),
    Mistake(
        "wrong range",
        (("lr=0.1", "lr=rt.loguniform(0.0, 0.1)"),),
        ("above 0", "use uniform"),
        "trained",
    ),
    Mistake("wrong epochs", (("epochs=2", "epochs=0"),), ("epochs is 0",), "trained"),
    Mistake(
        "unknown metric",
        (('metric="accuracy"', 'metric="acuracy"'),),
        ("'acuracy'", "nearest: 'accuracy'"),
        "trained",
    ),
    Mistake(
        "unknown strategy",
        (),
        ("'evolve'", "nearest: 'evolution'"),
        options=("--strategy", "evolve"),
    ),
    Mistake("no trials", (), ("trials is 0", "--trials 0"), options=("--trials", "0")),
    Mistake("negative trials", (), ("trials is -3", "--trials -3"), options=("--trials", "-3")),
    Mistake("no cohort", (), ("cohort is 0", "--cohort 0"), options=("--cohort", "0")),
    Mistake("no workers", (), ("workers is 0", "--workers 0"), options=("--workers", "0")),
    Mistake("negative retries", (), ("retries is -1",), options=("--retries", "-1")),
)


@pytest.mark.parametrize("mistake", FILE_MISTAKES, ids=lambda m: m.name.replace(" ", "-"))
def test_run_tells_the_mistake(mistake: Mistake, space_file: SpaceFile, tmp_path: Path) -> None:
    file = space_file(mistake.kind, *mistake.changes)
    result = invoke("run", file, "--out", tmp_path / "out", *mistake.options)
    assert_told(result, *mistake.says)


def test_file_that_is_not_there(space_file: SpaceFile, tmp_path: Path) -> None:
    space_file("lookup")
    for command in ("run", "inspect"):
        result = invoke(command, tmp_path / "spaec.py")
        assert_told(result, "no such file", "spaec.py", "nearest: 'space.py'")


def test_file_that_is_not_python(tmp_path: Path) -> None:
    text = tmp_path / "space.txt"
    text.write_text("space = 1")
    assert_told(invoke("run", text), "not a Python file", "space.txt")


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    assert_told(invoke("run", tmp_path), "folder", "space.py")


def test_directory_that_cannot_be_made(space_file: SpaceFile, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    result = invoke("run", space_file("lookup"), "--out", tmp_path / "taken")
    assert_told(result, "taken", "choose a directory")


def test_another_search_in_the_directory(space_file: SpaceFile, tmp_path: Path) -> None:
    file = space_file("lookup")
    assert invoke("run", file, "--out", tmp_path / "out", "--trials", "2").exit_code == 0
    result = invoke("run", file, "--out", tmp_path / "out", "--trials", "2", "--seed", "1")
    assert_told(result, "another search", "seed: was 0, is 1", str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("show", "{dir}/none"), ("no search", "none")),
        (("export", "{dir}/none", "--to", "{dir}/best"), ("no search",)),
        (("show", "{dir}/out", "--trial", "7"), ("no trial 7", "0 to 1")),
        (("show", "{dir}/out", "--json", "--csv"), ("--json --csv",)),
        (("export", "{dir}/out", "--trial", "7", "--to", "{dir}/best"), ("no trial 7",)),
        (("export", "{dir}/out", "--to", "{dir}/full"), ("not empty", "--force")),
        (("export", "{dir}/out", "--to", "{dir}/space.py"), ("a file, not a folder",)),
        (("inspect", "{dir}/space.py", "--svg", "{dir}/none/net.svg"), ("picture", "net.svg")),
    ],
    ids=lambda v: (
        "-".join(v).replace("{dir}/", "") if v[0] in ("show", "export", "inspect") else ""
    ),
)
def test_directories(
    words: tuple[str, ...], says: tuple[str, ...], space_file: SpaceFile, tmp_path: Path
) -> None:
    file = space_file("lookup")
    assert invoke("run", file, "--out", tmp_path / "out", "--trials", "2").exit_code == 0
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    result = invoke(*(word.format(dir=tmp_path) for word in words))
    assert_told(result, *says)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_export_after_the_space_has_changed(space_file: SpaceFile, tmp_path: Path) -> None:
    file = space_file("lookup")
    assert invoke("run", file, "--out", tmp_path / "out", "--trials", "1").exit_code == 0
    export = ("export", tmp_path / "out", "--to", tmp_path / "best")
    space_file("lookup", ("nn.ReLU()", "nn.Tanh()"))
    assert_told(invoke(*export), "has changed", "--space")
    file.unlink()
    assert_told(invoke(*export), "not there any more", "--space")


def test_unknown_option_is_a_mistake_too(space_file: SpaceFile) -> None:
    result = invoke("run", space_file("lookup"), "--trails", "3")
    assert result.exit_code == 2
    assert "--trails" in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback(space_file: SpaceFile) -> None:
    file = space_file("lookup", ("evaluator = ", "1 / 0\nevaluator = "))
    result = invoke("inspect", file, "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert "ZeroDivisionError" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("  fix: ")


def test_loss_that_becomes_nan_is_a_failed_trial(space_file: SpaceFile, tmp_path: Path) -> None:
    file = space_file(
        "trained", ("nn.CrossEntropyLoss()", "lambda o, t: (o.sum() - o.sum()) / 0 * t.sum()")
    )
    result = invoke("run", file, "--out", tmp_path / "out", "--trials", "1", "--retries", "0")
    assert result.exit_code == 1, result.output
    assert "trial 0 failed" in result.stderr
    assert "nan" in result.stderr.lower()
    assert "Traceback" not in result.stderr
