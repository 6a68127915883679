"""Edits: each leaves a graph that verifies, or raises and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from retiarii.errors import GraphError, ShapeError
from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Conv2d(8, 8, 1)
        self.right = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = F.relu(self.left(x)) + self.right(x)
        return self.head(self.norm(y).mean((2, 3)))


@pytest.fixture
def graph() -> Graph:
    return parse(Net(), torch.zeros(2, 3, 6, 6))


def unchanged(graph: Graph, edit: Any, words: str) -> None:
    before = str(graph)
    records = [id(r) for r in graph.records()]
    with pytest.raises(GraphError, match=words):
        edit()
    assert str(graph) == before
    assert [id(r) for r in graph.records()] == records
    graph.verify()


def runs(graph: Graph) -> torch.Tensor:
    graph.verify()
    module = graph.to_module(seed=0)
    return module(torch.randn(3, 3, 6, 6))


def test_insert_and_replace(graph: Graph) -> None:
    (x,) = graph.node("right").inputs
    new = graph.insert(nn.Conv2d(8, 8, 5, padding=2), x, name="five")
    assert new.shape == (2, 8, 6, 6)
    assert new.users == ()
    graph.replace(graph.node("right"), new)
    assert "right" not in graph
    assert [u.op for u in graph.node("five").users] == ["add"]
    module = graph.to_module(seed=0)
    assert "five.weight" in module.state_dict()
    assert "right.weight" not in module.state_dict()
    assert runs(graph).shape == (3, 4)


def test_insert_takes_many_forms(graph: Graph) -> None:
    x = graph.node("stem")
    assert graph.insert(nn.Conv2d, x, out_channels=5, kernel_size=3).shape == (2, 5, 4, 4)
    assert graph.insert(nn.LayerNorm, x).attrs["normalized_shape"] == (6,)
    assert graph.insert(torch.cat, [x, x], dim=1).shape == (2, 16, 6, 6)
    assert graph.insert(torch.add, x, 1.0).shape == (2, 8, 6, 6)
    assert graph.insert("relu", x).op == "relu"
    assert graph.insert(F.max_pool2d, x, 2).shape == (2, 8, 3, 3)
    block = nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU())
    assert graph.insert(block, x, name="block").name == "block.1"
    assert graph.insert(Residual(8), x, name="res").shape == (2, 8, 6, 6)
    assert graph.insert(parse(Residual(8), torch.zeros(2, 8, 6, 6)), x).shape == (2, 8, 6, 6)
    graph.verify()


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) * self.scale


def test_taken_names_are_numbered(graph: Graph) -> None:
    x = graph.node("stem")
    assert [graph.insert(nn.ReLU(), x, name="a").name for _ in range(3)] == ["a", "a_1", "a_2"]


def test_update_resizes_what_consumes(graph: Graph) -> None:
    graph.update(graph.node("stem"), out_channels=12)
    assert graph.node("left").attrs["in_channels"] == 12
    assert graph.node("right").attrs["in_channels"] == 12
    assert graph.node("norm").attrs["num_features"] == 8
    assert runs(graph).shape == (3, 4)


def test_edits_together_fit_where_each_alone_does_not(graph: Graph) -> None:
    unchanged(graph, lambda: graph.update(graph.node("left"), out_channels=16), "16.*8|8.*16")
    with graph.edits():
        graph.update(graph.node("left"), out_channels=16)
        graph.update(graph.node("right"), out_channels=16)
        assert graph.node("norm").shape == (2, 16, 6, 6)
    assert graph.node("head").attrs["in_features"] == 16
    assert runs(graph).shape == (3, 4)


def test_a_failure_inside_edits_takes_all_back(graph: Graph) -> None:
    def edit() -> None:
        with graph.edits():
            graph.update(graph.node("stem"), out_channels=4)
            new = graph.insert(nn.Tanh(), graph.node("stem"))
            graph.rewire(graph.node("left"), 0, new)
            graph.remove(graph.node("norm"))
            graph.update(graph.node("left"), out_channels=3)

    unchanged(graph, edit, "3, 6, 6")


def test_a_caught_failure_inside_edits_takes_back_only_itself(graph: Graph) -> None:
    with graph.edits():
        graph.remove(graph.node("norm"))
        with pytest.raises(GraphError):
            graph.insert(nn.Linear(3, 3), graph.node("nowhere"))
    assert "norm" not in graph
    assert runs(graph).shape == (3, 4)


def test_remove(graph: Graph) -> None:
    graph.remove(graph.node("norm"))
    assert "norm" not in graph
    add = next(n for n in graph.nodes if n.op == "add")
    unchanged(graph, lambda: graph.remove(add), "2 inputs")
    unchanged(graph, lambda: graph.remove(graph.inputs[0]), "users")


def test_what_an_edit_leaves_unused_goes(graph: Graph) -> None:
    add = next(n for n in graph.nodes if n.op == "add")
    graph.replace(add, add.inputs[1])
    assert "left" not in graph
    assert not [n for n in graph.nodes if n.op == "relu"]
    assert runs(graph).shape == (3, 4)


def test_rewire(graph: Graph) -> None:
    graph.rewire(graph.node("right"), 0, graph.node("left"))
    assert graph.node("right").inputs[0].name == "left"
    assert [n.name for n in graph.nodes].index("left") < [n.name for n in graph.nodes].index(
        "right"
    )
    runs(graph)


def test_cycles_are_refused(graph: Graph) -> None:
    unchanged(
        graph, lambda: graph.rewire(graph.node("stem"), 0, graph.node("norm")), "follow from itself"
    )
    unchanged(
        graph, lambda: graph.rewire(graph.node("norm"), 0, graph.node("norm")), "follow from itself"
    )
    new = graph.insert(nn.Tanh(), graph.node("stem"))
    unchanged(graph, lambda: graph.replace(graph.node("stem"), new), "follow from itself")


def test_an_edit_may_move_nodes_in_the_order(graph: Graph) -> None:
    late = graph.insert(nn.Conv2d(8, 8, 1), graph.node("norm"), name="late")
    other = graph.insert(nn.Conv2d(3, 8, 1), graph.inputs[0], name="other")
    graph.rewire(graph.node("late"), 0, other)
    add = next(n for n in graph.nodes if n.op == "add")
    graph.rewire(add, 0, late)
    assert runs(graph).shape == (3, 4)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda g: g.node("steem"), "stem"),
        (lambda g: g.update(g.node("stem"), out_chanels=3), "out_channels"),
        (lambda g: g.update(g.node("stem"), stride=g.node("left")), "rewire"),
        (lambda g: g.insert(nn.Conv2d, g.node("stem"), kernel=3), "kernel_size"),
        (lambda g: g.insert(nn.Conv2d, g.node("stem"), out_channels=3), "kernel_size"),
        (lambda g: g.insert("rellu", g.node("stem")), "relu"),
        (lambda g: g.insert(len, g.node("stem")), "not a function of torch"),
        (lambda g: g.insert(3, g.node("stem")), "int cannot be inserted"),
        (lambda g: g.insert(nn.ReLU(), "stem"), "needs a node"),
        (lambda g: g.insert(nn.Conv2d(8, 8, 9), g.node("stem")), "6, 6"),
        (lambda g: g.insert(torch.cat, [g.node("stem"), g.inputs[0]], dim=2), "8, 6, 6"),
        (lambda g: g.rewire(g.node("stem"), 1, g.inputs[0]), "1 inputs"),
        (lambda g: g.replace(g.node("stem"), g.node("stem")), "itself"),
        (lambda g: g.replace(g.inputs[0], g.node("stem")), "input of the model"),
        (lambda g: g.insert(nn.ReLU(), g.copy().node("stem")), "another graph"),
    ],
)
def test_what_is_refused(graph: Graph, edit: Any, words: str) -> None:
    unchanged(graph, lambda: edit(graph), words)


def test_a_removed_node_is_named(graph: Graph) -> None:
    norm = graph.node("norm")
    graph.remove(norm)
    unchanged(graph, lambda: graph.insert(nn.ReLU(), norm), "removed")
    assert "removed" in repr(norm)


def test_copies_are_independent(graph: Graph) -> None:
    before = str(graph)
    twin = graph.copy()
    twin.update(twin.node("stem"), out_channels=2)
    assert str(graph) == before
    assert str(twin) != before


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.inner(torch.tanh(self.inner(x))))


def test_the_calls_of_one_module_change_together() -> None:
    graph = parse(Tied(), torch.zeros(2, 4))
    unchanged(graph, lambda: graph.update(graph.node("inner"), out_features=6), "inner")
    graph.update(graph.node("inner@1"), bias=False)
    assert graph.node("inner").attrs["bias"] is False
    assert "inner.bias" not in graph.to_module().state_dict()
    graph.verify()


def test_a_parameter_that_is_broadcast_follows() -> None:
    graph = parse(nn.Sequential(nn.Conv2d(3, 8, 1), Residual(8)), torch.zeros(2, 3, 4, 4))
    with graph.edits():
        graph.update(graph.node("0"), out_channels=5)
        graph.update(graph.node("1.conv"), out_channels=5)
    assert graph.to_module(seed=1).state_dict()["1.scale"].shape == (5, 1, 1)
    assert graph.to_module(seed=1)(torch.zeros(2, 3, 4, 4)).shape == (2, 5, 4, 4)


def test_find(graph: Graph) -> None:
    def names(pattern: Any) -> list[str]:
        return [n.name for n in graph.find(pattern)]

    assert names("stem") == ["stem"]
    assert names("*t") == [n.name for n in graph.nodes if n.name.endswith("t")]
    assert names(lambda n: n.op == "Conv2d" and n.attrs["kernel_size"] == (3, 3)) == [
        "stem",
        "right",
    ]
    assert names(["norm", "stem", "l*t"]) == ["stem", "left", "norm"]
    assert names("nothing") == []


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "replace", "remove", "update", "rewire"]),
        st.integers(0, 30),
        st.integers(0, 30),
        st.integers(1, 9),
    ),
    max_size=12,
)


@example([("update", 1, 0, 1), ("insert", 0, 7, 1)], True)
@example([("replace", 1, 0, 1), ("insert", 0, 6, 1)], True)
@settings(max_examples=60, deadline=None)
@given(EDITS, st.booleans())
def test_random_edits_keep_a_graph_that_verifies(edits: list[Any], together: bool) -> None:
    graph = parse(Net(), torch.zeros(2, 3, 6, 6))

    def apply() -> None:
        for kind, a, b, width in edits:
            nodes = graph.nodes
            one, two = nodes[a % len(nodes)], nodes[b % len(nodes)]
            before = None if together else str(graph)
            try:
                if kind == "insert":
                    graph.insert(nn.Conv2d, two, out_channels=width, kernel_size=1)
                elif kind == "replace":
                    graph.replace(one, two)
                elif kind == "remove":
                    graph.remove(one)
                elif kind == "update" and one.op == "Conv2d":
                    graph.update(one, out_channels=width)
                elif kind == "rewire" and one.inputs:
                    graph.rewire(one, b % len(one.inputs), two)
            except GraphError:
                if not together:
                    assert str(graph) == before
            if not together:
                graph.verify()

    start = str(graph)
    if together:
        try:
            with graph.edits():
                apply()
        except ShapeError:
            assert str(graph) == start
    else:
        apply()
    graph.verify()
    module = graph.to_module(seed=0)
    made = module(torch.randn(2, 3, 6, 6))
    assert tuple(made.shape) == graph.outputs[0].shape


class Two(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + 1, x * 2


def test_a_module_of_several_results_is_not_cut_short(graph: Graph) -> None:
    unchanged(graph, lambda: graph.insert(Two(), graph.node("stem")), "no single node")
    split = graph.insert(torch.chunk, graph.node("stem"), 2, dim=1)
    assert [v.shape for v in split] == [(2, 4, 6, 6), (2, 4, 6, 6)]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 6, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


def test_a_module_that_returns_a_part_of_a_result() -> None:
    graph = parse(nn.Sequential(nn.Linear(6, 6), nn.Tanh()), torch.zeros(2, 5, 6))
    graph.replace(graph.node("1"), graph.insert(Recurrent(), graph.node("0"), name="rnn"))
    graph.verify()
    assert graph.to_module(seed=0)(torch.zeros(3, 4, 6)).shape == (3, 4, 6)
