from __future__ import annotations

import math
import sys
from collections import namedtuple
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from retiarii.errors import GraphError
from retiarii.ir.forms.text import parse_text, print_graph
from retiarii.ir.forms.text_print import print_value
from retiarii.ir.forms.text_read import LineReader
from retiarii.ir.graph import Graph
from retiarii.ir.types import (
    BatchSize,
    FrozenDict,
    FrozenList,
    InputDevice,
    Operand,
    Ref,
    Result,
    Training,
    TypeOf,
)

Pair = namedtuple("Pair", ["left", "right"])


def same(graph: Graph) -> Graph:
    """The graph read back; equal in all that text holds."""
    text = print_graph(graph)
    again = parse_text(text)
    assert print_graph(again) == text
    assert list(again.records()) == list(graph.records())
    assert again.output_refs() == graph.output_refs()
    assert again.output_structure == graph.output_structure
    for field in ("forward", "batch", "training", "ties", "modes", "frozen"):
        assert getattr(again.context, field) == getattr(graph.context, field)
    return again


def test_it_reads_as_one_line_a_node(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 1, 8, 8)
    y = m.layer(nn.Conv2d(1, 16, 3, padding=1), x, path="stem.0")
    graph = m.graph(m.add("relu", y, name="act"), structure=Result(0))
    lines = print_graph(graph).splitlines()
    assert lines[0] == "graph (batch=2, training=True) {"
    assert lines[1] == "  forward (x=$0)"
    assert lines[2] == "  %x = input() : float32[2, 1, 8, 8]"
    assert lines[3].startswith("  %stem.0 = Conv2d(%x, in_channels=1, out_channels=16, ")
    assert lines[3].endswith('@ "stem.0" : float32[2, 16, 8, 8]')
    assert lines[4:] == ["  %act = relu(%stem.0) : float32[2, 16, 8, 8]", "  return %act", "}"]
    same(graph)


def test_structures_and_several_results_round_trip(maker: Any) -> None:
    m = maker()
    x = m.input("batch.image", 5, 2, 4)
    rnn = m.layer(nn.LSTM(4, 4, 2), x, path="rnn")
    top = m.add("getitem", Ref(rnn.node, 1), index=(slice(None, None, 2), 0, ...))
    structure = (Result(0), FrozenDict((("h", Result(1)), ("c", FrozenList((Result(2), None))))))
    graph = m.graph(rnn, top, Ref(rnn.node, 2), structure=structure)
    same(graph)


def test_outputs_out_of_order_round_trip(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 4)
    y = m.add("relu", x)
    same(m.graph(x, y, structure=(Result(1), Result(0), Result(1))))
    same(m.graph(x, y, structure=(Result(0), Result(1))))


def test_headers_and_flags_round_trip(maker: Any) -> None:
    from retiarii.ir.context import InputSpec

    m = maker(batch=3)
    x = m.input("x", 3, 4)
    y = m.layer(nn.Linear(4, 4), x, path="a", no_grad=True)
    z = m.layer(nn.Linear(4, 4), y, path="b", fresh=True)
    w = m.layer(nn.BatchNorm1d(4), z, path="n")
    graph = m.graph(
        m.add("mul", w, m.parameter("scale", 4)),
        structure=Result(0),
        forward=InputSpec((("x", Result(0)), ("flag", True), ("mask", None)), frozenset({"mask"})),
        training=False,
        ties={"b.weight": "a.weight"},
        modes={"n": True},
        frozen=frozenset({"a.bias", "n.weight"}),
        weights={},
    )
    same(graph)


def test_small_constants_are_in_the_text(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 3)
    value = torch.tensor([[0.1, float("inf"), -0.0]])
    graph = m.graph(m.add("add", x, m.constant("shift", value)), structure=Result(0))
    again = same(graph)
    held = again.context.constants["shift"]
    assert torch.equal(held, value)
    assert math.copysign(1, held[0, 2]) == -1
    m = maker()
    big = m.constant("big", torch.zeros(100))
    again = same(m.graph(m.add("add", m.input("x", 2, 100), big), structure=Result(0)))
    assert not again.context.constants


def test_names_of_all_kinds_round_trip(maker: Any) -> None:
    m = maker()
    x = m.input("x", 2, 4)
    for name in ("0", "stem.0@1", "with space", 'quo"te', "a#1", "größe", "%", "back\\slash"):
        x = m.add("relu", x, name=name)
    same(m.graph(x, structure=Result(0)))


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.complex_numbers(allow_nan=False),
    st.just(...),
    st.builds(Operand, st.integers(0, 9)),
    st.builds(BatchSize, st.integers(-9, 9), st.integers(1, 9), st.integers(-9, 9)),
    st.builds(Training, st.booleans()),
    st.just(InputDevice()),
    st.sampled_from(
        [
            torch.float16,
            torch.bool,
            torch.strided,
            torch.channels_last,
            torch.device("cuda:1"),
            TypeOf(Pair),
        ]
    ),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(FrozenList),
        st.lists(st.tuples(inner, inner), max_size=3).map(FrozenDict),
        st.builds(slice, inner, inner, inner),
    ),
    max_leaves=8,
)


