"""Net2Wider through layers called twice, raw weights and gates; what would be silently wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from retiarii.errors import GraphError
from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse
from retiarii.mutators.growth import widen

X = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def equal(graph: Graph, net: nn.Module, x: torch.Tensor = X) -> None:
    graph.verify()
    module = graph.to_module()
    with torch.no_grad():
        assert (module(x) - net(x)).abs().max() < 1e-10


class Repeated(nn.Module):
    """A layer is called twice, with readers of their own, and feeds itself."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.twice = nn.Linear(8, 6), nn.Linear(6, 6)
        self.act = nn.PReLU()
        self.one, self.two = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.enter(x[:, 0]))
        y = torch.relu(self.twice(x))
        return self.one(y) + self.two(self.twice(y))


class Functional(nn.Module):
    """Raw weights: of products, convolutions and norms."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 5, 1)
        self.conv = nn.Parameter(torch.randn(6, 5, 3, 3))
        self.bias = nn.Parameter(torch.randn(6))
        self.slope = nn.Parameter(torch.rand(6))
        self.register_buffer("mean", torch.rand(6))
        self.register_buffer("var", torch.rand(6) + 0.5)
        self.scale = nn.Parameter(torch.rand(6))
        self.middle = nn.Conv2d(6, 7, 1)
        self.linear = nn.Parameter(torch.randn(9, 7))
        self.matrix = nn.Parameter(torch.randn(9, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.conv2d(torch.tanh(self.enter(x)), self.conv, self.bias, padding=1)
        y = F.batch_norm(F.prelu(y, self.slope), self.mean, self.var, self.scale)
        y = F.linear(self.middle(y).mean((2, 3)), self.linear)
        return torch.addmm(torch.zeros(4, dtype=y.dtype), torch.relu(y), self.matrix)


class Gated(nn.Module):
    """Halves of a layer gate each other, once by hand and once by a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 10), nn.Linear(5, 6)
        self.gate = nn.GLU()
        self.bag = nn.Bilinear(3, 3, 5)
        self.out = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.first(x[:, 0]).chunk(2, -1)
        y = self.gate(self.second(F.silu(a) * b))
        return self.out(self.bag(y, y))


@pytest.mark.parametrize(
    ("kind", "layer", "width"),
    [
        (Repeated, "enter", 9),
        (Repeated, "twice", 9),
        (Functional, "enter", 8),
        (Functional, "middle", 12),
        (Gated, "first", 16),
        (Gated, "bag", 9),
    ],
)
@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_other_ways_to_write_it(
    kind: Callable[[], nn.Module], layer: str, width: int, noise: float
) -> None:
    net = kind().double().eval()
    graph = parse(net, X)
    widen(graph, graph.node(layer), width, seed=4, noise=noise)
    assert width in graph.node(layer).shape
    equal(graph, net)


class Bounded(nn.Module):
    """What looks as if it could be widened, and cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6, max_norm=0.5)
        self.watched, self.out = nn.Linear(6, 6), nn.Linear(6, 2)
        self.halves = nn.Linear(2, 6)
        self.scale = nn.Parameter(torch.rand(6))
        self.square = nn.Parameter(torch.rand(2, 6))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        y = self.out(self.watched(self.embed(ids))) + self.watched.weight.sum()
        y = torch.relu(self.halves(y) * self.scale)
        return F.linear(y, self.square) + F.linear(self.scale, self.square)


@pytest.mark.parametrize(
    ("layer", "width", "words"),
    [
        ("embed", 9, "'embed' .Embedding. depends on all"),
        ("watched", 9, "'watched.weight' is used outside"),
        ("halves", 9, "multiplied with all channels, and read by|several places"),
    ],
)
def test_what_would_be_silently_wrong_is_refused(layer: str, width: int, words: str) -> None:
    graph = parse(Bounded(), torch.zeros(2, 5, dtype=torch.long))
    before, context = str(graph), graph.context
    with pytest.raises(GraphError, match=words):
        widen(graph, graph.node(layer), width)
    assert str(graph) == before
    assert graph.context is context


def test_gates_grow_by_both_halves() -> None:
    graph = parse(Gated().double(), X)
    with pytest.raises(GraphError, match="multiple of 2"):
        widen(graph, graph.node("first"), 13)


def test_copies_that_would_be_out_of_order_are_refused() -> None:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.halves, self.gate, self.out = nn.Linear(8, 2), nn.GLU(), nn.Linear(1, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.gate(self.halves(x[:, 0])))

    # Of the two halves (a, b) the copies would be (a, b, a, b), and the gate wants (a, a, b, b).
    graph = parse(Narrow().double(), X)
    before = str(graph)
    with pytest.raises(GraphError, match="another order"):
        widen(graph, graph.node("halves"), 4)
    assert str(graph) == before
