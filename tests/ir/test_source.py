from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from retiarii.errors import GraphError
from retiarii.ir.build.module import to_module
from retiarii.ir.build.source import to_source
from retiarii.ir.context import InputSpec
from retiarii.ir.graph import Graph
from retiarii.ir.node import NodeRecord
from retiarii.ir.types import Attrs, ByMode, FrozenDict, Ref, Result, TensorType, TypeOf

RUN = """
import sys
sys.path.insert(0, ".")
sys.modules["retiarii"] = None  # importing it is an error now
import torch
from model import Model
model = Model()
model.load_state_dict(torch.load("weights.pt", weights_only=True), strict=True)
torch.save(model.eval()(*torch.load("inputs.pt", weights_only=True)), "out.pt")
"""


def check(graph: Graph, *inputs: torch.Tensor) -> str:
    """The source's class has the module's keys, takes its weights and gives its outputs."""
    text = to_source(graph)
    module = to_module(graph, seed=5)
    scope: dict[str, Any] = {"__name__": "model"}
    exec(compile(text, "model.py", "exec", dont_inherit=True), scope)
    written = scope["Model"]()
    assert list(written.state_dict()) == list(module.state_dict())
    written.load_state_dict(module.state_dict(), strict=True)
    for training in (False, True):
        outputs = []
        for model in (module, written):
            model.train(training)
            torch.manual_seed(1)
            out = model(*inputs)
            outputs.append([out] if isinstance(out, torch.Tensor) else list(out))
        assert len(outputs[0]) == len(outputs[1])
        assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    return text


def check_alone(graph: Graph, tmp_path: Path, *inputs: torch.Tensor) -> None:
    """The same in a process where retiarii cannot be imported."""
    (tmp_path / "model.py").write_text(to_source(graph))
    module = to_module(graph, seed=5).eval()
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    torch.save(inputs, tmp_path / "inputs.pt")
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUN], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert torch.equal(found, module(*inputs))


def test_a_convolutional_net(maker: Any, tmp_path: Path) -> None:
    m = maker()
    x = m.input("x", 2, 3, 8, 8)
    x = m.layer(nn.Conv2d(3, 8, 3, padding=1), x, path="stem.0")
    x = m.layer(nn.BatchNorm2d(8), x, path="stem.1")
    x = m.layer(nn.ReLU(), x, path="stem.2")
    branches = [m.layer(nn.Conv2d(8, 4, 1), x, path=f"branches.{i}") for i in range(3)]
    x = m.add("cat", *branches, dim=1)
    x = m.layer(nn.Dropout(0.3), x, path="blocks.0.drop")
    x = m.layer(nn.Conv2d(12, 4, 3, bias=False), x, path="blocks.0.conv")
    x = m.add("flatten", m.add("relu", x), start_dim=1)
    x = m.layer(nn.Linear(144, 5), x, path="ops.3x3")
    x = m.add("mul", x, m.parameter("blocks.0.scale", 5))
    graph = m.graph(m.add("add", x, m.parameter("shift", 5)))
    check_alone(graph, tmp_path, torch.randn(2, 3, 8, 8))
    text = check(graph, torch.randn(2, 3, 8, 8))
    assert "stem = self.stem(x)" in text
    assert "nn.Conv2d(3, 8, 3, padding=1)," in text
    assert "ops_3x3 * self.blocks[0].scale" in text
    assert "self.branches = nn.ModuleList" in text
    assert "x: float32[2, 3, 8, 8]" in text
    assert "returns: float32[2, 5]" in text
    assert all(len(line) <= 100 for line in text.splitlines())
    imports = [line for line in text.splitlines() if line.startswith(("import", "from"))]
    assert all("torch" in line for line in imports)


