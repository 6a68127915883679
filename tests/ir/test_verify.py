from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from retiarii.errors import GraphError
from retiarii.ir.context import InputSpec
from retiarii.ir.graph import Graph
from retiarii.ir.node import NodeRecord
from retiarii.ir.types import Attrs, Operand, Ref, Result, TensorType
from retiarii.ir.verify import verify

KIND = TensorType((2, 4), torch.float32)


@pytest.fixture
def good(maker: Any) -> Graph:
    m = maker()
    x = m.input("x", 2, 4)
    y = m.layer(nn.Linear(4, 4), x, path="fc")
    z = m.add("mul", y, m.parameter("scale", 4))
    m.layer(nn.Linear(4, 4), z, path="fc")
    return m.graph(m.add("add", z, m.buffer("shift", torch.zeros(4))))  # type: ignore[no-any-return]


def with_record(graph: Graph, **changes: Any) -> Graph:
    """The graph with one record changed, as no edit would."""
    name = changes.pop("name")
    record = graph._records[name]
    fields = {f: getattr(record, f) for f in NodeRecord.__slots__}
    graph._records[name] = NodeRecord(**{**fields, **changes})
    return graph


def test_a_good_graph_verifies(good: Graph) -> None:
    verify(good)


@pytest.mark.parametrize(
    ("name", "changes", "cause"),
    [
        ("mul", {"inputs": (Ref("nowhere"), Ref("scale"))}, "no earlier node makes"),
        ("mul", {"inputs": (Ref("add"), Ref("scale"))}, "no earlier node makes"),
        ("mul", {"inputs": (Ref("fc", 1), Ref("scale"))}, "result 1 of 'fc'"),
        ("mul", {"types": (TensorType((2, 5), torch.float32),)}, "its types are"),
        ("mul", {"result": (Result(0),)}, "it returns"),
        ("mul", {"attrs": Attrs(other=Operand(5))}, "input 5"),
        ("mul", {"attrs": Attrs(other=torch.zeros(1))}, "holds a tensor"),
        ("mul", {"op": "multiplication"}, "no op is called"),
        ("fc", {"path": None}, "no path"),
        ("fc", {"attrs": Attrs(in_features=4, out_features=5, bias=True)}, "types are"),
        ("scale", {"attrs": Attrs(shape=(4,))}, "attribute 'dtype'"),
        ("scale", {"attrs": Attrs(shape=(5,), dtype=torch.float32, requires_grad=True)}, "type"),
        ("scale", {"path": None}, "path"),
        ("shift", {"attrs": Attrs(shape=(4,), dtype=torch.float32)}, "'persistent'"),
        ("x", {"attrs": Attrs(a=1)}, "an input reads nothing"),
    ],
)
def test_each_rule_names_its_node(
    good: Graph, name: str, changes: dict[str, Any], cause: str
) -> None:
    with pytest.raises(GraphError) as caught:
        verify(with_record(good, name=name, **changes))
    assert cause in caught.value.cause
    assert repr(name) in str(caught.value)
    assert caught.value.fix


def test_calls_of_one_module_agree(good: Graph) -> None:
    second = next(r.name for r in good.records() if r.path == "fc" and r.name != "fc")
    other = Attrs(in_features=4, out_features=4, bias=False)
    with pytest.raises(GraphError, match="shares module 'fc'"):
        verify(with_record(good, name=second, attrs=other))


def test_structural_nodes_have_their_attributes(maker: Any) -> None:
    for op, attrs, path, cause in (
        ("opaque", {}, "deep", "has a reason"),
        ("opaque", {"reason": "why"}, None, "path of its module"),
        ("constant", {}, None, "has a key"),
    ):
        m = maker()
        m.input("x", 2, 4)
        m.records["bad"] = NodeRecord("bad", op, (), Attrs(attrs), (KIND,), path=path)
        with pytest.raises(GraphError, match=cause):
            verify(m.graph(Ref("bad")))


def test_outputs_exist(good: Graph) -> None:
    good._outputs = (Ref("nowhere"),)
    with pytest.raises(GraphError, match="which nothing makes"):
        verify(good)


def test_the_structure_names_all_outputs(good: Graph) -> None:
    good.output_structure = (Result(0), Result(1))
    with pytest.raises(GraphError, match="names outputs"):
        verify(good)


def test_forward_holds_all_inputs(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 4)
    m.input("y", 2, 4)
    with pytest.raises(GraphError, match="hold inputs"):
        verify(m.graph(x, forward=InputSpec((("x", Result(0)),))))


def test_users_are_what_reads(good: Graph) -> None:
    good._users["fc"] = {}
    with pytest.raises(GraphError, match="list of users"):
        verify(good)


def test_calls_of_one_module_may_differ_in_their_arguments(maker: Any) -> None:
    m = maker()
    x = m.input("x", 3, 2, 4)
    layer = nn.MultiheadAttention(4, 2)
    first = m.layer(layer, x, x, x, path="mix")
    graph = m.graph(m.layer(layer, first, first, first, path="mix", need_weights=False))
    verify(graph)
