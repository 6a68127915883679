"""Edits of edges and regions: insertion on an edge, copies, moves, and who follows whom."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from retiarii.errors import GraphError
from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.scale = nn.Parameter(torch.rand(width, 1, 1))
        self.register_buffer("shift", torch.rand(width, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.norm(self.conv(x)) * self.scale + self.shift)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = Block(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.stem(x)).mean((2, 3)))


@pytest.fixture
def net() -> nn.Module:
    return Net().double().eval()


@pytest.fixture
def graph(net: nn.Module) -> Graph:
    return parse(net, torch.zeros(2, 3, 6, 6, dtype=torch.float64))


def names(nodes: Any) -> list[str]:
    return [node.name for node in nodes]


def unchanged(graph: Graph, edit: Any, words: str) -> None:
    before, context = str(graph), graph.context
    with pytest.raises(GraphError, match=words):
        edit()
    assert str(graph) == before
    assert graph.context is context
    graph.verify()


def computes(graph: Graph, net: nn.Module) -> None:
    graph.verify()
    x = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(graph.to_module()(x), net(x))


# --- edges ----------------------------------------------------------------------------------------


def test_all_that_reads_a_value_reads_what_is_inserted(graph: Graph) -> None:
    users = names(graph.node("stem").users)
    assert len(users) == 2
    new = graph.insert_on_edge(graph.node("stem"), nn.Tanh(), name="tanh")
    assert names(new.users) == users
    assert names(graph.node("stem").users) == ["tanh"]
    graph.verify()


def test_a_sequence_of_layers_goes_on_an_edge(graph: Graph) -> None:
    layers = nn.Sequential(nn.Conv2d(8, 8, 1, dtype=torch.float64), nn.ReLU())
    graph.insert_after(graph.node("block.conv"), layers, name="more")
    assert names(graph.node("block.conv").users) == ["more.0"]
    assert names(graph.node("block.norm").inputs) == ["more.1"]
    wide = nn.Conv2d(8, 12, 1, dtype=torch.float64)
    unchanged(graph, lambda: graph.insert_after(graph.node("stem"), wide, name="w"), "block.shift")


def test_one_input_of_one_node(graph: Graph) -> None:
    add = graph.node("block.add")
    new = graph.insert_on_edge((add, 0), nn.Tanh())
    assert names(new.users) == ["block.add"]
    assert sorted(names(graph.node("stem").users)) == sorted(["block.conv", new.name])


def test_the_models_outputs_are_users_too(graph: Graph) -> None:
    new = graph.insert_after(graph.node("head"), nn.Softmax(dim=-1))
    assert names(v.node for v in graph.outputs) == [new.name]
    model = graph.to_module()
    made = model(torch.randn(2, 3, 6, 6, dtype=torch.float64))
    assert torch.allclose(made.sum(-1), torch.ones(2, dtype=torch.float64))


def test_a_skip_connection_is_one_edit(graph: Graph) -> None:
    (x,) = graph.node("block.norm").inputs
    added = graph.insert_after(graph.node("block.norm"), torch.add, x, name="skip")
    assert names(added.users) == ["block.mul"]
    assert [v.name for v in added.inputs] == ["block.norm", "block.conv"]
    graph.verify()


def test_one_result_of_several(graph: Graph) -> None:
    class Halves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = x.chunk(2, 1)
            return a * b

    halves = parse(Halves(), torch.zeros(2, 4))
    chunk = next(n for n in halves.nodes if n.op == "chunk")
    mul = next(n for n in halves.nodes if n.op == "mul")
    new = halves.insert_on_edge(chunk[1], nn.ReLU())
    assert [v.name for v in mul.inputs] == [chunk.name, new.name]
    unchanged(halves, lambda: halves.insert_on_edge(chunk, nn.ReLU()), "makes 2 tensors")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda g: g.insert_after(g.node("stem"), nn.Conv2d(8, 8, 9)), "6, 6"),
        (lambda g: g.insert_after(g.node("stem"), torch.add, g.node("block.norm")), "from itself"),
        (lambda g: g.insert_on_edge((g.node("stem"), 1), nn.ReLU()), "1 inputs"),
        (lambda g: g.insert_on_edge((g.node("stem"), -1), nn.ReLU()), "1 inputs"),
        (lambda g: g.insert_after(g.node("stem"), torch.chunk, 2, dim=1), "2 tensors"),
        (lambda g: g.insert_after(g.copy().node("stem"), nn.ReLU()), "another graph"),
    ],
)
def test_what_does_not_go_changes_nothing(graph: Graph, edit: Any, words: str) -> None:
    unchanged(graph, lambda: edit(graph), words)


def test_within_edits_a_failure_takes_back_only_itself(graph: Graph, net: nn.Module) -> None:
    with graph.edits():
        with pytest.raises(GraphError):
            graph.insert_after(graph.node("stem"), nn.Conv2d(8, 8, 9))
        graph.insert_after(graph.node("stem"), nn.Identity())
    computes(graph, net)


# --- who follows whom -----------------------------------------------------------------------------


def test_neighbours(graph: Graph) -> None:
    stem, head = graph.node("stem"), graph.node("head")
    assert names(graph.successors(stem)) == names(stem.users)
    assert names(graph.predecessors(graph.node("block.conv"))) == ["stem"]
    assert set(names(graph.predecessors(graph.node("block.mul")))) == {"block.norm", "block.scale"}
    assert names(graph.predecessors(graph.inputs[0])) == []
    assert "head" in names(graph.successors(stem, transitive=True))
    every = set(names(graph.nodes))
    assert set(names(graph.predecessors(head, transitive=True))) == every - {"head"}


def test_between(graph: Graph) -> None:
    stem, conv, add = (graph.node(n) for n in ("stem", "block.conv", "block.add"))
    assert names(graph.between(stem, add)) == ["block.conv", "block.norm", "block.mul"]
    assert names(graph.between(stem, conv)) == []
    assert names(graph.between(add, stem)) == []


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_between_is_what_follows_one_and_leads_to_the_other(data: st.DataObject) -> None:
    graph = parse(Net(), torch.zeros(2, 3, 6, 6))
    first, last = (data.draw(st.sampled_from(graph.nodes)) for _ in "ab")
    after = set(names(graph.successors(first, transitive=True)))
    before = set(names(graph.predecessors(last, transitive=True)))
    assert set(names(graph.between(first, last))) == after & before


# --- copies ---------------------------------------------------------------------------------------


def test_a_copied_region_is_a_new_one(graph: Graph) -> None:
    made = graph.duplicate("block")
    assert {m.name for m in made.values()} == {n.replace("block", "block_1") for n in made}
    out = made["block.relu_1"] if "block.relu_1" in made else made["block.relu"]
    assert "block_1.scale" in graph
    assert [v.name for v in made["block.conv"].inputs] == ["stem"]
    graph.insert_on_edge(graph.node("block.relu"), torch.add, out)
    graph.verify()
    state = graph.to_module().state_dict()
    assert not torch.equal(state["block.conv.weight"], state["block_1.conv.weight"])
    assert torch.equal(state["block.shift"], state["block_1.shift"])
    assert not torch.equal(state["block.scale"], state["block_1.scale"])


def test_a_copy_can_keep_the_weights_and_read_something_else(graph: Graph) -> None:
    out = graph.node("block.relu")
    made = graph.duplicate(
        "block", name="again", inputs=[(graph.node("stem"), out)], keep_weights=True
    )
    assert [v.name for v in made["block.conv"].inputs] == ["block.relu"]
    graph.rewire(graph.node("mean"), 0, made["block.relu"])
    graph.verify()
    module = graph.to_module()
    state = module.state_dict()
    assert all(torch.equal(state[f"block.{k}"], state[f"again.{k}"]) for k in ("scale", "shift"))
    assert torch.equal(state["block.norm.running_var"], state["again.norm.running_var"])
    net = Net().double().eval()
    net.load_state_dict({k: v for k, v in state.items() if not k.startswith("again")})
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    assert torch.equal(module(x), net.head(net.block(net.block(net.stem(x))).mean((2, 3))))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.inner(torch.tanh(self.inner(x))))


def test_copied_calls_of_one_module_stay_calls_of_one() -> None:
    graph = parse(Tied(), torch.zeros(2, 4))
    made = graph.duplicate([graph.node("inner"), graph.node("tanh"), graph.node("inner@1")])
    first, second = made["inner"], made["inner@1"]
    assert first.path == second.path == "inner_1"
    graph.update(first, bias=False)
    assert second.attrs["bias"] is False
    assert graph.node("inner").attrs["bias"] is True
    graph.verify()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda g: g.duplicate("blok"), "block"),
        (lambda g: g.duplicate(g.inputs[0]), "input of the model"),
        (lambda g: g.duplicate([]), "no nodes"),
        (lambda g: g.outline("block", "stem"), "already"),
        (lambda g: g.outline("block", "stem.inside"), "already"),
        (lambda g: g.outline("block", "x..y"), "module path"),
        (lambda g: g.outline(g.inputs[0], "front"), "input of the model"),
        (lambda g: g.inline("stem"), "not a region"),
        (lambda g: g.inline("nothing"), "known names"),
    ],
)
def test_regions_that_do_not_go(graph: Graph, edit: Any, words: str) -> None:
    unchanged(graph, lambda: edit(graph), words)


# --- moves ----------------------------------------------------------------------------------------


def test_an_outlined_region_is_a_submodule(graph: Graph, net: nn.Module) -> None:
    moved = graph.outline([graph.node(n) for n in ("stem", "block.conv", "block.norm")], "front")
    assert names(moved) == ["front.stem", "front.block.conv", "front.block.norm"]
    computes(graph, net)
    keys = graph.to_module().state_dict().keys()
    assert "front.block.norm.running_mean" in keys
    assert not any(k.startswith("stem") for k in keys)
    assert "self.front.stem = nn.Conv2d(3, 8, 3, padding=1" in graph.to_source()
    assert "front" in {child.path for child in graph.regions().children}


def test_inline_undoes_outline(graph: Graph, net: nn.Module) -> None:
    before, keys = str(graph), list(graph.to_module().state_dict())
    graph.outline([graph.node(n) for n in ("block.conv", "block.norm")], "block.inner")
    assert "block.inner.conv" in graph
    assert "block.inner.conv.weight" in graph.to_module().state_dict()
    graph.inline("block.inner")
    assert str(graph) == before
    assert list(graph.to_module().state_dict()) == keys
    computes(graph, net)


def test_a_region_of_regions_can_be_inlined(graph: Graph, net: nn.Module) -> None:
    block = next(r for r in graph.regions().children if r.path == "block")
    moved = graph.inline(block)
    assert {"conv", "norm", "scale", "shift"} <= set(names(moved))
    computes(graph, net)


def test_a_move_within_edits_can_be_taken_back(graph: Graph, net: nn.Module) -> None:
    def edit() -> None:
        with graph.edits():
            graph.update(graph.node("stem"), bias=False)
            graph.outline("block", "a.b")
            graph.insert_after(graph.node("stem"), nn.ReLU())
            graph.insert_after(graph.node("stem"), nn.Conv2d(8, 8, 9))

    unchanged(graph, edit, "6, 6")
    computes(graph, net)


def test_half_of_a_shared_module_cannot_move() -> None:
    graph = parse(Tied(), torch.zeros(2, 4))
    unchanged(graph, lambda: graph.outline(graph.node("inner"), "a"), "inner@1")
    moved = graph.outline([graph.node("inner"), graph.node("inner@1")], "a")
    assert [n.path for n in moved] == ["a.inner", "a.inner"]
    graph.update(moved[0], bias=False)
    assert moved[1].attrs["bias"] is False
    graph.verify()


def test_moves_leave_copies_alone(graph: Graph) -> None:
    before = str(graph)
    twin = graph.copy()
    twin.outline("block", "a")
    assert str(graph) == before
    assert graph.context is not twin.context
