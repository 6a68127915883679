"""Net2Wider and Net2Deeper: the same function before and after, exactly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from retiarii.errors import GraphError
from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse
from retiarii.mutators.growth import Net2Deeper, Net2Wider, deepen, widen
from retiarii.space import ModelSpace

X = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def settle_statistics(net: nn.Module) -> nn.Module:
    """Float64, with BatchNorm parameters and statistics that are not trivial; for evaluation."""
    net = net.double()
    generator = torch.Generator().manual_seed(1)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            with torch.no_grad():
                for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                    noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                    tensor.copy_(noise + 0.5)
    return net.eval()


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(16, 5, 2, stride=2)
        self.fc = nn.Linear(5 * 64, 7)
        self.out = nn.Linear(7, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.a(x))), 2)
        x = F.adaptive_avg_pool2d(torch.sigmoid(self.depthwise(self.b(x))), 4)
        x = F.gelu(self.up(x)).view(x.shape[0], -1)
        return self.out(torch.tanh(self.fc(x)))


class Residual(nn.Module):
    """Two residual sums, a gate, and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.one = nn.Sequential(nn.Conv2d(6, 9, 3, padding=1), nn.BatchNorm2d(9), nn.ReLU())
        self.back = nn.Conv2d(9, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.two = nn.Conv2d(6, 6, 3, padding=1)
        self.gate = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))
        self.side = nn.Conv2d(3, 4, 1)
        self.join = nn.Conv2d(10, 5, 1)
        self.head = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        y = F.relu(y + self.norm(self.back(self.one(y))))
        y = y + self.two(y) * self.scale
        y = y * torch.sigmoid(self.gate(y.mean((2, 3))))[:, :, None, None]
        y = self.join(torch.cat([self.side(x), y], dim=1))
        return self.head(F.relu(y).mean((2, 3)))


class Perceptron(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(192, 10),
            nn.BatchNorm1d(10),
            nn.ReLU(),
            nn.Linear(10, 6),
            nn.Tanh(),
            nn.Linear(6, 4),
        )


NETS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "chain": (Chain, ["a", "b", "up", "fc"]),
    "residual": (Residual, ["stem", "one.0", "back", "two", "gate", "side", "join"]),
    "perceptron": (Perceptron, ["1", "4"]),
}
CASES = [(net, layer) for net, (_, layers) in NETS.items() for layer in layers]


def made(name: str) -> tuple[nn.Module, Graph]:
    net = settle_statistics(NETS[name][0]())
    return net, parse(net, X)


def equal(graph: Graph, net: nn.Module, x: torch.Tensor = X) -> None:
    graph.verify()
    module = graph.to_module()
    with torch.no_grad():
        assert (module(x) - net(x)).abs().max() < 1e-10


@pytest.mark.parametrize(("name", "layer"), CASES)
@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_a_wider_layer_keeps_the_function(name: str, layer: str, noise: float) -> None:
    net, graph = made(name)
    size = graph.node(layer).shape[1]
    before = sum(p.numel() for p in graph.to_module().parameters())
    widen(graph, graph.node(layer), size + 5, seed=3, noise=noise)
    assert graph.node(layer).shape[1] == size + 5
    assert sum(p.numel() for p in graph.to_module().parameters()) > before
    equal(graph, net)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(CASES), st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9))))
def test_any_growth_after_any_other(case: tuple[str, str], steps: list[tuple[int, int]]) -> None:
    name, layer = case
    net, graph = made(name)
    layers = NETS[name][1]
    for number, more in [(layers.index(layer), 2), *steps[:3]]:
        node = graph.node(layers[number % len(layers)])
        widen(graph, node, node.shape[1] + more, seed=more)
    equal(graph, net)


def test_residual_partners_are_widened_alike() -> None:
    net, graph = made("residual")
    widen(graph, graph.node("two"), 9, seed=2)
    assert {graph.node(n).attrs["out_channels"] for n in ("stem", "back", "two")} == {9}
    assert graph.node("gate").attrs["out_features"] == 9
    assert graph.node("norm").attrs["num_features"] == 9
    assert graph.node("join").attrs["in_channels"] == 13
    equal(graph, net)


def test_in_training_mode_too_where_nothing_is_random() -> None:
    net, graph = made("chain")
    widen(graph, graph.node("a"), 11, seed=1)
    module = graph.to_module().train()
    assert (module(X) - net.train()(X)).abs().max() < 1e-9
    net.eval()
    # The statistics that this updated are those of the original, channel by channel.
    assert (module.eval()(X) - net(X)).abs().max() < 1e-9


def test_uneven_copies_part_in_training_and_even_ones_do_not() -> None:
    def distance(noise: float) -> float:
        net = settle_statistics(Perceptron())
        graph = parse(net, X)
        widen(graph, graph.node("1"), 11, seed=0, noise=noise)
        module = graph.to_module()
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            module(X).square().sum().backward()
            optimizer.step()
        weight = module.state_dict()["1.weight"]
        pairs = torch.pdist(weight)
        return float(pairs.min())

    assert distance(0.0) < 1e-12
    assert distance(0.5) > 1e-6


