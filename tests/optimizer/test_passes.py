"""What each pass makes of two tiny models, as text. ``RETIARII_GOLDEN=write`` writes it anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from retiarii.ir.parse import parse
from retiarii.optimizer.dedup import dedup
from retiarii.optimizer.group import group
from retiarii.optimizer.layout import layout
from retiarii.optimizer.lift import Model, lift
from retiarii.optimizer.lower import lower
from retiarii.optimizer.merge import merge
from retiarii.optimizer.simplify import simplify
from retiarii.optimizer.storage import store

GOLDEN = Path(__file__).parent / "golden"
X = torch.zeros(2, 3, 4, 4)


class Cell(nn.Module):
    """A frozen stem, two branches of which one is a zero, and a head."""

    def __init__(self, branch: nn.Module, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 1).requires_grad_(False)
        self.branch = branch
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        both = self.norm(self.branch(stem)) + torch.relu(stem * 0.0)
        return self.head(both.mean((2, 3)))


def models() -> list[Cell]:
    pool, conv = nn.MaxPool2d(3, 1, 1), nn.Conv2d(4, 4, 3, padding=1)
    return [Cell(pool, 2), Cell(conv, 2)]


def passes() -> dict[str, str]:
    lifted = lift([Model.of(parse(m, X), m) for m in models()], True)
    simplified = simplify(lifted)
    deduplicated = dedup(simplified)
    grouped = group(deduplicated)
    laid = layout(grouped)
    return {
        "1_lift": str(lifted),
        "2_simplify": str(simplified),
        "3_dedup": str(deduplicated),
        "4_group": str(grouped),
        "5_layout": str(laid),
        "6_lower": lower(laid, store(laid)).source,
    }


@pytest.mark.parametrize("name", passes())
def test_text(name: str) -> None:
    got = passes()[name].rstrip("\n") + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("RETIARII_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(got)
    assert got == path.read_text()


def test_the_merged_model_has_this_source() -> None:
    assert merge(models(), X, fuse="on").source.rstrip("\n") == passes()["6_lower"].rstrip("\n")


def test_passes_print(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RETIARII_PRINT", "passes")
    merge(models(), X, fuse="on")
    printed = capsys.readouterr().err
    for name in ("1_lift", "2_simplify", "3_dedup", "5_layout", "6_lower"):
        assert passes()[name].rstrip() in printed
    monkeypatch.delenv("RETIARII_PRINT")
    merge(models(), X, fuse="on")
    assert capsys.readouterr().err == ""


def test_passes_leave_what_they_are_given() -> None:
    """Graphs and forests in, new ones out."""
    graphs = [parse(m, X) for m in models()]
    before = list(map(str, graphs))
    lifted = lift([Model.of(g, m) for g, m in zip(graphs, models(), strict=True)], True)
    text = str(lifted)
    layout(group(dedup(simplify(lifted))))
    assert str(lifted) == text
    assert list(map(str, graphs)) == before


def test_the_same_text_each_time() -> None:
    assert passes() == passes()
