"""`graph.align`: the projection between two shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from retiarii.errors import GraphError, ShapeError
from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse


class Two(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.relu(a), torch.tanh(b)


def graph_of(a: tuple[int, ...], b: tuple[int, ...], **kinds: Any) -> Graph:
    return parse(Two(), (torch.zeros(a, **kinds), torch.zeros(b, **kinds)))


def aligned(a: tuple[int, ...], b: tuple[int, ...], **options: Any) -> tuple[Graph, list[str]]:
    graph = graph_of(a, b)
    known = {n.name for n in graph.nodes}
    with graph.edits():
        value = graph.align(graph.node("relu"), graph.node("tanh"), **options)
        assert value.shape == a
        graph.insert_after(graph.node("relu"), torch.add, value)
    graph.verify()
    ones = graph.to_module(seed=0)(torch.ones(a), torch.ones(b))
    assert tuple(ones[0].shape) == a
    return graph, [n.op for n in graph.nodes if n.name not in known and n.op != "add"]


@pytest.mark.parametrize(
    ("a", "b", "ops"),
    [
        ((2, 8, 6, 6), (2, 8, 6, 6), []),
        ((2, 8, 6, 6), (2, 5, 6, 6), ["Conv2d"]),
        ((2, 8, 6, 6), (2, 5, 12, 12), ["Conv2d"]),
        ((2, 8, 6, 3), (2, 5, 11, 9), ["Conv2d"]),
        ((2, 8, 5, 6), (2, 5, 7, 6), ["AdaptiveAvgPool2d", "Conv2d"]),
        ((2, 8, 6, 6), (2, 8, 9, 6), ["AdaptiveAvgPool2d"]),
        ((2, 8, 6, 6), (2, 8, 3, 3), ["AdaptiveAvgPool2d"]),
        ((2, 8), (2, 3), ["Linear"]),
        ((2, 7, 8), (2, 7, 3), ["Linear"]),
        ((2, 8, 7), (2, 3, 7), ["Conv1d"]),
        ((2, 8, 7), (2, 3, 14), ["Conv1d"]),
        ((2, 8, 4, 4, 4), (2, 3, 8, 8, 8), ["Conv3d"]),
    ],
)
def test_projections(a: tuple[int, ...], b: tuple[int, ...], ops: list[str]) -> None:
    assert aligned(a, b)[1] == ops


def test_a_strided_convolution_where_that_fits() -> None:
    graph, _ = aligned((2, 8, 6, 3), (2, 5, 11, 9), name="shortcut")
    assert graph.node("shortcut").attrs["stride"] == (2, 3)
    assert graph.node("shortcut").attrs["bias"] is False


def test_the_channels_may_be_last() -> None:
    assert aligned((2, 6, 6, 8), (2, 6, 6, 3), channel_axis=-1)[1] == ["Linear"]
    assert aligned((2, 8, 7), (2, 8, 14), channel_axis=1)[1] == ["AdaptiveAvgPool1d"]


def test_the_projection_has_the_models_dtype() -> None:
    graph = graph_of((2, 4), (2, 3), dtype=torch.float64)
    value = graph.align(graph.node("relu"), graph.node("tanh"))
    assert value.dtype == torch.float64


@pytest.mark.parametrize(
    ("a", "b", "options", "words"),
    [
        ((2, 8, 6, 6), (2, 8), {}, "numbers of dimensions"),
        ((2, 8), (3, 8), {}, "batch|more than"),
        ((2, 8, 6, 6), (3, 8, 6, 6), {}, "batch"),
        ((2, 6, 6, 8), (2, 6, 5, 8), {"channel_axis": -1}, "last dimension"),
        ((2, 6, 6, 8), (2, 6, 6, 7), {"channel_axis": 2}, "batch"),
    ],
)
def test_what_no_projection_does_names_both(
    a: tuple[int, ...], b: tuple[int, ...], options: Any, words: str
) -> None:
    graph = graph_of(a, b)
    before = str(graph)
    with pytest.raises(ShapeError, match=words) as caught:
        graph.align(graph.node("relu"), graph.node("tanh"), **options)
    for name, shape in (("relu", a), ("tanh", b)):
        assert f"'{name}' float32{list(shape)}" in caught.value.cause
    assert str(graph) == before


def test_integers_are_not_projected() -> None:
    class Ints(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return a + 1, b + 1

    zeros = torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 4, dtype=torch.long)
    graph = parse(Ints(), zeros)
    with pytest.raises(GraphError, match="dtypes"):
        graph.align(graph.nodes[-1], graph.nodes[-2])


SIZES = st.integers(1, 12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=4))
def test_any_two_shapes_of_one_rank(sizes: list[tuple[int, int]]) -> None:
    a = (2, *(x for x, _ in sizes))
    b = (2, *(y for _, y in sizes))
    aligned(a, b)
