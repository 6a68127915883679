"""What the command line says beside its result: the next step, the way to a cause, the numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from retiarii import open_result
from retiarii.cli import app
from retiarii.errors import FileError

SpaceFile = Callable[..., Path]


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_infeasible_models_are_not_skipped_in_silence(
    space_file: SpaceFile, tmp_path: Path
) -> None:
    width = 'self.choice([2, 4, 8, 16], label="width")'
    file = space_file("lookup", (width, f"{{2: 2, 4: 4}}[{width}]"))
    result = invoke("run", file, "--out", tmp_path / "out", "--strategy", "grid")
    assert result.exit_code == 0, result.output
    assert "2 infeasible skipped" in result.stdout
    assert f"inspect {file}" in result.stdout
    assert "KeyError: 8" in invoke("inspect", file).stdout


def test_a_search_without_infeasible_models_says_nothing_of_them(
    space_file: SpaceFile, tmp_path: Path
) -> None:
    result = invoke("run", space_file("lookup"), "--out", tmp_path / "out", "--trials", "1")
    assert "1 trial: 1 complete" in result.stdout
    assert "inspect" not in result.stdout


def test_a_failure_leads_to_its_line_and_traceback(space_file: SpaceFile, tmp_path: Path) -> None:
    file = space_file(
        "lookup", ("    return float(", '    raise KeyError("gone")\n    return float(')
    )
    result = invoke("run", file, "--out", tmp_path / "out", "--trials", "2", "--retries", "0")
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if "gone" in text)
    assert f"  at: {file}:{line}" in result.stderr
    assert f"show {tmp_path / 'out'} --trial 0" in result.stderr


@pytest.mark.parametrize("top", ["0", "-1"])
def test_a_table_has_at_least_one_row(space_file: SpaceFile, tmp_path: Path, top: str) -> None:
    invoke("run", space_file("lookup"), "--out", tmp_path / "out", "--trials", "2")
    assert invoke("show", tmp_path / "out", "--top", top).exit_code == 2


def test_the_place_of_an_export_is_told_as_it_was_given(
    space_file: SpaceFile, tmp_path: Path
) -> None:
    invoke("run", space_file("trained"), "--out", tmp_path / "out", "--trials", "1")
    result = invoke("export", tmp_path / "out", "--to", tmp_path / "best")
    assert result.stdout.rstrip().endswith(f" {tmp_path / 'best' / 'usage.py'}")


def test_a_model_is_loaded_from_the_directory_alone(space_file: SpaceFile, tmp_path: Path) -> None:
    file = space_file("trained")
    invoke("run", file, "--out", tmp_path / "out", "--trials", "1")
    best = open_result(tmp_path / "out").best
    assert best is not None
    width = best.decisions["Widen/0/width"]
    assert any(p.shape[0] == width for p in best.load().parameters() if isinstance(p, torch.Tensor))


def test_a_model_whose_space_file_is_gone(space_file: SpaceFile, tmp_path: Path) -> None:
    file = space_file("trained")
    invoke("run", file, "--out", tmp_path / "out", "--trials", "1")
    file.unlink()
    best = open_result(tmp_path / "out").best
    assert best is not None
    with pytest.raises(FileError, match="not there any more") as caught:
        best.load()
    assert "rt.open_result(directory, space, evaluator)" in str(caught.value.fix)


@pytest.mark.parametrize("damage", ["damaged", "not there any more"])
def test_initial_weights_are_not_exported_as_trained_ones(
    space_file: SpaceFile, tmp_path: Path, damage: str
) -> None:
    invoke("run", space_file("trained"), "--out", tmp_path / "out", "--trials", "1")
    (weights,) = (tmp_path / "out").rglob("weights.safetensors")
    if damage == "damaged":
        weights.write_bytes(b"junk")
    else:
        weights.unlink()
    result = invoke("export", tmp_path / "out", "--to", tmp_path / "best")
    assert result.exit_code == 2, result.output
    assert damage in result.stderr
    assert f"  at: {weights}" in result.stderr
    assert not (tmp_path / "best").exists()