@given(value=VALUES)
def test_every_value_round_trips(value: Any) -> None:
    reader = LineReader(print_value(value), 1)
    again = reader.value(Operand)
    reader.end()
    assert repr(again) == repr(value)


GOOD = """graph (batch=2, training=True) {
  forward (x=$0)
  %x = input() : float32[2, 4]
  %y = relu(%x) : float32[2, 4]
  return %y
}
"""


def test_comments_blank_lines_and_a_missing_header_are_fine() -> None:
    text = GOOD.replace("  forward (x=$0)\n", "\n  # a comment\n").replace(
        "relu(%x)", "relu( %x , )  "
    )
    assert print_graph(parse_text(text)) == GOOD


@pytest.mark.parametrize(
    ("old", "new", "line", "cause"),
    [
        ("relu(%x)", "relu(%z)", 4, "%z is read"),
        ("relu(%x)", "relu(%x#1)", 4, "no result number 1"),
        ("relu(%x)", "relu(%x", 4, "expected ')'"),
        ("relu(%x)", "relu(dim=1, %x)", 4, "behind an attribute"),
        ("relu(%x)", "relu(%x, a=1, a=2)", 4, "given twice"),
        ("relu(%x)", "relu(%x, a=)", 4, "expected a value"),
        ("relu(%x)", "relu(%x, a=torch.load)", 4, "not a dtype"),
        ("relu(%x)", "relu(%x, a=__import__)", 4, "expected a value"),
        ("relu(%x)", 'relu(%x, a=type("nowhere.here:Thing"))', 4, "is not loaded"),
        ("relu(%x)", "relu(%x, a=<object>)", 4, "no text form"),
        ("relu(%x)", "relu(%x) ;", 4, "not part of the language"),
        ("%y = relu", "%x = relu", 4, "two nodes"),
        ("float32[2, 4]\n  %y", "float33[2, 4]\n  %y", 3, "not a dtype"),
        ("float32[2, 4]\n  %y", "float32[2, 4.5]\n  %y", 3, "whole number"),
        ("return %y", "return %z", 5, "%z is read"),
        ("return %y\n", "return %y\n  %z = relu(%x) : float32[2, 4]\n", 6, "behind the return"),
        ("  return %y\n", "", 5, "returns nothing"),
        ("}\n", "", 5, "not closed"),
        ("}\n", "}\nmore\n", 7, "behind the graph's closing brace"),
        ("graph (batch=2", "graph (batch=0", 1, "positive"),
        ("graph (batch=2", "graph (size=2", 1, "has no 'size'"),
        ("graph", "model", 1, "expected 'graph'"),
        ("forward (x=$0)", "backward (x=$0)", 2, "cannot start with"),
    ],
)
def test_errors_name_the_line(old: str, new: str, line: int, cause: str) -> None:
    assert old in GOOD
    with pytest.raises(GraphError) as caught:
        parse_text(GOOD.replace(old, new, 1))
    assert cause in caught.value.cause
    assert str(caught.value.where).startswith(f"line {line}:")
    assert caught.value.fix


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("relu(%x) : float32[2, 4]", "relu(%x) : float32[2, 5]", "types"),
        ("relu(%x)", "rellu(%x)", "no op is called"),
        ("forward (x=$0)", "forward (x=$1)", "forward's parameters"),
    ],
)
def test_what_is_read_is_verified(old: str, new: str, cause: str) -> None:
    with pytest.raises(GraphError, match=cause):
        parse_text(GOOD.replace(old, new, 1))


def test_an_empty_text_is_an_error() -> None:
    with pytest.raises(GraphError, match="no graph"):
        parse_text("# nothing\n")


def test_reading_imports_nothing() -> None:
    assert "turtle" not in sys.modules
    with pytest.raises(GraphError, match="is not loaded"):
        LineReader('type("turtle:Turtle")', 1).value()
    assert "turtle" not in sys.modules
    with pytest.raises(GraphError, match="is not loaded"):
        LineReader('type("os:system")', 1).value()


def test_a_graph_from_text_is_built_with_fresh_weights() -> None:
    module = parse_text(
        GOOD.replace("relu(%x)", 'Linear(%x, in_features=4, out_features=4, bias=True) @ "y"')
    ).to_module(seed=0)
    assert set(module.state_dict()) == {"y.weight", "y.bias"}
    assert module(torch.zeros(3, 4)).shape == (3, 4)
