"""Shapes that follow an edit, kind by kind, and errors where none can."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from retiarii.errors import GraphError, ShapeError
from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse
from retiarii.mutators.mutator import Mutator
from retiarii.space import ModelSpace


def lowered(net: nn.Module, *shape: int) -> Graph:
    return parse(net, torch.zeros(shape))


def runs(graph: Graph, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    graph.verify()
    module = graph.to_module(seed=0)
    made = module(torch.ones(shape, dtype=dtype))
    made.sum().backward()
    return made


# --- residual sums --------------------------------------------------------------------------------


class Residual(nn.Module):
    """A bottleneck, a plain block with a gate, and a block of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 4, 1)
        self.up = nn.Conv2d(4, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.squeeze = nn.Conv2d(8, 2, 1)
        self.excite = nn.Conv2d(2, 8, 1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.norm(self.up(F.relu(self.down(x)))) * self.scale)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        y = self.point(self.inner(x * gate))
        x = x + y + 0.1 * self.up(self.down(y))
        return self.head(x.mean((2, 3)))


def test_the_far_ends_of_branches_follow_what_they_start_from() -> None:
    graph = lowered(Residual(), 2, 3, 6, 6)
    graph.update(graph.node("stem"), out_channels=12)
    widths = {n: graph.node(n).attrs["out_channels"] for n in ("up", "excite", "point", "down")}
    assert widths == {"up": 12, "excite": 12, "point": 12, "down": 4}
    assert graph.node("inner").attrs["groups"] == 12
    assert graph.node("scale").shape == (12, 1, 1)
    assert runs(graph, 2, 3, 6, 6).shape == (2, 4)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 30), st.integers(1, 30))
def test_any_width_of_stem_and_bottleneck(stem: int, narrow: int) -> None:
    graph = lowered(Residual(), 2, 3, 6, 6)
    with graph.edits():
        graph.update(graph.node("down"), out_channels=narrow)
        graph.update(graph.node("stem"), out_channels=stem)
        assert graph.node("stem").shape[1] == stem
    assert graph.node("up").attrs["out_channels"] == stem
    assert graph.node("up").attrs["in_channels"] == narrow
    assert runs(graph, 2, 3, 6, 6).shape == (2, 4)


def test_a_replaced_producer_is_followed_too() -> None:
    graph = lowered(Residual(), 2, 3, 6, 6)
    stem = graph.node("stem")
    new = graph.insert(nn.Conv2d(3, 20, 5, padding=2), stem.inputs[0], name="new")
    graph.replace(stem, new)
    assert graph.node("point").attrs["out_channels"] == 20
    runs(graph, 2, 3, 6, 6)


def test_the_end_of_a_branch_alone_leads_nowhere_and_both_are_named() -> None:
    graph = lowered(Residual(), 2, 3, 6, 6)
    before = str(graph)
    with pytest.raises(ShapeError) as caught:
        graph.update(graph.node("point"), out_channels=12)
    assert "'relu_2' float32[2, 8, 6, 6]" in caught.value.cause
    assert "'point' float32[2, 12, 6, 6]" in caught.value.cause
    assert "align" in (caught.value.fix or "")
    assert str(graph) == before


def test_what_two_explicit_widths_say_stays() -> None:
    graph = lowered(Residual(), 2, 3, 6, 6)
    before = str(graph)

    def edit() -> None:
        with graph.edits():
            graph.update(graph.node("stem"), out_channels=12)
            graph.update(graph.node("up"), out_channels=10)

    with pytest.raises(ShapeError, match=r"12, 6, 6.*10, 6, 6"):
        edit()
    assert str(graph) == before


