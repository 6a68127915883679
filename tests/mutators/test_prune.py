"""Pruning: what the original computes with those channels zero; all that is coupled follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from retiarii.errors import GraphError
from retiarii.ir.graph import Graph
from retiarii.ir.node import Node
from retiarii.ir.parse import parse
from retiarii.mutators.mutator import Mutator
from retiarii.mutators.prune import prune_channels
from retiarii.space import ModelSpace

X = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def varied(net: nn.Module) -> nn.Module:
    net = net.double().eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                    tensor.copy_(torch.rand_like(tensor) + 0.5)
    return net


def zero(layer: nn.Module, gone: list[int]) -> None:
    """Lets a layer make zeros in these channels (of a BatchNorm: after it)."""
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias):
            if tensor is not None:
                tensor[gone] = 0.0


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 12, 3, padding=1, groups=6, bias=False)
        self.side = nn.Conv2d(3, 4, 1)
        self.join = nn.Conv2d(16, 6, 1)
        self.back = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.flat = nn.Linear(5 * 16, 8)
        self.out = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.stem(x)))
        z = torch.cat([self.depthwise(y), self.side(x)], 1)
        y = y + self.back(self.join(z))
        y = F.avg_pool2d(torch.tanh(self.up(y)), 4)
        return self.out(F.relu(self.flat(y.flatten(1))))


def made() -> tuple[Any, Graph]:
    net = varied(Net())
    return net, parse(net, X)


def compare(graph: Graph, net: nn.Module) -> nn.Module:
    graph.verify()
    module = graph.to_module()
    with torch.no_grad():
        assert (module(X) - net(X)).abs().max() < 1e-10
    return module


# What to zero in the original so that the pruned one computes the same.
ZEROED = {
    "stem": ("norm", "back"),
    "join": ("norm", "back"),
    "side": ("side",),
    "up": ("up_weight",),
    "flat": ("flat",),
}


@pytest.mark.parametrize(
    ("layer", "size"), [("stem", 6), ("join", 6), ("side", 4), ("up", 5), ("flat", 8)]
)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_as_if_the_channels_were_zero(layer: str, size: int, data: st.DataObject) -> None:
    keep = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    gone = [c for c in range(size) if c not in keep]
    net, graph = made()
    before = sum(p.numel() for p in net.parameters())
    prune_channels(graph, graph.node(layer), keep)
    for part in ZEROED[layer]:
        if part == "up_weight":
            with torch.no_grad():
                net.up.weight[:, gone] = 0.0
                net.up.bias[gone] = 0.0
        else:
            zero(getattr(net, part), gone)
    module = compare(graph, net)
    assert graph.node(layer).shape[1] == len(keep)
    after = sum(p.numel() for p in module.parameters())
    assert after < before or not gone


def test_partners_and_consumers_are_resized() -> None:
    _, graph = made()
    prune_channels(graph, graph.node("stem"), [0, 4])
    assert graph.node("join").attrs["out_channels"] == 2
    assert graph.node("depthwise").attrs["groups"] == 2
    assert graph.node("depthwise").attrs["out_channels"] == 4
    assert graph.node("join").attrs["in_channels"] == 8
    assert graph.node("up").attrs["in_channels"] == 2
    prune_channels(graph, graph.node("up"), [1])
    assert graph.node("flat").attrs["in_features"] == 16
    graph.verify()


def test_no_weights_of_the_parsed_model_change() -> None:
    net, graph = made()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    twin = graph.copy()
    prune_channels(graph, graph.node("stem"), [2])
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    compare(twin, net)


class Pieces(nn.Module):
    """Grouped, split, gated, recurrent, embedded, with a raw parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(3, 8, 1)
        self.next = nn.Conv2d(8, 6, 1, groups=2)
        self.last = nn.Conv2d(6, 10, 1)
        self.scale = nn.Parameter(torch.rand(1, 10, 1, 1))
        self.a = nn.Conv2d(4, 2, 1)
        self.b = nn.Conv2d(6, 2, 1)
        self.rnn = nn.GRU(2, 3, batch_first=True, bidirectional=True)
        self.out = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.last(self.next(self.grouped(x)))) * self.scale
        a, b = y.split([4, 6], dim=1)
        y = self.a(a) + self.b(b)
        y = y.flatten(2).transpose(1, 2)
        return self.out(self.rnn(y)[0][:, -1])


