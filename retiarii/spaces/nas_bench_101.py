"""NAS-Bench-101: cells that are any small graph of three operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from retiarii.errors import InfeasibleError
from retiarii.ir.graph import Graph
from retiarii.ir.node import Node
from retiarii.mutators.mutator import Mutator
from retiarii.space import ModelSpace
from retiarii.spaces.bench101_graphs import (
    MAX_EDGES,
    MAX_VERTICES,
    OPERATIONS,
    Matrix,
    count_valid,
    edges_of,
    pruned,
)
from retiarii.spaces.blocks import conv_norm, pooled_head
from retiarii.spaces.counted import CountedSpace


def decisions_101(matrix: Sequence[Sequence[int]], operations: Sequence[str]) -> Mapping[str, Any]:
    """Decisions for a matrix of the space's number of vertices, and its inner operations."""
    edges = edges_of(len(matrix))
    made: dict[str, Any] = {f"cell/edge{i}{j}": bool(matrix[i][j]) for i, j in edges}
    made.update({f"cell/op{i}": operation for i, operation in enumerate(operations, start=1)})
    return made


def vertex_channels(inputs: int, outputs: int, matrix: Matrix) -> list[int]:
    """Channels of each vertex: those that lead to the output share its channels evenly.

    Any other vertex has as many as the widest that it leads to.
    """
    last = len(matrix) - 1
    ends = [v for v in range(1, last) if matrix[v][last]]
    channels = [inputs, *([0] * (last - 1)), outputs]
    if ends:
        share, rest = divmod(outputs, len(ends))
        for number, v in enumerate(ends):
            channels[v] = share + (1 if number < rest else 0)
    for v in range(last - 1, 0, -1):
        if not matrix[v][last]:
            channels[v] = max(channels[w] for w in range(v + 1, last) if matrix[v][w])
    return channels


class _CellMutator(Mutator):
    """Asks for one cell, and puts it in all places.

    Args:
        places: node -> output channels; what the cells replace.
    """

    def __init__(self, places: Mapping[str, int], vertices: int, max_edges: int) -> None:
        self.places = dict(places)
        self.vertices = vertices
        self.max_edges = max_edges

    def mutate(self, graph: Graph, target: Node) -> None:  # noqa: ARG002
        matrix = [[0] * self.vertices for _ in range(self.vertices)]
        for i, j in edges_of(self.vertices):
            matrix[i][j] = int(self.choice([False, True], label=f"edge{i}{j}"))
        chosen = [self.choice(OPERATIONS, label=f"op{i}") for i in range(1, self.vertices - 1)]
        cell = pruned(tuple(map(tuple, matrix)), chosen)
        if cell is None:
            raise InfeasibleError(
                "the cell's input does not reach its output",
                where="the edges chosen",
                fix="choose edges that lead from the first vertex to the last",
            )
        if (edges := sum(map(sum, cell[0]))) > self.max_edges:
            raise InfeasibleError(
                f"the cell has {edges} edges, and may have {self.max_edges}",
                where="the edges chosen",
                fix="leave edges out",
            )
        for name, outputs in self.places.items():
            _build(graph, graph.node(name), outputs, *cell)


def _build(
    graph: Graph, place: Node, outputs: int, matrix: Matrix, operations: tuple[str, ...]
) -> None:
    (x,) = place.inputs
    last = len(matrix) - 1
    channels = vertex_channels(x.shape[1], outputs, matrix)
    name = place.name

    def conv(value: Any, width: int, kernel: int, label: str) -> Any:
        return graph.insert(conv_norm(value.shape[1], width, kernel), value, name=f"{name}.{label}")

    made: dict[int, Any] = {}
    for v in range(1, last):
        read = [_cut(graph, made[u], channels[v]) for u in range(1, v) if matrix[u][v]]
        if matrix[0][v]:
            read.append(conv(x, channels[v], 1, f"project{v}"))
        total = read[0]
        for value in read[1:]:
            total = graph.insert(torch.add, total, value, name=f"{name}.sum{v}")
        kind = operations[v - 1]
        made[v] = (
            graph.insert(
                nn.MaxPool2d, total, kernel_size=3, stride=1, padding=1, name=f"{name}.op{v}"
            )
            if kind == "maxpool3x3"
            else conv(total, channels[v], 1 if kind == "conv1x1" else 3, f"op{v}")
        )
    ends = [made[v] for v in range(1, last) if matrix[v][last]]
    out = ends[0] if ends else None
    if len(ends) > 1:
        out = graph.insert(torch.cat, ends, dim=1, name=f"{name}.concat")
    if matrix[0][last]:
        projected = conv(x, outputs, 1, "project")
        out = (
            projected
            if out is None
            else graph.insert(torch.add, out, projected, name=f"{name}.residual")
        )
    assert out is not None
    graph.replace(place, out)


def _cut(graph: Graph, value: Any, channels: int) -> Any:
    """The first channels, where there are more than the reader has."""
    if value.shape[1] == channels:
        return value
    return graph.insert(torch.narrow, value, dim=1, start=0, length=channels)


def nas_bench_101(
    channels: int = 128,
    cells: int = 3,
    classes: int = 10,
    input_size: int = 32,
    *,
    stacks: int = 3,
    vertices: int = MAX_VERTICES,
    max_edges: int = MAX_EDGES,
) -> ModelSpace:
    """The space of NAS-Bench-101 (Ying et al., ICML 2019).

    A cell is a graph of at most seven vertices and nine edges; the inner ones do a convolution
    (1x1 or 3x3, with BatchNorm and ReLU) or a max pooling. Decisions are the bits of its
    adjacency matrix and its operations, as in the paper; vertices that lead nowhere are pruned,
    and what then breaks the limits is infeasible, so that every sample is valid.

    Size: 2^21 * 3^5 = 510 * 10^6 matrices with operations, as published; 373,754,169 of them are
    valid, which is ``count()``. By the benchmark's isomorphism rule 423,624 are unique, as
    published: `bench101_graphs.count_unique`.

    Reference: the cell of the released code's example has 2,694,282 parameters there and here.

    Args:
        channels: of the first stack; each further one has twice as many.
        cells: in each stack.
        classes: of the classifier.
        input_size: height and width of the input, ``(n, 3, input_size, input_size)``.
        stacks: separated by a pooling that halves height and width.
        vertices: of a cell before pruning, input and output included.
        max_edges: of a cell after pruning.
    """
    places: dict[str, int] = {}
    net = nn.Sequential()
    with torch.device("meta"):
        net.add_module("stem", conv_norm(3, channels, 3))
        inputs = channels
        for stack in range(stacks):
            if stack:
                net.add_module(f"down{stack}", nn.MaxPool2d(2))
                channels *= 2
            for i in range(cells):
                # A cell takes its place.
                net.add_module(f"cell{stack}_{i}", nn.Conv2d(inputs, channels, 1))
                places[f"cell{stack}_{i}"] = inputs = channels
        net.add_module("head", nn.Sequential(*pooled_head(channels, classes)))
    space = CountedSpace(net, torch.zeros(2, 3, input_size, input_size))
    space.apply_mutator(
        "cell0_0", _CellMutator(places, vertices, max_edges), shared=True, name="cell"
    )
    # All edges and operations decide together whether a cell is valid.
    return space.counted_by(partial(count_valid, vertices, max_edges))