def test_until_the_edits_end_a_mutator_can_do_it_another_way() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 8, 1)
            self.b = nn.Conv2d(8, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            return x + self.b(x)

    graph = lowered(Block(), 2, 3, 4, 4)
    add = graph.node("add")
    with graph.edits():
        graph.update(graph.node("a"), out_channels=12)
        assert graph.node("b").shape[1] == 8
        graph.rewire(add, 0, graph.align(graph.node("b"), graph.node("a"), name="project"))
    assert graph.node("b").attrs["out_channels"] == 8
    assert graph.node("project").attrs["in_channels"] == 12
    assert runs(graph, 2, 3, 4, 4).shape == (2, 8, 4, 4)


def test_spatial_sizes_that_part_are_named() -> None:
    graph = lowered(Residual(), 2, 3, 6, 6)
    with pytest.raises(ShapeError, match=r"'relu.*6, 6.*'mul.*3, 3"):
        graph.update(graph.node("up"), stride=(2, 2))
    graph.update(graph.node("stem"), stride=(2, 2))
    runs(graph, 2, 3, 6, 6)


# --- concatenation, groups, splits ----------------------------------------------------------------


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.b = nn.Conv2d(4, 6, 1)
        self.c = nn.Conv2d(10, 8, 1, groups=2)
        self.d = nn.Conv2d(4, 8, 1)
        self.norm = nn.GroupNorm(4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        y = self.c(torch.cat([a, self.b(a)], 1))
        left, right = y.chunk(2, 1)
        return self.norm(self.d(left) * torch.cat([right, right], 1))


def test_concatenation_adds_up() -> None:
    graph = lowered(Dense(), 2, 3, 4, 4)
    graph.update(graph.node("a"), out_channels=8)
    assert graph.node("c").attrs["in_channels"] == 14
    runs(graph, 2, 3, 4, 4)
    with pytest.raises(ShapeError, match="2 groups"):
        graph.update(graph.node("a"), out_channels=9)


def test_the_other_side_of_a_concatenation_that_is_joined_is_named() -> None:
    graph = lowered(Dense(), 2, 3, 4, 4)
    with pytest.raises(ShapeError, match=r"'d' float32\[2, 8, 4, 4\] and 'cat_1' float32\[2, 16"):
        graph.update(graph.node("c"), out_channels=16)
    with graph.edits():
        graph.update(graph.node("c"), out_channels=16)
        graph.update(graph.node("d"), out_channels=16)
    assert runs(graph, 2, 3, 4, 4).shape == (2, 16, 4, 4)


def test_concatenated_branches_of_two_sizes_are_named() -> None:
    graph = lowered(Dense(), 2, 3, 4, 4)
    with pytest.raises(ShapeError, match=r"cat joins branches.*'a' .*4, 4\] and 'b' .*2, 2\]"):
        graph.update(graph.node("b"), stride=(2, 2))


def test_explicit_split_sizes_are_kept() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 10, 1)
            self.b = nn.Conv2d(4, 2, 1)
            self.c = nn.Conv2d(6, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, c = self.a(x).split([4, 6], 1)
            return self.b(b) + self.c(c)

    for first in ("a", "split"):
        graph = lowered(Split(), 2, 3, 4, 4)
        with graph.edits():
            if first == "a":
                graph.update(graph.node("a"), out_channels=13)
            graph.update(graph.node("split"), split_size_or_sections=(6, 7))
            if first != "a":
                graph.update(graph.node("a"), out_channels=13)
        assert graph.node("b").attrs["in_channels"] == 6
        assert graph.node("c").attrs["in_channels"] == 7
        runs(graph, 2, 3, 4, 4)
    graph = lowered(Split(), 2, 3, 4, 4)
    graph.update(graph.node("a"), out_channels=20)
    assert graph.node("split").attrs["split_size_or_sections"] == (8, 12)
    with pytest.raises(ShapeError, match="split of 20"):
        graph.update(graph.node("a"), out_channels=11)


# --- flatten to linear ----------------------------------------------------------------------------


FLATTENINGS = {
    "flatten": lambda x: x.flatten(1),
    "torch.flatten": lambda x: torch.flatten(x, 1),
    "view": lambda x: x.view(x.shape[0], -1),
    "view of numbers": lambda x: x.view(-1, 8 * 4 * 4),
    "reshape": lambda x: x.reshape(x.size(0), x.size(1) * x.size(2) * x.size(3)),
    "mean": lambda x: x.mean((2, 3)),
    "pool": lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1),
    "last": lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1),
}