def test_groups_pieces_and_recurrent_layers() -> None:
    net = varied(Pieces())
    graph = parse(net, X)
    prune_channels(graph, graph.node("last"), [0, 3, 5, 6, 9])
    zero(net.last, [1, 2, 4, 7, 8])
    compare(graph, net)
    assert graph.node("a").attrs["in_channels"] == 2
    assert graph.node("b").attrs["in_channels"] == 3
    prune_channels(graph, graph.node("grouped"), [1, 2, 5, 7])
    zero(net.grouped, [0, 3, 4, 6])
    compare(graph, net)
    prune_channels(graph, graph.node("next"), [0, 2, 3, 4])
    zero(net.next, [1, 5])
    compare(graph, net)
    prune_channels(graph, graph.node("a"), [1])
    zero(net.a, [0])
    zero(net.b, [0])
    compare(graph, net)
    assert graph.node("rnn").attrs["input_size"] == 1


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.place = nn.Parameter(torch.rand(5, 8))
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)
        self.head = nn.Linear(8, 9)
        self.mixed = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids) + self.place
        q, k, v = self.qkv(self.norm(x)).view(*ids.shape, 2, 12).transpose(1, 2).chunk(3, -1)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x)


def test_a_transformers_width_is_one() -> None:
    net = Transformer().double().eval()
    ids = torch.arange(10).view(2, 5) % 9
    graph = parse(net, ids)
    prune_channels(graph, graph.node("embed"), [0, 1, 2, 5, 7])
    graph.verify()
    assert {graph.node(n).attrs["out_features"] for n in ("proj", "down")} == {5}
    module = graph.to_module()
    assert module.place.shape == (5, 5)
    assert torch.equal(module.norm.weight, net.norm.weight[:5])
    assert module(ids).shape == (2, 5, 9)
    prune_channels(graph, graph.node("up"), range(0, 16, 3))
    graph.verify()
    with pytest.raises(GraphError, match="cannot change without each other"):
        prune_channels(graph, graph.node("qkv"), range(11))
    prune_channels(graph, graph.node("qkv"), range(12))  # a head
    graph.verify()
    assert graph.to_module()(ids).shape == (2, 5, 9)
    assert graph.node("proj").attrs["in_features"] == 4


class Flipped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.b = nn.Conv2d(8, 2, 1)
        self.c = nn.Conv2d(4, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        z = torch.cat([y, y], 1) + self.c(y)
        return self.b(z) + torch.cat(z.mean((2, 3), keepdim=True).chunk(2, 1)[::-1], 1)[:, :2]


@pytest.mark.parametrize(
    ("net", "layer", "keep", "words"),
    [
        (Net, "stem", [], "none would be kept"),
        (Net, "stem", [6], "0 to 5"),
        (Net, "stem", [-1, 2], "0 to 5"),
        (Net, "out", [0], "returned by the model"),
        (Net, "norm", [0], "no width of its own"),
        (Net, "depthwise", [0], "no width of its own"),
        (Pieces, "grouped", [0, 1, 2], "2 groups"),
        (Pieces, "next", [0, 1], "2 groups"),
        (Pieces, "rnn", [3], "0 to 2"),
        (Flipped, "a", [0], "not known|meet"),
    ],
)
def test_what_is_refused_changes_nothing(
    net: Callable[[], nn.Module], layer: str, keep: list[int], words: str
) -> None:
    graph = parse(net().double(), X)
    before, context = str(graph), graph.context
    with pytest.raises(GraphError, match=words):
        prune_channels(graph, graph.node(layer), keep)
    assert str(graph) == before
    assert graph.context is context
    graph.verify()


def test_one_producer_in_two_places_of_a_sum() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 4, 1)
            self.c = nn.Conv2d(4, 8, 1)
            self.b = nn.Conv2d(8, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            return self.b(torch.cat([y, y], 1) + self.c(y))

    net = varied(Twice())
    graph = parse(net, X)
    prune_channels(graph, graph.node("a"), [1, 2])
    zero(net.a, [0, 3])
    zero(net.c, [0, 3, 4, 7])
    module = compare(graph, net)
    assert module.c.weight.shape == (4, 2, 1, 1)


class Slim(Mutator):
    def mutate(self, graph: Graph, target: Node) -> None:
        prune_channels(graph, target, range(self.choice([2, 4, 6], label="width")))


def test_in_a_space_candidates_inherit_the_slices() -> None:
    net, _ = made()
    space = ModelSpace(net, X, weights="inherit").apply_mutator("stem", Slim())
    assert space.count() == 3
    for candidate in space.enumerate():
        width = candidate.decisions["Slim/stem/width"]
        module = candidate.build(0)
        assert torch.equal(module.stem.weight, net.stem.weight[:width])
        assert torch.equal(module.back.running_var, net.back.running_var[:width])
