"""Exported files: any way of taking inputs, tied weights, and what cannot be exported."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import retiarii as rt
from retiarii.errors import FileError, GraphError, RetiariiError
from retiarii.export import Exported, export


@pytest.fixture(autouse=True)
def forget_model() -> Iterator[None]:
    """Each exported ``model.py`` is imported under the same name."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("model", None)


def exported(net: nn.Module, example: Any, out: Path) -> Exported:
    space = rt.ModelSpace(net, example_inputs=example)
    result = rt.Experiment(space, rt.Function(lambda trial: 1.0), trials=1).run()
    assert result.best is not None
    return export(result.best, out, metric=result.metric)


def output_of_usage(out: Path) -> Any:
    sys.path.insert(0, str(out))
    return runpy.run_path(str(out / "usage.py"))["output"]


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, tokens: Tensor, scale: float = 1.0, *, mask: Tensor) -> Tensor:
        return self.out(self.words(tokens) * mask.unsqueeze(-1) * scale)


class Batch(NamedTuple):
    image: Tensor
    extra: Tensor


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 2)

    def forward(self, batch: dict[str, Any], pair: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        a, b = pair
        return {"sum": self.out(batch["x"]) + a, "b": b * 2}


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 2)

    def forward(self, batch: Batch) -> Tensor:
        return self.out(batch.image) + batch.extra


class Awkward(nn.Module):
    """Its parameters are called like names that usage.py uses."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 2)

    def forward(self, model: Tensor, torch: Tensor) -> Tensor:
        return self.out(model) + torch


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.words(tokens))


TOKENS = torch.zeros(2, 5, dtype=torch.int64)
NETS: dict[str, tuple[nn.Module, Any, Any]] = {
    "keywords": (Keywords(), {"tokens": TOKENS, "mask": torch.ones(2, 5)}, (2, 5, 2)),
    "nested": (
        Nested(),
        ({"x": torch.zeros(2, 3)}, (torch.zeros(2, 2), torch.zeros(2, 1, dtype=torch.float64))),
        {"sum": (2, 2), "b": (2, 1)},
    ),
    "named tuple": (Named(), (Batch(torch.zeros(2, 3), torch.zeros(2, 2)),), (2, 2)),
    "awkward names": (Awkward(), (torch.zeros(2, 3), torch.zeros(2, 2)), (2, 2)),
    "tied": (Tied(), TOKENS, (2, 5, 7)),
    "half precision": (
        nn.Linear(3, 2, dtype=torch.bfloat16),
        torch.zeros(2, 3, dtype=torch.bfloat16),
        (2, 2),
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_usage_runs(name: str, tmp_path: Path) -> None:
    net, example, shapes = NETS[name]
    written = exported(net, example, tmp_path / "best")
    assert not written.trained
    output = output_of_usage(tmp_path / "best")
    if isinstance(shapes, dict):
        assert {k: tuple(v.shape) for k, v in output.items()} == shapes
    else:
        assert tuple(output.shape) == shapes


def test_weights_are_those_of_the_model(tmp_path: Path) -> None:
    x = torch.randn(32, 3)
    y = (x[:, 0] > 0).long()
    space = rt.ModelSpace(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), x[:2])
    evaluator = rt.Supervised(
        (x, y), (x, y), loss=nn.CrossEntropyLoss(), optimizer=rt.SGD(lr=0.1), epochs=2
    )
    result = rt.Experiment(space, evaluator, trials=1).run()
    assert result.best is not None
    assert export(result.best, tmp_path / "best", metric="accuracy").trained
    output_of_usage(tmp_path / "best")
    plain = sys.modules["model"].Model()
    from safetensors.torch import load_file

    plain.load_state_dict(load_file(tmp_path / "best" / "weights.safetensors"))
    torch.testing.assert_close(plain.eval()(x), result.best.load().eval()(x))


def test_opaque_parts_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(x.detach().numpy() + 1)

    with pytest.raises(GraphError, match="could not be lowered"):
        exported(nn.Sequential(nn.Linear(3, 2), Odd()), torch.zeros(2, 3), tmp_path / "best")
    assert not (tmp_path / "best").exists()


def test_hyper_parameters_alone_have_no_model(tmp_path: Path) -> None:
    evaluator = rt.Function(
        lambda trial: trial.hyperparameters["x"], hyperparameters={"x": rt.uniform(0, 1)}
    )
    result = rt.Experiment(None, evaluator, trials=1).run()
    assert result.best is not None
    with pytest.raises(RetiariiError, match="only hyper-parameters"):
        export(result.best, tmp_path / "best", metric="score")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError) as caught:
        exported(nn.Linear(3, 2), torch.zeros(2, 3), tmp_path / "file" / "best")
    assert "cannot write" in caught.value.cause
    assert caught.value.fix


def test_source_that_computes_something_else_never_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = rt.Graph.to_source
    monkeypatch.setattr(
        rt.Graph, "to_source", lambda graph: honest(graph).replace("return ", "return 2 * ")
    )
    with pytest.raises(RetiariiError, match="something else"):
        exported(nn.Sequential(nn.Linear(3, 2)), torch.zeros(2, 3), tmp_path / "best")
    assert not (tmp_path / "best").exists()