@pytest.mark.parametrize("kind", sorted(FLATTENINGS))
def test_flattened_features_follow(kind: str) -> None:
    flatten = FLATTENINGS[kind]

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)
            self.fc = nn.Linear(flatten(torch.zeros(1, 8, 4, 4)).shape[1], 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(flatten(torch.relu(self.conv(x))))

    graph = lowered(Flat(), 2, 3, 4, 4)
    before = graph.node("fc").attrs["in_features"]
    graph.update(graph.node("conv"), out_channels=12)
    assert graph.node("fc").attrs["in_features"] == before * 12 // 8
    assert runs(graph, 3, 3, 4, 4).shape == (3, 5)


# --- transformers ---------------------------------------------------------------------------------


class Encoder(nn.Module):
    """A vision transformer: class token, positions, attention written out, and MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.place = nn.Parameter(torch.zeros(1, 5, 16))
        self.norm1 = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.proj = nn.Linear(16, 16)
        self.norm2 = nn.LayerNorm(16)
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.place
        b, n, c = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(b, n, 3, 4, 4).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        x = x + self.proj(y)
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        x = x + self.attention(x, x, x)[0]
        return self.head(x[:, 0])


def test_a_transformers_width_is_said_once() -> None:
    graph = lowered(Encoder(), 2, 3, 8, 8)
    graph.update(graph.node("patch"), out_channels=24)
    assert graph.node("token").shape == (1, 1, 24)
    assert graph.node("place").shape == (1, 5, 24)
    assert graph.node("norm1").attrs["normalized_shape"] == (24,)
    assert {graph.node(n).attrs["out_features"] for n in ("proj", "down")} == {24}
    assert graph.node("qkv").attrs["in_features"] == 24
    # How wide the heads are inside is not the residual stream's business.
    assert graph.node("qkv").attrs["out_features"] == 48
    assert graph.node("up").attrs["out_features"] == 32
    assert graph.node("attention").attrs["embed_dim"] == 24
    assert runs(graph, 3, 3, 8, 8).shape == (3, 7)


def test_wider_heads() -> None:
    graph = lowered(Encoder(), 2, 3, 8, 8)
    graph.update(graph.node("qkv"), out_features=96)
    assert graph.node("proj").attrs["in_features"] == 32
    assert graph.node("proj").attrs["out_features"] == 16
    assert runs(graph, 2, 3, 8, 8).shape == (2, 7)


def test_heads_that_do_not_divide_are_an_error() -> None:
    graph = lowered(Encoder(), 2, 3, 8, 8)
    with pytest.raises(ShapeError, match="50"):
        graph.update(graph.node("qkv"), out_features=50)
    with pytest.raises(ShapeError, match="4 heads"):
        graph.update(graph.node("patch"), out_channels=18)


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 8)
        self.places = nn.Embedding(5, 8)
        self.norm = nn.LayerNorm(8)
        self.ff = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        x = x + self.ff(self.norm(x))
        return self.head(self.norm(x))


def test_embeddings() -> None:
    ids = torch.zeros(2, 5, dtype=torch.long)
    graph = parse(Language(), ids)
    before = str(graph)
    with pytest.raises(
        ShapeError, match=r"'tokens' float32\[2, 5, 12\] and 'places' float32\[5, 8"
    ):
        graph.update(graph.node("tokens"), embedding_dim=12)
    assert str(graph) == before
    with graph.edits():
        graph.update(graph.node("tokens"), embedding_dim=12)
        graph.update(graph.node("places"), embedding_dim=12)
    # The norm is called twice, and the far end of the residual branch follows.
    assert graph.node("norm@1").attrs["normalized_shape"] == (12,)
    assert graph.node("ff").attrs["out_features"] == 12
    graph.verify()
    module = graph.to_module(seed=0)
    assert module(ids).shape == (2, 5, 11)
    assert module.head.weight is module.tokens.weight
    graph.update(graph.node("tokens"), num_embeddings=20)
    assert graph.to_module(seed=0)(ids + 19).shape == (2, 5, 11)


def test_calls_of_one_layer_at_two_widths_are_refused() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 6)
            self.norm = nn.LayerNorm(6)
            self.b = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.b(self.norm(self.a(x))))

    graph = lowered(Shared(), 2, 4)
    for name in ("a", "b"):
        before = str(graph)
        with pytest.raises(ShapeError, match="norm"):
            graph.update(graph.node(name), out_features=9)
        assert str(graph) == before
    with graph.edits():
        graph.update(graph.node("a"), out_features=9)
        graph.update(graph.node("b"), out_features=9)
    assert runs(graph, 2, 4).shape == (2, 9)


# --- in a space -----------------------------------------------------------------------------------


class Widths(Mutator):
    def mutate(self, graph: Graph, target: Any) -> None:
        graph.update(target, out_channels=self.choice([4, 8, 12], label="width"))


def test_counts_know_what_follows_and_what_cannot() -> None:
    def infeasible_point() -> ModelSpace:
        space = ModelSpace(Residual(), torch.zeros(2, 3, 6, 6))
        return space.apply_mutator(["stem", "point"], Widths())

    space = infeasible_point()
    # The stem's width is free; that of a branch's end must be what the stem has.
    widths = [
        (c.decisions["Widths/stem/width"], c.decisions["Widths/point/width"])
        for c in space.enumerate()
    ]
    assert sorted(widths) == [(4, 4), (8, 8), (12, 12)]
    assert space.count() == 3


def test_a_mutator_aligns_what_it_joins() -> None:
    class Skip(Mutator):
        def mutate(self, graph: Graph, target: Any) -> None:
            source = graph.node(self.choice(["stem", "down"], label="from"))
            added = graph.align(target, source, name="shortcut")
            graph.insert_after(target, torch.add, added)

    space = ModelSpace(Residual(), torch.zeros(2, 3, 6, 6)).apply_mutator("point", Skip())
    assert space.count() == 2
    for candidate in space.enumerate():
        assert candidate.build(0)(torch.zeros(2, 3, 6, 6)).shape == (2, 4)
    with pytest.raises(GraphError):
        Graph.align(candidate.graph, candidate.graph.node("stem"), candidate.graph.node("head"))
