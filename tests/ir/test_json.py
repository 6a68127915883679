"""The JSON form: exact round trips, and errors that name the place in the JSON."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from retiarii.errors import GraphError
from retiarii.ir.forms.json_schema import VERSION, GraphForm, json_schema
from retiarii.ir.forms.json_values import read_value, write_value
from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse
from retiarii.ir.types import (
    BatchSize,
    ByMode,
    FrozenDict,
    FrozenList,
    InputDevice,
    Operand,
    Result,
    Training,
    TypeOf,
)

DOCS = Path(__file__).parents[2] / "docs" / "ir.md"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.gain = nn.Parameter(torch.ones(4, 1, 1))
        self.register_buffer("shift", torch.zeros(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x))) * self.gain + self.shift + x


class Picture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.blocks[1].conv.weight.requires_grad_(False)
        self.blocks[1].eval()
        self.drop = nn.Dropout(0.1)
        self.k = torch.tensor([1.0, float("inf"), -2.5, 1e-30])

    def forward(self, x: torch.Tensor) -> Any:
        y = self.drop(self.blocks(x)).view(x.shape[0] * 2, -1)[:, 1:5]
        with torch.no_grad():
            z = y.to(torch.float64).sum(dim=-1, keepdim=True)
        return {"y": y * self.k, "z": [z, (None, 3)]}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.rnn = nn.LSTM(5, 5, batch_first=True)
        self.out = nn.Linear(5, 7, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids: torch.Tensor, *, scale: float = 2.0) -> Any:
        y, (h, _) = self.rnn(self.embed(ids))
        return self.out(y) * scale, h, torch.arange(ids.shape[0], device=ids.device)


Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Output:
    logits: torch.Tensor


class Classes(nn.Module):
    def forward(self, batch: Any) -> Any:
        x, y = batch["pair"].left, batch["more"][0]
        return Output(x + y), Pair(x, y)


class Opaque(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if float(x.detach().sum()) > 0 else x


GRAPHS: dict[str, Callable[[], Graph]] = {
    "picture": lambda: parse(Picture(), torch.randn(2, 4, 6, 6)),
    "tied": lambda: parse(Tied(), torch.zeros(2, 3, dtype=torch.long)),
    "layer": lambda: parse(nn.Linear(3, 4), torch.zeros(2, 3)),
    "classes": lambda: parse(
        Classes(), {"batch": {"pair": Pair(torch.zeros(2, 3), None), "more": [torch.zeros(2, 3)]}}
    ),
    "opaque": lambda: parse(nn.Sequential(Opaque(), nn.ReLU()), torch.ones(2, 3)),
    "encoder": lambda: parse(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.zeros(2, 5, 8)
    ),
}


@pytest.mark.parametrize("name", list(GRAPHS))
def test_round_trip_is_exact(name: str) -> None:
    graph = GRAPHS[name]()
    text = graph.to_json()
    again = Graph.from_json(text)
    assert again.to_json() == text
    assert str(again) == str(graph)
    assert list(again.records()) == list(graph.records())
    assert [r.where for r in again.records()] == [r.where for r in graph.records()]
    assert again.output_structure == graph.output_structure
    for field in ("forward", "batch", "batch_input", "training", "ties", "modes", "frozen"):
        assert getattr(again.context, field) == getattr(graph.context, field)
    assert again.canonical_hash() == Graph.from_text(str(graph)).canonical_hash()


def test_a_graph_from_json_runs_like_the_model() -> None:
    model = Picture()
    x = torch.randn(4, 4, 6, 6)
    again = Graph.from_json(parse(model, x[:2]).to_json()).to_module()
    again.load_state_dict(model.state_dict())
    made, wanted = again.eval()(x), model.eval()(x)
    torch.testing.assert_close(made["y"], wanted["y"])
    torch.testing.assert_close(made["z"][0], wanted["z"][0])


def test_after_an_edit() -> None:
    graph = GRAPHS["picture"]()
    node = graph.node("blocks.0.conv")
    graph.replace(node, graph.insert(nn.Conv2d(4, 4, 1), *node.inputs, name="new"))
    again = Graph.from_json(graph.to_json(indent=None))
    assert list(again.records()) == list(graph.records())
    assert again.record("new").fresh


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(max_size=4),
    st.complex_numbers(allow_nan=False),
    st.just(...),
    st.builds(Operand, st.integers(0, 9)),
    st.builds(Result, st.integers(0, 9)),
    st.builds(BatchSize, st.integers(), st.integers(1, 9), st.integers()),
    st.builds(Training, st.booleans()),
    st.just(InputDevice()),
    st.just(TypeOf(Output)),
    st.sampled_from([torch.float32, torch.int8, torch.strided, torch.channels_last]),
    st.sampled_from([torch.device("cpu"), torch.device("cuda", 1)]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(FrozenList),
        st.lists(st.tuples(st.text(), inner), max_size=3).map(FrozenDict),
        st.builds(slice, inner, inner, inner),
        st.builds(ByMode, inner, inner),
    ),
    max_leaves=6,
)


@given(VALUES)
def test_every_value_comes_back(value: Any) -> None:
    text = json.dumps(write_value(value), allow_nan=False)
    again = read_value(json.loads(text), "$")
    # By their text: 1, 1.0 and True are equal, and a tuple equals a FrozenList.
    assert repr(again) == repr(value)
    assert type(again) is type(value)


def test_a_number_that_is_none_comes_back() -> None:
    assert repr(read_value(write_value(float("nan")), "$")) == "nan"


def test_what_has_no_json_form_is_refused_by_name() -> None:
    assert write_value(torch.Generator()).keys() == {"unprintable"}
    with pytest.raises(GraphError, match="no JSON form") as caught:
        read_value([{"unprintable": "<Thing>"}], "$.x")
    assert caught.value.where == "$.x[0].unprintable"


def edited(change: Callable[[dict[str, Any]], Any]) -> str:
    whole = json.loads(GRAPHS["picture"]().to_json())
    change(whole)
    return json.dumps(whole)


def node_number(whole: dict[str, Any], name: str) -> int:
    return next(i for i, n in enumerate(whole["nodes"]) if n["name"] == name)


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    *keys, last, value = path

    def change(whole: dict[str, Any]) -> None:
        at: Any = whole
        for key in keys:
            at = at[key]
        at[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "where", "cause"),
    [
        (put("version", VERSION + 1), "$.version", "version 2 is not 1"),
        (put("format", "onnx"), "$.format", "retiarii.graph"),
        (put("batch", 0), "$.batch", "greater than 0"),
        (put("batch", "2"), "$.batch", "valid integer"),
        (put("training", 1), "$.training", "valid boolean"),
        (put("colour", "red"), "$.colour", "not permitted"),
        (lambda w: w.pop("nodes"), "$.nodes", "required"),
        (put("nodes", 1, "oops", 1), "$.nodes[1].oops", "not permitted"),
        (put("nodes", 0, "types", 0, "dtype", "f32"), "$.nodes[0].types[0].dtype", "no dtype"),
        (put("nodes", 0, "types", 0, "shape", 1, -4), "$.nodes[0].types[0].shape[1]", "greater"),
        (put("nodes", 1, "name", "x"), "$.nodes[1].name", "two nodes are called 'x'"),
        (put("outputs", 0, "node", "y"), "$.outputs[0].node", "no node above makes it"),
        (put("outputs", 0, "index", 5), "$.outputs[0].index", "no result number 5"),
        (put("returns", {"result": 9}), "$.returns", "no tensor number 9"),
        (put("forward", 0, "value", {"result": 1}), "$.forward[0].value", "no tensor number 1"),
        (put("forward", 0, "value", {"tensor": 1}), "$.forward[0].value", "no kind of value"),
        (put("forward", 0, "value", {}), "$.forward[0].value", "0 keys"),
    ],
)
def test_errors_name_the_place(change: Any, where: str, cause: str) -> None:
    with pytest.raises(GraphError) as caught:
        Graph.from_json(edited(change))
    assert caught.value.where == where
    assert cause in caught.value.cause
    assert caught.value.fix


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ({"dtype": "float33"}, "not a dtype"),
        ({"dtype": "nn"}, "not a dtype"),
        ({"slice": [1]}, "start, a stop"),
        ({"operand": -1}, "negative"),
        ({"operand": True}, "whole number"),
        ({"batch": {"times": 2}}, "no 'times'"),
        ({"batch": {"divisor": 0}}, "divided by zero"),
        ({"float": "1.5"}, "not inf"),
        ({"complex": [1]}, "imaginary"),
        ({"bytes": "xx"}, "no hex digits"),
        ({"dict": [1]}, "pairs"),
        ({"device": "toaster"}, "not a device"),
        ({"class": "no.such:Thing"}, "not loaded"),
        ({"class": "os:system"}, "not loaded"),
        ({"ellipsis": 1}, "expected true"),
        ({"by_mode": [1]}, "one for evaluation"),
        ({"training": 1}, "true or false"),
        ({"list": 1}, "an array"),
    ],
)
def test_errors_in_attributes_name_the_place(value: Any, cause: str) -> None:
    whole = json.loads(GRAPHS["picture"]().to_json())
    number = node_number(whole, "blocks.0.conv")
    whole["nodes"][number]["attrs"]["stride"] = [1, value]
    with pytest.raises(GraphError) as caught:
        Graph.from_json(json.dumps(whole))
    assert str(caught.value.where).startswith(f"$.nodes[{number}].attrs.stride[1]")
    assert cause in caught.value.cause


def test_a_constant_that_does_not_fit_its_type() -> None:
    def change(whole: dict[str, Any]) -> None:
        whole["constants"]["k"]["values"] = [1.0, 2.0]

    with pytest.raises(GraphError, match="do not make a float32") as caught:
        Graph.from_json(edited(change))
    assert caught.value.where == "$.constants.k.values"


def test_what_does_not_verify_names_the_node() -> None:
    def change(whole: dict[str, Any]) -> None:
        conv = whole["nodes"][node_number(whole, "blocks.0.conv")]
        conv["attrs"]["in_channels"] = 5

    with pytest.raises(GraphError, match=r"blocks\.0\.conv"):
        Graph.from_json(edited(change))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "retiarii.graph"'])
def test_text_that_is_no_graph(text: str) -> None:
    with pytest.raises(GraphError, match="the JSON is not a graph"):
        Graph.from_json(text)


def test_the_schema_is_documented() -> None:
    docs = DOCS.read_text(encoding="utf-8")
    schema = json_schema()
    for form in [schema, *schema["$defs"].values()]:
        for name, field in form["properties"].items():
            assert f"| `{name}` | {field['description']}" in docs, name
    for tag in ("list", "dict", "slice", "operand", "result", "batch", "by_mode", "training"):
        assert f'{{"{tag}":' in docs, tag
    assert f'"version": {VERSION}' in docs


def test_the_documented_example_is_read() -> None:
    docs = DOCS.read_text(encoding="utf-8")
    (example,) = [part.partition("```")[0] for part in docs.split("```json\n")[1:]]
    GraphForm.model_validate_json(example)
    module = Graph.from_json(example).to_module()
    assert module(torch.zeros(5, 8)).shape == (5, 3)