def test_a_recurrent_net_with_several_outputs(maker: Any) -> None:
    m = maker()
    x, y = m.input("x", 5, 2, 3), m.input("y", 5, 2, 3)
    node = m.layer(nn.LSTM(3, 4, num_layers=2), m.add("add", x, y), path="rnn")
    attention = m.layer(nn.MultiheadAttention(4, 2), node, node, node, path="mix")
    outputs = (attention, Ref(node.node, 1), Ref(node.node, 2))
    graph = m.graph(*outputs, structure=(Result(0), Result(1), Result(2)))
    text = check(graph, torch.randn(5, 2, 3), torch.randn(5, 2, 3))
    assert "output 2" in text


def test_shared_and_tied_and_frozen(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 3)
    layer = nn.Linear(3, 3)
    x = m.layer(layer, m.layer(layer, x, path="a"), path="a")
    x = m.layer(nn.BatchNorm1d(3), x, path="norms.first")
    x = m.layer(nn.Linear(3, 3, bias=False), x, path="b")
    shape = torch.zeros(3, 3)
    weights = {"a.weight": shape, "a.bias": torch.zeros(3)}
    weights |= {
        f"norms.{name}.{k}": v
        for name in ("first", "second")
        for k, v in nn.BatchNorm1d(3).state_dict().items()
    }
    weights["b.weight"] = shape
    ties = {k: k.replace("second", "first") for k in weights if "second" in k}
    graph = m.graph(
        x,
        weights=weights,
        ties={**ties, "b.weight": "a.weight"},
        frozen=frozenset({"a.bias"}),
        modes={"norms.first": False},
    )
    check(graph, torch.randn(2, 3))
    scope: dict[str, Any] = {}
    exec(to_source(graph), scope)
    model = scope["Model"]()
    assert model.b.weight is model.a.weight
    assert model.norms.second is model.norms.first
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["a.bias"]
    assert not model.norms.first.training


def test_layers_at_the_root_and_constants(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 3)
    for i, layer in enumerate((nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))):
        x = m.layer(layer, x, path=str(i))
    x = m.add("add", x, m.constant("shift", torch.tensor([0.1, float("inf"), -2.5])))
    x = m.add("mul", x, m.buffer("scale", torch.tensor([1.5, 2.5, 3.5]), persistent=False))
    x = m.add("setitem", x, index=(slice(None), 0), value=1.0)
    text = check(m.graph(x), torch.randn(2, 3))
    assert "class Model(nn.Sequential):" in text


def test_awkward_paths(maker: Any) -> None:
    m = maker()
    x = m.input("F", 2, 3)
    for path in ("a.lambda", "a.1", "a.__hidden", "b.x-y", "c", "c.inner"):
        x = m.layer(nn.Linear(3, 3), x, path=path)
    check(m.graph(m.add("gelu", x)), torch.randn(2, 3))


Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Sides:
    left: torch.Tensor
    right: torch.Tensor


class Named(dict):  # type: ignore[type-arg]
    pass


@pytest.mark.parametrize("target", [Pair, Sides, Named])
def test_classes_that_forward_returns(maker: Any, target: type) -> None:
    m = maker()
    x = m.input("x", 2, 3)
    fields = FrozenDict((("left", Result(0)), ("right", Result(1))))
    graph = m.graph(x, m.add("relu", x), structure=(TypeOf(target), fields))
    x = torch.randn(2, 3)
    scope: dict[str, Any] = {"__name__": "model"}
    exec(compile(to_source(graph), "model.py", "exec", dont_inherit=True), scope)
    for model in (scope["Model"](), graph.to_module()):
        out = model(x)
        assert type(out).__name__ == target.__name__
        right = out["right"] if target is Named else out.right
        assert torch.equal(right, x.relu())
    assert isinstance(graph.to_module()(x), target)


def test_classes_that_forward_takes(maker: Any) -> None:
    m = maker()
    left, right = m.input("pair.left", 2, 3), m.input("pair.right", 2, 3)
    fields = FrozenDict((("left", Result(0)), ("right", Result(1))))
    forward = InputSpec((("pair", (TypeOf(Pair), fields)),))
    made = m.graph(m.add("sub", left, right), forward=forward).to_module()
    assert torch.equal(made(Pair(torch.ones(3), torch.ones(3))), torch.zeros(3))


