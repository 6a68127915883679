from __future__ import annotations

from typing import Any

import networkx
import torch
from torch import nn

from retiarii.ir.forms.netx import to_networkx
from retiarii.ir.types import Ref, TensorType


def test_nodes_and_edges_say_what_the_graph_says(maker: Any) -> None:
    m = maker()
    x = m.input("x", 5, 2, 4)
    rnn = m.layer(nn.LSTM(4, 4), x, path="rnn")
    both = m.add("mul", Ref(rnn.node, 2), Ref(rnn.node, 1), name="both")
    view = to_networkx(m.graph(both, rnn, structure=None))
    assert isinstance(view, networkx.MultiDiGraph)
    assert list(view.nodes) == ["x", "rnn", "both"]
    assert view.nodes["rnn"]["op"] == "LSTM"
    assert view.nodes["rnn"]["attrs"]["hidden_size"] == 4
    assert view.nodes["rnn"]["path"] == "rnn"
    assert view.nodes["both"]["types"] == (TensorType((1, 2, 4), torch.float32),)
    assert view.nodes["both"]["output"] == (0,)
    assert view.nodes["rnn"]["output"] == (1,)
    edges = sorted((u, v, d["operand"], d["result"]) for u, v, d in view.edges(data=True))
    assert edges == [("rnn", "both", 0, 2), ("rnn", "both", 1, 1), ("x", "rnn", 0, 0)]
    assert networkx.is_directed_acyclic_graph(view)


def test_an_operand_read_twice_is_two_edges(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 4)
    view = to_networkx(m.graph(m.add("mul", x, x, name="square")))
    assert view.number_of_edges("x", "square") == 2
    view.add_edge("square", "x")  # a view of its own: the graph stays as it is
    assert to_networkx(m.graph(Ref("square"))).number_of_edges() == 2
