"""`torch.export` programs and ONNX files of built modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from retiarii.errors import GraphError
from retiarii.ir.forms import onnx as module
from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse

MISSING = [n for n in ("onnx", "onnxscript") if importlib.util.find_spec(n) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x).view(x.shape[0], 4, -1)
        return self.head(self.drop(y.mean(-1)))


class Keyed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, batch: Any, *, scale: torch.Tensor) -> Any:
        return {"y": self.fc(batch["x"]) * scale, "z": (batch["more"][0] + 1,)}


def net() -> tuple[Net, Graph]:
    model = Net()
    model(torch.randn(8, 3, 6, 6))  # running statistics of its own
    return model, parse(model, torch.zeros(2, 3, 6, 6))


def test_an_exported_program_computes_the_model() -> None:
    model, graph = net()
    program = graph.to_exported()
    assert isinstance(program, torch.export.ExportedProgram)
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(program.module()(x), model.eval()(x))
    assert set(program.state_dict) == set(model.state_dict())


def test_any_batch_where_it_is_asked_for() -> None:
    model, graph = net()
    program = graph.to_exported(dynamic_batch=True)
    for batch in (1, 5):
        x = torch.randn(batch, 3, 6, 6)
        torch.testing.assert_close(program.module()(x), model.eval()(x))
    with pytest.raises((AssertionError, RuntimeError)):
        graph.to_exported().module()(torch.randn(5, 3, 6, 6))


def test_a_model_that_was_parsed_at_one_sample() -> None:
    model = Net().eval()
    program = parse(model, torch.zeros(1, 3, 6, 6)).to_exported(dynamic_batch=True)
    x = torch.randn(3, 3, 6, 6)
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_structures_and_keywords(dynamic_batch: bool) -> None:
    model = Keyed().eval()
    x, more, scale = torch.randn(3, 4), torch.randn(3, 2), torch.randn(4)
    example = {"batch": {"x": x, "more": [more]}, "scale": scale}
    program = parse(model, example).to_exported(dynamic_batch=dynamic_batch)
    made = program.module()({"x": x, "more": [more]}, scale=scale)
    wanted = model({"x": x, "more": [more]}, scale=scale)
    torch.testing.assert_close(made["y"], wanted["y"])
    torch.testing.assert_close(made["z"][0], wanted["z"][0])


def test_a_seed_is_that_of_to_module() -> None:
    _, graph = net()
    program, built = graph.to_exported(seed=3), graph.to_module(seed=3)
    for key, value in built.state_dict().items():
        assert torch.equal(program.state_dict[key], value), key


def test_a_mutated_graph_is_exported() -> None:
    _, graph = net()
    graph.update(graph.node("conv.0"), out_channels=7)
    assert graph.to_exported().module()(torch.randn(2, 3, 6, 6)).shape == (2, 5)


def test_what_cannot_be_exported_says_so() -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if float(x.detach().sum()) > 0 else x

    graph = parse(nn.Sequential(Branch(), nn.ReLU()), torch.ones(2, 3))
    with pytest.raises(GraphError, match=r"torch\.export does not take the module") as caught:
        graph.to_exported()
    assert "opaque nodes '0'" in str(caught.value.where)


@pytest.mark.parametrize(
    ("absent", "named"),
    [(["onnx"], "package onnx"), (["onnx", "onnxscript"], "packages onnx and onnxscript")],
)
def test_without_the_packages_the_error_says_how_to_get_them(
    absent: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        module.importlib.util, "find_spec", lambda name: None if name in absent else object()
    )
    with pytest.raises(GraphError, match=named) as caught:
        net()[1].to_onnx(tmp_path / "net.onnx")
    assert caught.value.fix == "pip install 'retiarii[onnx]'"
    assert list(tmp_path.iterdir()) == []


@needs_onnx
@pytest.mark.filterwarnings("ignore")
def test_an_onnx_file_computes_the_model(tmp_path: Path) -> None:
    from onnx import load
    from onnx.checker import check_model
    from onnx.reference import ReferenceEvaluator

    model, graph = net()
    file = graph.to_onnx(tmp_path / "net.onnx", dynamic_batch=True)
    assert file == tmp_path / "net.onnx"
    check_model(load(file))
    x = torch.randn(3, 3, 6, 6)
    (made,) = ReferenceEvaluator(str(file)).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(made), model.eval()(x).detach())


@needs_onnx
@pytest.mark.filterwarnings("ignore")
def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="there is no directory"):
        net()[1].to_onnx(tmp_path / "no" / "net.onnx")
