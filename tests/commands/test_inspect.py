"""What `inspect` says of costs, of parts that are the same, and of constraints."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from retiarii.cli import app
from retiarii.commands.anatomy import Anatomy, in_bytes, scaled
from retiarii.ir.parse import parse

SpaceFile = Callable[..., Path]


def inspect(*words: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["inspect", *map(str, words)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.fc = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.fc(x)) * self.gain + x


def net(blocks: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Sequential(*(Block() for _ in range(blocks))))


def test_the_table_folds_what_is_the_same() -> None:
    anatomy = Anatomy.of(parse(net(), torch.zeros(2, 4)), None)
    head, *rows = anatomy.table()
    assert head.split() == ["params", "FLOPs", "activations"]
    cells = [re.split(r"\s{2,}", row.strip()) for row in rows]
    assert cells == [
        ["0: Linear", "40", "128", "64 B"],
        ["1: 15 nodes", "219", "768", "768 B"],
        ["1.0 .. 1.2: 3 x the same 5 nodes", "219", "768", "768 B"],
        ["1.0.gain: parameter", "1", "0", "0 B"],
        ["1.0.fc: Linear", "72", "256", "64 B"],
    ]


def test_a_long_table_is_cut_and_says_so() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(100)))
    lines = Anatomy.of(parse(model, torch.zeros(2, 4)), None).table()
    assert lines[-1] == "... and 20 more rows: see --json"
    assert len(lines) == 82


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (9999, "9,999"), (10_000, "10 k"), (12_345_678, "12.3 M"), (4.1e9, "4.1 G")],
)
def test_large_numbers_are_short(number: int, text: str) -> None:
    assert scaled(int(number)) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1023 * 1024, "1023 KiB"), (2**31, "2 GiB")],
)
def test_bytes_are_short(number: int, text: str) -> None:
    assert in_bytes(number) == text


def test_it_shows_costs(space_file: SpaceFile) -> None:
    shown = inspect(space_file("lookup"))
    assert re.search(r"FLOPs +80 \(2 samples, forward\)", shown)
    assert re.search(r"0: Linear +16 +48 +32 B", shown)
    assert "latency" not in shown
    assert "not counted" not in shown


def test_it_measures_where_asked(space_file: SpaceFile, own_cache: None) -> None:
    shown = inspect(space_file("lookup"), "--latency", "cpu")
    assert re.search(r"latency +\d+\.\d{3} ms", shown)
    assert re.search(r"0: Linear +16 +48 +32 B +\d+\.\d{3}", shown)
    assert "nothing can run on" in inspect(space_file("lookup"), "--latency", "toaster", code=2)


def test_json_has_costs_and_regions(space_file: SpaceFile) -> None:
    graph = json.loads(inspect(space_file("lookup"), "--json"))["graph"]
    assert graph["parameters"] == graph["cost"]["params"] == 26
    assert graph["cost"]["flops"] == sum(row["flops"] for row in graph["cost"]["nodes"]) == 80
    assert graph["regions"]["nodes"] == ["input", "0", "1", "2"]
    assert len(graph["regions"]["hash"]) == 32


def required(text: str) -> tuple[str, str]:
    return ('space.apply_mutator("0", Widen())', f'space.apply_mutator("0", Widen())\n{text}')


def test_constraints_are_shown_and_counted(space_file: SpaceFile) -> None:
    file = space_file("lookup", required("space.require(lambda c: c.cost().params < 60)"))
    shown = inspect(file)
    assert "3 models" in shown
    assert "counting visits all of them" in shown
    assert "  c.cost().params < 60" in shown
    as_json = json.loads(inspect(file, "--json"))
    assert (as_json["models"], as_json["exact"]) == (3, True)
    assert as_json["constraints"] == ["c.cost().params < 60"]


def test_counting_ends_where_nothing_meets_them(space_file: SpaceFile) -> None:
    """A large space without a single model: said in time, and as a bound."""
    file = space_file(
        "lookup",
        (
            "evaluator = ",
            "def make():\n    for i in range(20):\n"
            '        rt.choice([1, 2, 3, 4], label=f"c{i}")\n    return nn.Linear(3, 2)\n\n\n'
            "space = rt.ModelSpace(make, example_inputs=torch.zeros(2, 3))\n"
            "space.require(lambda c: c.cost().params < 0)\nevaluator = ",
        ),
    )
    shown: Any = json.loads(inspect(file, "--seconds", "0.5", "--json"))
    assert (shown["models"], shown["exact"]) == (0, False)
    assert shown["infeasible"]["count"] == shown["infeasible"]["of"] > 0


def test_a_constraint_that_raises_is_a_users_mistake(space_file: SpaceFile) -> None:
    file = space_file("lookup", required('space.require(lambda c: c.decisions["depth"] > 1)'))
    shown = inspect(file, code=2)
    assert "raised KeyError" in shown
    assert "space.py:" in shown
