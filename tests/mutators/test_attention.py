"""Heads of attention: added exactly, taken away as if they said nothing; attention in layers."""

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
from retiarii.mutators.attention import add_heads, open_attention
from retiarii.mutators.growth import widen
from retiarii.mutators.mutator import Mutator
from retiarii.mutators.prune import prune_channels, prune_heads
from retiarii.space import ModelSpace

IDS = torch.randint(0, 11, (3, 6), generator=torch.Generator().manual_seed(0))


class Fused(nn.Module):
    """One projection to all three, split by a view of five dimensions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, width = x.shape
        split = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q * (width // self.heads) ** -0.5) @ k.transpose(-2, -1)
        return self.out((weights.softmax(-1) @ v).transpose(1, 2).reshape(n, length, width))


class Split(Fused):
    """Pieces of one projection, each viewed as heads; masked."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, width = x.shape
        q, k, v = (
            t.view(n, length, self.heads, width // self.heads).transpose(1, 2)
            for t in self.qkv(x).split(width, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).contiguous().view(n, length, width))


class Separate(nn.Module):
    """Three projections, a size of -1, a bias for each head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.far = nn.Parameter(torch.randn(heads, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            layer(x).view(*x.shape[:-1], self.heads, -1).permute(0, 2, 1, 3)
            for layer in (self.q, self.k, self.v)
        )
        weights = torch.softmax(q @ k.transpose(-1, -2) / 2 * self.far, -1)
        joined = (weights @ v).permute(0, 2, 1, 3).contiguous()
        return self.out(joined.view(*joined.shape[:-2], -1))


class Grouped(nn.Module):
    """Two heads of the queries share each of the keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.few = 2 * heads, heads
        self.q = nn.Linear(width, 4 * self.heads, bias=False)
        self.k, self.v = (nn.Linear(width, 4 * self.few, bias=False) for _ in range(2))
        self.out = nn.Linear(4 * self.heads, width)

    def repeated(self, x: torch.Tensor) -> torch.Tensor:
        n, few, length, width = x.shape
        return x[:, :, None].expand(n, few, 2, length, width).reshape(n, 2 * few, length, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, _ = x.shape
        q = self.q(x).view(n, length, self.heads, 4).transpose(1, 2)
        k, v = (
            self.repeated(f(x).view(n, length, self.few, 4).transpose(1, 2))
            for f in (self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(n, length, 4 * self.heads))


class Native(Grouped):
    """The same, left to the function."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.q(x).unflatten(-1, (self.heads, 4)).transpose(1, 2)
        k, v = (f(x).unflatten(-1, (self.few, 4)).transpose(1, 2) for f in (self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(2))


class Layered(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.inner(x, x, x, need_weights=False)[0]
        return made


class Crossed(nn.Module):
    """Of other widths, with the length first, without biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(width, 5)
        self.inner = nn.MultiheadAttention(width, heads, 0.3, bias=False, kdim=5, vdim=5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(0, 1)
        other = self.narrow(x)
        made: torch.Tensor = self.inner(x, other, other)[0]
        return made.transpose(0, 1)


class Block(nn.Module):
    def __init__(self, attention: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.first, self.second = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = attention(8, 2)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        x = x + self.attention(self.first(x))
        return self.head(x + self.down(F.gelu(self.up(self.second(x)))))


# The attention, its node, and how many heads go together.
CASES: dict[str, tuple[Callable[[int, int], nn.Module], str, int]] = {
    "fused": (Fused, "attention.softmax", 1),
    "split": (Split, "attention.scaled_dot_product_attention", 1),
    "separate": (Separate, "attention.matmul", 1),
    "grouped": (Grouped, "attention.scaled_dot_product_attention", 2),
    "native": (Native, "attention.scaled_dot_product_attention", 2),
    "layered": (Layered, "attention.inner", 1),
    "crossed": (Crossed, "attention.inner", 1),
}


def made(name: str) -> tuple[Any, Graph, str]:
    torch.manual_seed(1)
    net = Block(CASES[name][0]).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return net, parse(net, IDS), CASES[name][1]


def difference(graph: Graph, net: nn.Module) -> float:
    graph.verify()
    with torch.no_grad():
        return float((graph.to_module()(IDS) - net(IDS)).abs().max())


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=3, deadline=None)
@given(more=st.integers(1, 4), seed=st.integers(0, 9), noise=st.sampled_from([0.0, 0.6]))
def test_more_heads_keep_the_function(name: str, more: int, seed: int, noise: float) -> None:
    net, graph, node = made(name)
    together = CASES[name][2]
    add_heads(graph, graph.node(node), together * (2 + more), seed=seed, noise=noise)
    assert difference(graph, net) < 1e-9
    before = sum(p.numel() for p in net.parameters())
    assert sum(p.numel() for p in graph.to_module().parameters()) > before


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_without_a_head_it_is_as_if_the_head_said_nothing(name: str, kept: int) -> None:
    net, graph, node = made(name)
    together = CASES[name][2]
    prune_heads(graph, graph.node(node), range(kept * together, (kept + 1) * together))
    inner = getattr(net.attention, "inner", None)
    out = net.attention.out if inner is None else inner.out_proj
    width = out.in_features // 2
    with torch.no_grad():
        out.weight[:, (1 - kept) * width : (2 - kept) * width] = 0.0
    assert difference(graph, net) < 1e-9
    module = graph.to_module()
    assert module.get_submodule("attention.out" if inner is None else "attention.inner.out")
    with pytest.raises(GraphError):
        prune_heads(graph, graph.node(node), [5])


def test_pruned_and_grown_again_and_the_mlp_between() -> None:
    net, graph, node = made("fused")
    add_heads(graph, graph.node(node), 5, noise=0.2)
    widen(graph, graph.node("up"), 31, noise=0.2)
    add_heads(graph, graph.node(node), 6, noise=0.2)
    assert difference(graph, net) < 1e-9
    prune_heads(graph, graph.node(node), [0, 3])
    prune_channels(graph, graph.node("up"), range(0, 31, 4))
    graph.verify()
    assert graph.to_module()(IDS).shape == (3, 6, 4)
    assert graph.node("attention.qkv").shape == (3, 6, 24)


def test_projections_change_by_whole_heads() -> None:
    net, graph, _ = made("separate")
    with pytest.raises(GraphError, match="stay whole"):
        widen(graph, graph.node("attention.q"), 10)
    with pytest.raises(GraphError, match=r"0, 1, 2, 3 of .* cannot change without each other"):
        prune_channels(graph, graph.node("attention.v"), [0, 4, 5, 6, 7])
    widen(graph, graph.node("attention.k"), 12)
    assert difference(graph, net) < 1e-9
    assert {graph.node(f"attention.{n}").shape[-1] for n in "qkv"} == {12}


@pytest.mark.parametrize("name", ["layered", "crossed"])
def test_attention_in_plain_layers_is_the_same(name: str) -> None:
    net, graph, node = made(name)
    result = open_attention(graph, graph.node(node))
    assert result.shape == (3, 2, 6, 4)
    assert difference(graph, net) < 1e-12
    assert not graph.find(lambda n: n.op == "MultiheadAttention")
    # Now the width of the model can change, and the heads stay as they are.
    prune_channels(graph, graph.node("embed"), [0, 1, 2, 5, 7])
    graph.verify()
    assert graph.to_module()(IDS).shape == (3, 6, 4)
    assert graph.node("attention.inner.q").attrs["in_features"] == 5
    assert graph.node("attention.inner.q").attrs["out_features"] == 8


def test_in_training_dropout_stays() -> None:
    _, graph, node = made("crossed")
    result = open_attention(graph, graph.node(node))
    module = graph.to_module().train()
    assert result.attrs["dropout_p"].training == 0.3
    assert not torch.equal(module(IDS), module(IDS))


class Weighed(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True, add_zero_attn=kind == "zero")
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> Any:
        mask = torch.zeros(5, 5, dtype=x.dtype) if self.kind == "mask" else None
        y, weights = self.inner(x, x, x, attn_mask=mask)
        if self.kind == "weights":
            return self.head(y) + weights.mean()
        return self.head(self.inner(y, y, y)[0] if self.kind == "twice" else y)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("weights", "weights are used"),
        ("mask", "masks"),
        ("zero", "keys of its own"),
        ("twice", "several places"),
    ],
)
def test_attention_that_stays_closed(kind: str, words: str) -> None:
    graph = parse(Weighed(kind), torch.zeros(2, 5, 8))
    before, context = str(graph), graph.context
    with pytest.raises(GraphError, match=words):
        add_heads(graph, graph.node("inner"), 4)
    assert str(graph) == before
    assert graph.context is context


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda g: add_heads(g, g.node("up"), 4), "no axis of heads"),
        (lambda g: add_heads(g, g.node("attention.softmax"), 2), "no more"),
        (lambda g: add_heads(g, g.node("attention.softmax"), 3, noise=1.0), "noise"),
        (lambda g: prune_heads(g, g.node("attention.softmax"), []), "none would be kept"),
        (lambda g: prune_heads(g, g.node("attention.softmax"), [2]), "heads 0 to 1"),
        (lambda g: open_attention(g, g.node("up")), "it is none"),
        (lambda g: widen(g, g.node("embed"), 12), "LayerNorm"),
    ],
)
def test_what_is_no_attention_is_refused(edit: Callable[[Graph], object], words: str) -> None:
    _, graph, _ = made("fused")
    before, context = str(graph), graph.context
    with pytest.raises(GraphError, match=words):
        edit(graph)
    assert str(graph) == before
    assert graph.context is context


class Heads(Mutator):
    def mutate(self, graph: Graph, target: Node) -> None:
        more = self.choice([0, 1, 3], label="more")
        if more:
            add_heads(graph, target, 2 + more, noise=0.1)


def test_in_a_space_and_from_a_parent() -> None:
    net, _, node = made("layered")
    space = ModelSpace(net, IDS, weights="inherit").apply_mutator(node, Heads())
    assert space.count() == 3
    trained = made("layered")[0]
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(0.7)
    for candidate in space.enumerate():
        assert (candidate.build(1)(IDS) - net(IDS)).abs().max() < 1e-9
        child = candidate.build(1, parent=trained.state_dict())
        assert (child(IDS) - trained(IDS)).abs().max() < 1e-9
