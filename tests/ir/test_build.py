from __future__ import annotations

import copy
import gc
import linecache
import traceback
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from retiarii.errors import GraphError
from retiarii.ir.build.module import to_module
from retiarii.ir.context import InputSpec
from retiarii.ir.graph import Graph
from retiarii.ir.node import NodeRecord
from retiarii.ir.parse import parse
from retiarii.ir.types import (
    Attrs,
    BatchSize,
    FrozenDict,
    FrozenList,
    InputDevice,
    Operand,
    Ref,
    Result,
    TensorType,
    Training,
)


class Net(nn.Module):
    """What `net_graph` stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4))
        self.register_buffer("shift", torch.randn(4))
        self.stem = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4))
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4, bias=False)])
        self.ops = nn.ModuleDict({"3x3": nn.Linear(4, 4), "1x1": nn.Linear(4, 2)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x) * self.scale + self.shift
        x = self.blocks[1](x) + self.blocks[0](x)
        return self.ops["1x1"](self.ops["3x3"](x))


def net_graph(m: Any, net: Net, **context: Any) -> Graph:
    dtype = net.scale.dtype
    x = m.input("x", 5, 3, dtype=dtype)
    for i in range(3):
        x = m.layer(net.stem[i], x, path=f"stem.{i}")
    x = m.add("mul", x, m.parameter("scale", 4, dtype=dtype))
    x = m.add("add", x, m.buffer("shift", net.shift))
    x = m.add(
        "add",
        m.layer(net.blocks[1], x, path="blocks.1"),
        m.layer(net.blocks[0], x, path="blocks.0"),
    )
    x = m.layer(net.ops["3x3"], x, path="ops.3x3")
    x = m.layer(net.ops["1x1"], x, path="ops.1x1")
    return m.graph(x, weights=net.state_dict(), **context)  # type: ignore[no-any-return]


def test_same_outputs_and_keys_both_ways(maker: Any) -> None:
    net = Net()
    made = net_graph(maker(batch=5), net).to_module()
    assert list(made.state_dict()) == list(net.state_dict())
    x = torch.randn(7, 3)
    assert torch.equal(made(x), net(x))
    assert torch.equal(made.eval()(x), net.eval()(x))
    other = Net()
    made.load_state_dict(other.state_dict(), strict=True)
    assert torch.equal(made(x), other.eval()(x))
    net.load_state_dict(made.state_dict(), strict=True)
    assert torch.equal(made(x), net(x))


def test_gradients_are_the_same(maker: Any) -> None:
    net = Net().double()
    made = net_graph(maker(batch=5), net).to_module()
    x = torch.randn(7, 3, dtype=torch.float64)
    for model in (net, made):
        model(x).square().sum().backward()
    wanted = dict(net.named_parameters())
    for name, parameter in made.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad)


def test_no_tensor_is_shared_with_the_model(maker: Any) -> None:
    net = Net()
    before = copy.deepcopy(net.state_dict())
    made = net_graph(maker(), net).to_module()
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            tensor.add_(1)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_containers_are_what_their_names_suggest(maker: Any) -> None:
    made = net_graph(maker(), Net()).to_module()
    assert type(made.stem) is nn.Sequential
    assert type(made.blocks) is nn.ModuleList
    assert type(made.ops) is nn.ModuleDict
    assert isinstance(made.stem[0], nn.Linear)


def test_layers_at_the_root_keep_their_numbers(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 3)
    x = m.layer(nn.Linear(3, 4), x, path="0")
    x = m.layer(nn.ReLU(), x, path="1")
    made = m.graph(m.layer(nn.Linear(4, 2), x, path="2")).to_module()
    assert list(made.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert made(torch.zeros(2, 3)).shape == (2, 2)


def test_awkward_paths_work(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 3)
    for path in ("a.lambda", "a.1", "a.__hidden", "b.x-y", "b.pop", "c", "c.inner", "größe"):
        x = m.layer(nn.Linear(3, 3), x, path=path)
    made = m.graph(x).to_module()
    assert "a.lambda.weight" in made.state_dict()
    assert "c.inner.weight" in made.state_dict()
    assert made(torch.zeros(2, 3)).shape == (2, 3)


def test_awkward_names_do_not_shadow(maker: Any) -> None:
    m = maker()
    x = m.input("torch", 2, 3)
    y = m.input("F", 2, 3)
    for name in ("self", "print", "class", "batch", "if.else", "1", "1_", "match", "math"):
        x = m.add("relu", x, name=name)
    z = m.add("view", m.add("add", x, y), size=(BatchSize(), -1))
    made = m.graph(z).to_module()
    assert torch.equal(made(torch.ones(4, 3), F=torch.ones(4, 3)), torch.full((4, 3), 2.0))


# --- seeds -----------------------------------------------------------------------------------


def test_a_seed_fixes_all_weights_and_leaves_the_global_state(maker: Any) -> None:
    graph = net_graph(maker(), Net())
    before = torch.get_rng_state()
    one, two, other = (to_module(graph, seed=s) for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    a, b, c = one.state_dict(), two.state_dict(), other.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["stem.0.weight"], c["stem.0.weight"])


def test_a_layers_weights_do_not_depend_on_the_others(maker: Any) -> None:
    def weight(paths: list[str]) -> torch.Tensor:
        m = maker()
        x = m.input("x", 2, 3)
        for path in paths:
            x = m.layer(nn.Linear(3, 3), x, path=path)
        found: torch.Tensor = to_module(m.graph(x), seed=7).state_dict()["a.weight"]
        return found

    assert torch.equal(weight(["a"]), weight(["c", "b", "a", "d"]))
    m = maker()
    twin = m.graph(m.layer(nn.Linear(3, 3), m.input("x", 2, 3), path="b"))
    assert not torch.equal(weight(["a"]), to_module(twin, seed=7).state_dict()["b.weight"])


def test_layers_start_as_their_constructor_says(maker: Any) -> None:
    from retiarii.seeding import derive

    m = maker()
    conv = nn.Conv2d(3, 5, 3)
    made = to_module(m.graph(m.layer(conv, m.input("x", 2, 3, 8, 8), path="a")), seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(3, "a"))
        wanted = nn.Conv2d(3, 5, 3)
    assert torch.equal(made.state_dict()["a.weight"], wanted.weight)
    assert torch.equal(made.state_dict()["a.bias"], wanted.bias)


def test_without_a_seed_parsed_weights_stay_where_they_fit(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 3)
    kept, grown, fresh = torch.randn(4, 3), torch.randn(9, 9), torch.randn(4, 4)
    x = m.layer(nn.Linear(3, 4, bias=False), x, path="kept")
    x = m.layer(nn.Linear(4, 4, bias=False), x, path="grown")
    x = m.layer(nn.Linear(4, 4, bias=False), x, path="fresh", fresh=True)
    weights = {"kept.weight": kept, "grown.weight": grown, "fresh.weight": fresh}
    state = m.graph(x, weights=weights).to_module().state_dict()
    assert torch.equal(state["kept.weight"], kept)
    assert state["grown.weight"].shape == (4, 4)
    assert not torch.equal(state["fresh.weight"], fresh)


def test_weights_given_win_over_the_seed(maker: Any) -> None:
    net, other = Net(), Net()
    graph = net_graph(maker(), net)
    given = {k: v for k, v in other.state_dict().items() if k.startswith(("stem", "scale"))}
    given["ops.1x1.weight"] = torch.zeros(17, 17)
    state = to_module(graph, seed=0, weights=given).state_dict()
    assert torch.equal(state["stem.0.weight"], other.stem[0].weight)
    assert torch.equal(state["stem.2.running_mean"], other.stem[2].running_mean)
    assert torch.equal(state["scale"], other.scale)
    assert torch.equal(state["shift"], net.shift)
    assert state["ops.1x1.weight"].shape == (2, 4)


def test_a_seed_gives_fresh_statistics(maker: Any) -> None:
    net = Net()
    net(torch.randn(9, 3) * 5 + 3)
    state = to_module(net_graph(maker(), net), seed=0).state_dict()
    assert torch.equal(state["stem.2.running_mean"], torch.zeros(4))
    assert torch.equal(state["stem.2.num_batches_tracked"], torch.tensor(0))
    assert torch.equal(state["scale"], net.scale)


# --- what layers share -----------------------------------------------------------------------


def test_a_module_called_twice_is_one(maker: Any) -> None:
    m = maker()
    layer = nn.Linear(3, 3)
    x = m.layer(layer, m.input("x", 2, 3), path="a")
    made = m.graph(m.layer(layer, x, path="a")).to_module()
    assert list(made.state_dict()) == ["a.weight", "a.bias"]
    with torch.no_grad():
        made.a.weight.copy_(2 * torch.eye(3))
        made.a.bias.zero_()
    assert torch.equal(made(torch.ones(1, 3)), torch.full((1, 3), 4.0))


def test_tied_tensors_stay_one(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 3, dtype=torch.int64)
    y = m.layer(nn.Embedding(5, 4), x, path="embed")
    z = m.layer(nn.Linear(4, 5), y, path="head")
    weight = torch.randn(5, 4)
    graph = m.graph(
        z,
        ties={"head.weight": "embed.weight"},
        weights={"embed.weight": weight, "head.weight": weight, "head.bias": torch.zeros(5)},
    )
    for made in (to_module(graph), to_module(graph, seed=1), copy.deepcopy(to_module(graph))):
        assert made.head.weight is made.embed.weight
        assert list(made.state_dict()) == ["embed.weight", "head.weight", "head.bias"]
        assert len(list(made.parameters())) == 2
    assert torch.equal(to_module(graph).embed.weight, weight)


def test_a_module_with_two_paths_is_one(maker: Any) -> None:
    m = maker()
    norm = nn.BatchNorm1d(3)
    y = m.layer(norm, m.input("x", 4, 3), path="first")
    keys = list(norm.state_dict())
    weights = {f"{p}.{k}": norm.state_dict()[k] for p in ("first", "second") for k in keys}
    ties = {f"second.{k}": f"first.{k}" for k in keys}
    made = m.graph(y, weights=weights, ties=ties).to_module().double()
    assert made.first is made.second
    assert list(made.state_dict()) == list(weights)


def test_a_tie_whose_shapes_parted_is_none(maker: Any) -> None:
    m = maker()
    x = m.layer(nn.Linear(3, 4, bias=False), m.input("x", 2, 3), path="a")
    y = m.layer(nn.Linear(4, 3, bias=False), x, path="b")
    weights = {"a.weight": torch.zeros(3, 3), "b.weight": torch.zeros(3, 3)}
    made = m.graph(y, ties={"b.weight": "a.weight"}, weights=weights).to_module()
    assert made.a.weight is not made.b.weight
    assert made(torch.zeros(2, 3)).shape == (2, 3)


def test_a_layers_own_weight_can_be_used_directly(maker: Any) -> None:
    m = maker()
    y = m.layer(nn.Linear(3, 3), m.input("x", 2, 3), path="a")
    made = m.graph(m.add("matmul", y, m.parameter("a.weight", 3, 3))).to_module()
    assert list(made.state_dict()) == ["a.weight", "a.bias"]
    x = torch.randn(2, 3)
    assert torch.equal(made(x), made.a(x) @ made.a.weight)


def test_parameters_nobody_uses_stay(maker: Any) -> None:
    m = maker()
    y = m.add("relu", m.input("x", 2, 3))
    value = torch.randn(4)
    m.parameter("unused.weight", 4, value=value)
    made = m.graph(y).to_module()
    assert torch.equal(made.state_dict()["unused.weight"], value)


# --- flags -----------------------------------------------------------------------------------


def test_modes_and_frozen_parameters(maker: Any) -> None:
    net = Net()
    frozen = frozenset({"stem.0.bias", "scale"})
    made = net_graph(maker(), net, modes={"stem.2": False}, frozen=frozen).to_module()
    assert made.training
    assert not made.stem[2].training
    assert made.stem[0].training
    assert {n for n, p in made.named_parameters() if not p.requires_grad} == frozen
    evaluating = net_graph(maker(), net, training=False).to_module()
    assert not any(m.training for m in evaluating.modules())


def test_no_grad_and_training_and_device(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 3)
    y = m.layer(nn.Linear(3, 3), x, path="a", no_grad=True)
    y = m.add("relu", y, no_grad=True)
    z = m.layer(nn.Linear(3, 3), y, path="b")
    z = m.add("dropout", z, p=0.5, training=Training())
    w = m.add("arange", end=3, device=InputDevice())
    made = m.graph(m.add("add", z, w)).to_module(seed=0)
    made(torch.ones(2, 3)).sum().backward()
    assert made.a.weight.grad is None
    assert made.b.weight.grad is not None
    made.eval()
    x = torch.ones(2, 3)
    assert torch.equal(made(x), made.b(made.a(x).relu()) + torch.arange(3))


def test_batch_sizes_follow_the_run(maker: Any) -> None:
    m = maker(batch=4)
    x = m.input("x", 4, 3)
    y = m.add("reshape", x, shape=(BatchSize(divisor=2), -1))
    made = m.graph(m.add("getitem", y, index=(slice(None, BatchSize(1, 2, -1)), 0))).to_module()
    assert made(torch.zeros(4, 3)).shape == (1,)
    assert made(torch.zeros(10, 3)).shape == (4,)


# --- structures ------------------------------------------------------------------------------


def test_arguments_and_results_are_taken_apart_and_put_together(maker: Any) -> None:
    m = maker()
    image = m.input("batch.image", 2, 3)
    mask = m.input("batch.extra.0", 2, 3)
    other = m.input("other", 2, 3)
    y = m.add("add", m.add("mul", image, mask), other)
    forward = InputSpec(
        (
            ("batch", FrozenDict((("image", Result(0)), ("extra", FrozenList((Result(1),)))))),
            ("flag", None),
            ("other", Result(2)),
            ("scale", 2),
        ),
        frozenset({"other"}),
    )
    structure = FrozenDict((("sum", Result(0)), ("parts", (Result(1), None, "text"))))
    made = m.graph(y, image, structure=structure, forward=forward).to_module()
    ones = torch.ones(2, 3)
    out = made({"image": ones, "extra": [2 * ones]}, other=ones)
    assert list(out) == ["sum", "parts"]
    assert torch.equal(out["sum"], 3 * ones)
    assert out["parts"][1:] == (None, "text")
    with pytest.raises(ValueError, match="lowered with flag=None"):
        made({"image": ones, "extra": [2 * ones]}, 1, other=ones)


def test_several_results(maker: Any) -> None:
    m = maker()
    rnn = nn.LSTM(3, 4)
    node = m.layer(rnn, m.input("x", 5, 2, 3), path="rnn")
    weights = {f"rnn.{k}": v for k, v in rnn.state_dict().items()}
    graph = m.graph(node, Ref(node.node, 2), structure=(Result(0), Result(1)), weights=weights)
    x = torch.randn(5, 2, 3)
    wanted, (_, cell) = rnn(x)
    made = graph.to_module()
    out = made(x)
    assert isinstance(out, tuple)
    assert torch.equal(out[0], wanted)
    assert torch.equal(out[1], cell)


def test_writes_give_new_tensors(maker: Any) -> None:
    m = maker()
    x, y = m.input("x", 3, 3), m.input("y", 3)
    z = m.add("setitem", x, y, index=(slice(None), 1), value=Operand(1))
    made = m.graph(z, x, structure=(Result(0), Result(1))).to_module()
    given = torch.zeros(3, 3)
    written, before = made(given, torch.ones(3))
    assert torch.equal(written[:, 1], torch.ones(3))
    assert torch.equal(before, torch.zeros(3, 3))


def test_constants_move_along_and_are_not_saved(maker: Any) -> None:
    m = maker()
    shift = torch.arange(3.0)
    made = m.graph(m.add("add", m.input("x", 2, 3), m.constant("shift", shift))).to_module()
    assert not made.state_dict()
    assert torch.equal(made(torch.zeros(2, 3))[0], shift)
    assert made.double()(torch.zeros(2, 3)).dtype == torch.float64


# --- opaque modules --------------------------------------------------------------------------


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(x) * int(x.sum() > 0)
        return out


def opaque_graph(m: Any, odd: nn.Module) -> Graph:
    x = m.input("x", 2, 3)
    m.records["odd"] = NodeRecord(
        "odd",
        "opaque",
        (x,),
        Attrs(reason="int() of a tensor"),
        (TensorType((2, 3), torch.float32),),
        path="odd",
        where="net.py:7",
    )
    weights = {f"odd.{k}": v for k, v in odd.state_dict().items()}
    return m.graph(m.add("relu", Ref("odd")), opaque={"odd": odd}, weights=weights)  # type: ignore[no-any-return]


def test_opaque_modules_are_copied(maker: Any) -> None:
    odd = Odd()
    graph = opaque_graph(maker(), odd)
    made = graph.to_module()
    x = torch.rand(2, 3)
    assert torch.equal(made(x), odd(x).relu())
    assert made.odd is not odd
    assert list(made.state_dict()) == ["odd.fc.weight", "odd.fc.bias"]
    one, two = to_module(graph, seed=1), to_module(graph, seed=1)
    assert torch.equal(one.odd.fc.weight, two.odd.fc.weight)
    assert not torch.equal(one.odd.fc.weight, odd.fc.weight)


def test_a_module_that_is_not_at_hand_is_an_error(maker: Any) -> None:
    graph = opaque_graph(maker(), Odd())
    with pytest.raises(GraphError, match="not at hand"):
        Graph.from_text(str(graph)).to_module()


# --- as any module ---------------------------------------------------------------------------


def test_it_can_be_copied_cast_and_compiled(maker: Any) -> None:
    net = Net()
    made = net_graph(maker(batch=5), net).to_module().eval()
    net.eval()
    x = torch.randn(7, 3)
    assert torch.equal(copy.deepcopy(made)(x), net(x))
    compiled = torch.compile(made, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), net(x))
    made.double()
    torch.testing.assert_close(made(x.double()), net.double()(x.double()))


def test_a_traceback_shows_the_generated_line(maker: Any) -> None:
    made = net_graph(maker(), Net()).to_module()
    with pytest.raises(RuntimeError) as caught:
        made(torch.zeros(2, 99))
    shown = "".join(traceback.format_exception(caught.value))
    assert "stem = self.stem(x)" in shown


def test_the_text_of_a_forward_does_not_outlive_it(maker: Any) -> None:
    made: Any = net_graph(maker(), Net()).to_module()
    filename = type(made).forward.__code__.co_filename
    assert filename in linecache.cache
    del made
    gc.collect()
    assert filename not in linecache.cache


def test_nothing_is_initialised_that_is_overwritten(
    maker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = net_graph(maker(), Net())
    devices = []
    reset = nn.Linear.reset_parameters

    def watched(self: nn.Linear) -> None:
        devices.append(self.weight.device.type)
        reset(self)

    monkeypatch.setattr(nn.Linear, "reset_parameters", watched)
    graph.to_module()
    assert set(devices) <= {"meta"}
    to_module(graph, seed=0)
    assert "cpu" in devices


# --- parsed models ---------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(True))
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        y += x
        out: torch.Tensor = self.act(y)
        return out


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, bias=False)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(4, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.stem(image))
        out: torch.Tensor = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 8, 2, batch_first=True)
        self.a = nn.Linear(8, 4)
        self.b = self.a
        self.start = nn.Parameter(torch.randn(6))
        self.register_buffer("table", torch.arange(8.0), persistent=False)

    def forward(
        self, batch: dict[str, torch.Tensor], *, scale: float = 2.0
    ) -> dict[str, torch.Tensor | tuple[torch.Tensor, ...]]:
        x = batch["x"] + self.start
        out, (h, c) = self.rnn(x)
        flat = out.reshape(x.shape[0], -1)[:, :8] * scale + self.table
        with torch.no_grad():
            mean = flat.mean(0)
        return {"y": self.a(flat - mean), "h": (h[-1], c), "v": self.b(h[0])}


MODELS: list[tuple[type[nn.Module], tuple[Any, ...]]] = [
    (Residual, (torch.randn(2, 3, 8, 8),)),
    (Recurrent, ({"x": torch.randn(3, 5, 6)},)),
]


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [t for part in parts for t in tensors(part)]


@pytest.mark.parametrize(("kind", "inputs"), MODELS)
def test_parsed_models_are_rebuilt(kind: type[nn.Module], inputs: tuple[Any, ...]) -> None:
    model = kind()
    graph = parse(model, inputs)
    graph.verify()
    made = graph.to_module()
    scope: dict[str, Any] = {"__name__": "model"}
    exec(compile(graph.to_source(), "model.py", "exec", dont_inherit=True), scope)
    written = scope["Model"]()
    again = Graph.from_text(str(graph))
    assert str(again) == str(graph)
    for other in (made, written):
        assert list(other.state_dict()) == list(model.state_dict())
        other.load_state_dict(model.state_dict(), strict=True)
        for training in (True, False):
            found = tensors(copy.deepcopy(other).train(training)(*inputs))
            wanted = tensors(copy.deepcopy(model).train(training)(*inputs))
            assert len(found) == len(wanted)
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    if not graph.context.constants and not any(r.op == "buffer" for r in graph.records()):
        assert again.canonical_hash() == graph.canonical_hash()
