"""What `inspect --merge` says of merging sampled models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from retiarii.cli import app

TEXT = """
import torch
from torch import nn
import retiarii as rt

torch.manual_seed(0)

class Odd(nn.Module):
    def forward(self, x):
        return x if x.detach().sum().item() > 0 else -x

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.odd = {odd}
        self.act = rt.LayerChoice({{"relu": nn.ReLU(), "tanh": nn.Tanh()}}, label="act")
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.act(self.odd(self.first(x.exp()))))

space = rt.ModelSpace(Net(), torch.zeros(2, 4))
data = torch.utils.data.TensorDataset(torch.randn(12, 4), torch.randint(0, 3, (12,)))
evaluator = rt.Supervised(
    data, data, loss=nn.CrossEntropyLoss(), optimizer=rt.SGD(lr=0.1), epochs=1, batch_size=6
)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "space.py"
    made.write_text(TEXT.format(odd="nn.Identity()"))
    return made


def inspect(*words: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["inspect", *map(str, words)])
    assert result.exit_code == code, result.output
    return result.output


def test_says_what_merging_does_and_why(file: Path) -> None:
    text = inspect(file, "--merge", "8")
    assert "8 models sampled with seeds 0 to 7" in text
    # exp, two Linear and an activation each; exp is computed once.
    assert "32 become 5" in text
    assert "7 calls that several models" in text
    assert "8 x Linear" in text
    assert "float32[2, 3]" in text
    assert "0:head, 1:head, 2:head and 5 more" in text
    assert "1 x exp: computed once for all models" in text
    assert "6 samples a step" in text
    assert "measuring is off" in text
    assert "run     eager: how long a step takes was not measured" in text


def test_json(file: Path) -> None:
    found = json.loads(inspect(file, "--merge", "8", "--seed", "3", "--json"))
    assert found["seeds"] == list(range(3, 11))
    assert found["batch"] == 6
    assert found["calls"] == {"before": 32, "after": 5}
    sizes = {(g["op"], g["size"]) for g in found["groups"]}
    assert ("Linear", 8) in sizes
    assert sum(size for op, size in sizes if op in ("relu", "tanh")) == 8
    assert all(len(g["members"]) == g["size"] for g in found["groups"])
    assert found["choice"]["fuse"] is True
    assert found["memory"]["parameters"] == 8 * 4 * (4 * 8 + 8 + 8 * 3 + 3)
    assert found["memory"]["peak"] > found["memory"]["parameters"]


def test_measures_where_that_is_wanted(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RETIARII_MEASURE", "2")
    monkeypatch.setenv("RETIARII_CACHE_DIR", str(tmp_path))
    found = json.loads(inspect(file, "--merge", "4", "--json"))
    choice = found["choice"]
    # An epoch of twelve samples does not repay compiling.
    assert "eager: compiling takes about" in found["execution"]
    assert " in 2 steps of " in found["execution"]
    assert choice["speed_up"] == choice["serial_seconds"] / choice["merged_seconds"]
    assert (
        f"{choice['speed_up']:.1f} times faster" in inspect(file, "--merge", "4")
        or not choice["fuse"]
    )


def test_says_what_runs_as_it_is(file: Path) -> None:
    file.write_text(TEXT.format(odd="Odd()"))
    text = inspect(file, "--merge", "3")
    assert "3 x opaque: it runs as it is: " in text
    assert "at most" in text


def test_without_models_it_is_refused(file: Path) -> None:
    text = file.read_text().replace(
        "space = rt.ModelSpace(Net(), torch.zeros(2, 4))", "space = None"
    )
    choice = 'rt.SGD(lr=rt.choice([0.1, 0.2], label="lr"))'
    file.write_text(text.replace("rt.SGD(lr=0.1)", choice))
    assert "no models to merge" in inspect(file, "--merge", "3", code=2)
