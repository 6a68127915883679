"""Handles: what they read, and which of them are the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from retiarii.errors import GraphError
from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse


@pytest.fixture
def graph() -> Graph:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 4, batch_first=True)
            self.head = nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made, state = self.rnn(x)
            return self.head(made) + state.sum()

    return parse(Net(), torch.zeros(2, 7, 3))


def test_handles_are_equal_where_they_name_the_same(graph: Graph) -> None:
    node = graph.node("rnn")
    assert node == graph.node("rnn")
    assert hash(node) == hash(graph.node("rnn"))
    assert node != graph.node("head")
    assert node != graph.copy().node("rnn")
    assert node[0] == graph.node("rnn")[0]
    assert node[0] != node[1]
    assert len({node[0], node[1], node[-1], node[-2]}) == 2
    # A node serves for its first tensor, and is not it.
    assert node != node[0]
    assert node[0] != node
    assert node != "rnn"


def test_values_read_what_the_graph_holds_now(graph: Graph) -> None:
    node, head = graph.node("rnn"), graph.node("head")
    made, state = node
    assert (made.name, made.index, made.node, made.graph) == ("rnn", 0, node, graph)
    assert (made.shape, state.shape) == ((2, 7, 4), (1, 2, 4))
    assert state.dtype is torch.float32
    assert head.shape == head[0].shape == (2, 7, 5)
    graph.update(node, hidden_size=6)
    assert (made.shape, state.shape) == ((2, 7, 6), (1, 2, 6))


def test_a_node_of_several_tensors_has_no_one_type(graph: Graph) -> None:
    with pytest.raises(GraphError, match="makes 2 tensors"):
        graph.node("rnn").shape  # noqa: B018
    with pytest.raises(IndexError, match="makes 2 tensors, not 3"):
        graph.node("rnn")[2]