def test_opaque_nodes_are_listed(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 3)
    kind = TensorType((2, 3), torch.float32)
    m.records["odd"] = NodeRecord(
        "odd", "opaque", (x,), Attrs(reason="reads a number"), (kind,), path="odd", where="n.py:7"
    )
    graph = m.graph(Ref("odd"), opaque={"odd": nn.ReLU()})
    with pytest.raises(GraphError) as caught:
        to_source(graph)
    assert "'odd': reads a number" in caught.value.cause
    assert caught.value.where == "n.py:7"


def test_large_tensors_that_are_in_no_state_dict(maker: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    noise = torch.randn(60, 50)
    m = maker()
    x = m.add("add", m.input("x", 60, 50), m.constant("shift", noise))
    x = m.add("mul", x, m.buffer("block.mask", torch.ones(60, 50).tril(), persistent=False))
    x = m.add("sub", x, m.buffer("block.noise", noise.clone(), persistent=False))
    x = m.add("add", x, m.buffer("block.more", noise + 1, persistent=False))
    graph = m.graph(x)
    text = check(graph, torch.randn(60, 50))
    check_alone(graph, tmp_path, torch.randn(60, 50))
    assert "torch.ones((60, 50), dtype=torch.float32).tril()" in text
    assert text.rstrip().endswith("}")
    assert text.count('": (\n') == 2  # equal tensors are there once
    assert all(len(line) <= 100 for line in text.splitlines())
    imports = [line for line in text.splitlines() if line.startswith(("import", "from"))]
    assert imports == ["import base64", "import zlib", "import torch", "from torch import nn"]


def test_helpers_shadow_nothing(maker: Any) -> None:
    m = maker()
    x, grid = m.input("stored", 4, 100), m.input("grid", 4, 100)
    x = m.add("add", x, m.constant("zlib", torch.randn(4, 100)), name="base64")
    check(m.graph(m.add("mul", x, grid)), torch.randn(4, 100), torch.randn(4, 100))


def test_a_buffer_made_without_values_is_written_as_zeros(maker: Any) -> None:
    m = maker()
    held = torch.zeros(100, device="meta")
    graph = m.graph(m.add("add", m.input("x", 2, 100), m.buffer("shift", held, persistent=False)))
    check(graph, torch.randn(2, 100))


def test_constants_that_are_not_dense_are_refused(maker: Any) -> None:
    m = maker()
    x, held = m.input("x", 3, 3), m.constant("held", torch.eye(3))
    m.constants["held"] = torch.eye(3).to_sparse()
    m.records["held"] = dataclasses.replace(m.records["held"], where="net.py:7")
    with pytest.raises(GraphError) as caught:
        to_source(m.graph(m.add("matmul", x, held)))
    assert "node 'held' is a torch.sparse_coo tensor" in caught.value.cause
    assert caught.value.where == "net.py:7"
    assert "dense" in str(caught.value.fix)


class Record:
    """What a cache is: attributes, and methods that the model calls."""

    def __init__(self, keys: torch.Tensor) -> None:
        self.keys = keys

    def length(self) -> int:
        return len(self.keys)


def test_an_object_that_forward_returns(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 3)
    inner = (TypeOf(Record), FrozenDict((("keys", Result(0)), ("kind", TypeOf(Record)))))
    kinds = FrozenDict((("of", TypeOf(nn.Linear)), ("is", TypeOf(int)), ("cache", inner)))
    graph = m.graph(m.add("relu", x), structure=kinds)
    scope: dict[str, Any] = {"__name__": "model"}
    exec(compile(to_source(graph), "model.py", "exec", dont_inherit=True), scope)
    x = torch.randn(2, 3)
    made, own = scope["Model"]()(x), graph.to_module()(x)
    assert isinstance(own["cache"], Record)
    assert own["cache"].length() == 2
    assert type(made["cache"]) is made["cache"].kind is scope["Record"]
    assert type(made["cache"]) is not Record
    assert torch.equal(made["cache"].keys, x.relu())
    assert made["of"] is nn.Linear
    assert made["is"] is int


def test_an_object_with_other_fields_in_training(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 3)
    trained = FrozenDict((("left", Result(0)), ("right", Result(1))))
    fields = ByMode(trained, FrozenDict((("left", Result(1)), ("right", None))))
    graph = m.graph(x, m.add("relu", x), structure=(TypeOf(Sides), fields))
    scope: dict[str, Any] = {"__name__": "model"}
    exec(compile(to_source(graph), "model.py", "exec", dont_inherit=True), scope)
    x = torch.randn(2, 3)
    for model in (scope["Model"](), graph.to_module()):
        out = model.train()(x)
        assert torch.equal(out.left, x)
        assert torch.equal(out.right, x.relu())
        out = model.eval()(x)
        assert torch.equal(out.left, x.relu())
        assert out.right is None


@dataclass
class Fields(dict):  # type: ignore[type-arg]
    """A dataclass that is a dict of the fields that are there, as transformers has them."""

    loss: Any = None
    left: Any = None
    right: Any = None

    def __post_init__(self) -> None:
        self.update({k: v for k, v in vars(self).items() if v is not None})


def test_a_dataclass_that_is_a_dict(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 3)
    fields = FrozenDict((("left", Result(0)), ("right", Result(1))))
    graph = m.graph(x, m.add("relu", x), structure=(TypeOf(Fields), fields))
    scope: dict[str, Any] = {"__name__": "model"}
    exec(compile(to_source(graph), "model.py", "exec", dont_inherit=True), scope)
    x = torch.randn(2, 3)
    for model in (scope["Model"](), graph.to_module()):
        out = model(x)
        assert out.loss is None
        assert torch.equal(out.left, x)
        assert torch.equal(out.right, x.relu())
        assert torch.equal(out["right"], x.relu())
    assert torch.equal(scope["Model"]()(x)[1], x.relu())


def test_a_class_needs_a_name(maker: Any) -> None:
    m = maker()
    graph = m.graph(m.add("relu", m.input("x", 2, 3)))
    assert "class Best(nn.Module):" in to_source(graph, "Best")
    with pytest.raises(GraphError, match="name of a class"):
        to_source(graph, "not a name")


def test_a_dict_at_the_root(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 3)
    x = m.layer(nn.Linear(3, 3), m.layer(nn.Linear(3, 3), x, path="3x3"), path="1x1")
    text = check(m.graph(x), torch.randn(2, 3))
    assert "class Model(nn.ModuleDict):" in text


def test_a_class_of_the_models_own_name(maker: Any) -> None:
    @dataclass
    class Model:
        y: torch.Tensor

    m = maker()
    x = m.input("x", 2, 3)
    structure = (TypeOf(Model), FrozenDict((("y", Result(0)),)))
    scope: dict[str, Any] = {"__name__": "model"}
    text = to_source(m.graph(x, structure=structure))
    exec(compile(text, "model.py", "exec", dont_inherit=True), scope)
    assert torch.equal(scope["Model"]()(torch.ones(1)).y, torch.ones(1))


def test_nested_sequences_are_called_as_one(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 3)
    for path in ("net.0", "net.1.0", "net.1.1"):
        x = m.layer(nn.Linear(3, 3), x, path=path)
    text = check(m.graph(x), torch.randn(2, 3))
    assert "net = self.net(x)" in text


def test_a_value_read_inside_a_sequence_keeps_it_open(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 3)
    inner = m.layer(nn.Linear(3, 3), x, path="net.0")
    outer = m.layer(nn.Linear(3, 3), inner, path="net.1")
    text = check(m.graph(m.add("sub", outer, inner)), torch.randn(2, 3))
    assert "self.net[1](net_0)" in text
