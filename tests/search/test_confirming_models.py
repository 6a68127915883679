"""Confirmation and warm starts with models that are trained, and their weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from retiarii.cli import app
from retiarii.result import open_result

SpaceFile = Callable[..., Path]


def succeed(*words: str | Path) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_confirmed_winner_is_exported(space_file: SpaceFile, tmp_path: Path) -> None:
    file, out = space_file("trained"), tmp_path / "out"
    succeed("run", file, "--out", out, "--strategy", "grid", "--confirm", "2")
    shown = json.loads(succeed("show", out, "--json"))
    assert shown["confirmed"] is True
    assert all(len(t["confirmed"]["scores"]) == 2 for t in shown["trials"])
    succeed("export", out, "--to", tmp_path / "best")
    report = json.loads((tmp_path / "best" / "decisions.json").read_text())
    assert (report["trial"], report["weights"]) == (shown["best"]["id"], "trained")
    own = load_file(out / "trials" / str(report["trial"]) / "weights.safetensors")
    exported = load_file(tmp_path / "best" / "weights.safetensors")
    assert own.keys() == exported.keys()
    assert all(torch.equal(own[name], exported[name]) for name in own)
    # each training began elsewhere
    files = sorted((out / "confirm" / "trials").glob("*/weights.safetensors"))
    assert len(files) == 4
    assert len({tuple(load_file(f)["0.bias"].tolist()) for f in files}) == 4


def test_fused_or_not_the_confirmation_is_the_same(space_file: SpaceFile, tmp_path: Path) -> None:
    file = space_file("trained", ('metric="accuracy"', 'metric="loss"'))
    found = []
    for fuse in ("auto", "off"):
        out = tmp_path / fuse
        succeed("run", file, "--out", out, "--strategy", "grid", "--confirm", "3", "--fuse", fuse)
        result = open_result(out)
        found.append({n: each.scores for n, each in result.confirmed.items()})
    assert found[0].keys() == found[1].keys()
    for number, scores in found[0].items():
        torch.testing.assert_close(
            torch.tensor(scores), torch.tensor(found[1][number]), rtol=1e-4, atol=1e-5
        )


def test_weights_come_along(space_file: SpaceFile, tmp_path: Path) -> None:
    file, old, new = space_file("trained"), tmp_path / "old", tmp_path / "new"
    succeed("run", file, "--out", old, "--strategy", "grid")
    before = open_result(old)
    weights = [t.load().state_dict() for t in before.trials]
    file.write_text(file.read_text().replace("[4, 8]", "[8, 4, 6]"))  # indices mean others now
    words = ("run", file, "--out", new, "--strategy", "grid", "--continue-from", old)
    succeed(*words, "--trials", "1")
    shutil.rmtree(old)
    after = open_result(new)
    assert [t.carried_from for t in after.trials] == [0, 1, None]
    assert after.trials[2].decisions == {"Widen/0/width": 6}
    for trial, mine in zip(after.trials, weights, strict=False):
        loaded = trial.load().state_dict()
        assert all(torch.equal(mine[name], loaded[name]) for name in mine)


def test_the_same_decisions_of_another_model_are_hints(
    space_file: SpaceFile, tmp_path: Path
) -> None:
    file, old, new = space_file("trained"), tmp_path / "old", tmp_path / "new"
    succeed("run", file, "--out", old, "--strategy", "grid")
    file.write_text(file.read_text().replace("nn.ReLU()", "nn.Tanh()"))
    succeed("run", file, "--out", new, "--strategy", "grid", "--continue-from", old)
    after = open_result(new)
    assert [t.carried_from for t in after.trials] == [None, None]
    best = open_result(old).best
    assert best is not None
    assert after.trials[0].decisions == best.decisions
