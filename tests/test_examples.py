"""The examples load in silence, and search, train and export."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from retiarii import Experiment
from retiarii.cli import app
from retiarii.runtime.source import load_space_file

EXAMPLES = Path(__file__).parents[1] / "examples"
FILES = sorted(EXAMPLES.glob("*/space.py"))

COUNTS = {
    # Four widths, and for each of two blocks one to three branches of four kinds.
    "digits": 4 * (4 + 4**2 + 4**3) ** 2,
    "digits_hpo": 1,
    # Activations, dropout rates, and four widths for each of up to three layers.
    "tabular": 3 * 3 * (1 + 4 + 4**2 + 4**3),
}


@pytest.fixture(params=FILES, ids=[f.parent.name for f in FILES])
def example(request: pytest.FixtureRequest) -> Path:
    file: Path = request.param
    return file


def test_every_example_is_known() -> None:
    assert {f.parent.name for f in FILES} == set(COUNTS)


def test_loads_in_silence_and_says_how_it_is_run(
    example: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load_space_file(example)
    assert capfd.readouterr() == ("", "")
    text = example.read_text()
    assert text.startswith('"""')
    assert f"retiarii run examples/{example.parent.name}/space.py" in text


def test_counts(example: Path) -> None:
    space = load_space_file(example).space
    assert space is not None
    assert space.count() == COUNTS[example.parent.name]


def test_base_has_no_opaque_parts(example: Path) -> None:
    space = load_space_file(example).space
    assert space is not None
    assert space.graph.opaque == ()


def test_samples_train_and_export(example: Path, tmp_path: Path) -> None:
    loaded = load_space_file(example)
    # Two trials and a shorter training; all else as in the file.
    text = re.sub(r"epochs=\d+", "epochs=1", example.read_text())
    (tmp_path / "space.py").write_text(text)
    words = ["run", str(tmp_path / "space.py"), "--out", str(tmp_path / "out"), "--trials", "2"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert f"best {loaded.evaluator.metric} " in result.stdout
    words = ["export", str(tmp_path / "out"), "--to", str(tmp_path / "best")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output


def test_tabular_learns_something() -> None:
    """Better than always predicting the mean: the score is one that a search can improve."""
    loaded = load_space_file(EXAMPLES / "tabular" / "space.py")
    torch.manual_seed(0)
    result = Experiment(loaded.space, loaded.evaluator, strategy="random", trials=2).run()
    assert result.best is not None
    assert result.best.score is not None
    assert result.best.score < 60.0  # the mean is off by 63 points


def test_merging_by_hand_ends_with_the_weights_of_training_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = EXAMPLES / "merge_by_hand" / "train.py"
    names = runpy.run_path(str(file))
    assert (
        capsys.readouterr().out.splitlines()[-1]
        == "trained alone, the convolutional one has the same weights"
    )
    assert [type(m) for m in names["trained"]] == [type(m) for m in names["models"]]
    for model, before in zip(names["trained"], names["models"], strict=True):
        assert all(
            not torch.equal(a, b)
            for a, b in zip(model.parameters(), before.parameters(), strict=True)
        )
    assert f"python examples/{file.relative_to(EXAMPLES)}" in file.read_text()