def test_the_parsed_models_own_weights_stay() -> None:
    net, graph = made("chain")
    state = {k: v.clone() for k, v in net.state_dict().items()}
    twin = graph.copy()
    widen(graph, graph.node("a"), 9)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    equal(twin, net)
    assert twin.node("a").shape[1] == 6


class Grouped(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 4, 3, padding=1, groups=2),
            nn.Flatten(),
            nn.Linear(256, 4),
        )


def test_groups_grow_evenly_or_not_at_all() -> None:
    net = settle_statistics(Grouped())
    graph = parse(net, X)
    before = str(graph)
    with pytest.raises(GraphError, match="2 groups"):
        widen(graph, graph.node("0"), 11)
    assert str(graph) == before
    widen(graph, graph.node("0"), 12, seed=5)
    equal(graph, net)
    widen(graph, graph.node("1"), 10, seed=5)
    equal(graph, net)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.first = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.mean = nn.Linear(8, 6)
        self.head = nn.Linear(8, 9)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(self.embed(ids)))
        q, k, v = self.qkv(x).view(*ids.shape, 2, 12).transpose(1, 2).chunk(3, -1)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(x) + self.mean(x).mean(-1, keepdim=True)


@pytest.mark.parametrize(
    ("layer", "width", "words"),
    [
        ("first", 12, "LayerNorm"),
        ("embed", 12, "shares its weights"),
        ("qkv", 48, "'head' shares its weights"),
        ("head", 12, "returned by the model|coupled"),
        ("mean", 12, "all channels at once"),
        ("norm", 12, "no width of its own"),
        ("first", 8, "no more"),
    ],
)
def test_what_cannot_be_exact_is_refused(layer: str, width: int, words: str) -> None:
    graph = parse(Odd(), torch.zeros(2, 5, dtype=torch.long))
    before, context = str(graph), graph.context
    with pytest.raises(GraphError, match=words):
        widen(graph, graph.node(layer), width)
    assert str(graph) == before
    assert graph.context is context


# --- deeper ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "node"),
    [("chain", n) for n in ("a", "norm", "relu", "b", "up", "fc", "tanh", "out", "view")]
    + [("perceptron", n) for n in ("1", "2", "3", "5")]
    + [("residual", n) for n in ("one.2", "add", "cat", "head")],
)
@pytest.mark.parametrize("norm", [False, True])
def test_a_deeper_network_keeps_the_function(name: str, node: str, norm: bool) -> None:
    net, graph = made(name)
    before = len(graph)
    last = deepen(graph, graph.node(node), norm=norm, kernel_size=5)
    assert len(graph) > before
    assert last.shape == graph.node(node).shape
    equal(graph, net)


def test_the_activation_comes_again_where_that_changes_nothing() -> None:
    net, graph = made("chain")
    assert deepen(graph, graph.node("relu"), norm=True).op == "relu"
    assert [n.name for n in graph.find("deeper.*")] == ["deeper.conv", "deeper.norm", "deeper.act"]
    assert deepen(graph, graph.node("tanh")).op == "Linear"
    equal(graph, net)


def test_a_norm_takes_measured_statistics() -> None:
    net, graph = made("chain")
    with torch.no_grad():
        values = F.relu(net.norm(net.a(X)))
    mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3), unbiased=False)
    deepen(graph, graph.node("relu"), norm=True, statistics=(mean, variance))
    equal(graph, net)
    module = graph.to_module()
    norm = module.get_submodule("deeper.norm")
    assert torch.equal(norm.running_var, variance)
    # With the statistics of this very batch it changes nothing in training either.
    assert torch.allclose(norm.train()(values), values, atol=1e-9)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda g: deepen(g, g.node("a"), kernel_size=4), "odd"),
        (
            lambda g: deepen(
                g, g.node("a"), norm=True, statistics=(torch.zeros(2), torch.zeros(2))
            ),
            "6 channels",
        ),
    ],
)
def test_deepening_that_does_not_go(edit: Callable[[Graph], object], words: str) -> None:
    _, graph = made("chain")
    before, context = str(graph), graph.context
    with pytest.raises(GraphError, match=words):
        edit(graph)
    assert str(graph) == before
    assert graph.context is context


# --- as mutators ----------------------------------------------------------------------------------


def test_spaces_of_grown_networks_keep_the_function() -> None:
    net = settle_statistics(Chain())
    space = ModelSpace(net, X, weights="inherit")
    space.apply_mutator(["a", "fc"], Net2Wider((1.0, 1.5, 2.0)))
    space.apply_mutator("relu", Net2Deeper(most=2, kernel_sizes=(1, 3), norm=True))
    assert space.count() == 9 * (1 + 2 + 4)
    widths = set()
    for candidate in list(space.enumerate())[::5]:
        module = candidate.build(seed=1)
        widths.add(module.get_submodule("a").out_channels)
        assert (module(X) - net(X)).abs().max() < 1e-10
    assert widths == {6, 9, 12}


def test_counting_does_not_visit_all() -> None:
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
    for _ in range(9):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    space = ModelSpace(nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 64, 2)), X.float())
    space.apply_mutator([str(i) for i in range(0, 20, 2)], Net2Wider((1.0, 2.0)))
    assert space.count() == 2**10
