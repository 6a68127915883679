"""Regions: which nodes belong together, and which parts are the same up to names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from retiarii.ir.analysis.regions import Region, folded
from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse


class Block(nn.Module):
    def __init__(self, width: int, *, slope: float | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.gain = nn.Parameter(torch.ones(1))
        self.slope = slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x)) * self.gain + x
        return torch.relu(y) if self.slope is None else nn.functional.leaky_relu(y, self.slope)


class Renamed(nn.Module):
    """A `Block` whose parts are called differently."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(self.first(x)) * self.scale + x)


class Net(nn.Module):
    def __init__(self, *blocks: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.stage = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(width * 16, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stage(self.stem(x)).tanh())


def graph_of(*blocks: nn.Module) -> Graph:
    return parse(Net(*blocks), torch.zeros(2, 3, 4, 4))


def region(graph: Graph, path: str) -> Region:
    (found,) = [r for r in graph.regions().walk() if r.path == path]
    return found


def test_the_tree_holds_each_node_once() -> None:
    graph = graph_of(Block(8), Block(8))
    tree = graph.regions()
    assert tree.path == ""
    assert sorted(tree.all_nodes) == sorted(node.name for node in graph.nodes)
    assert tree.size == len(graph)
    assert [r.path for r in tree.walk()] == ["", "stage", "stage.0", "stage.1", "head"]
    assert set(tree.nodes) == {"x", "stem", "tanh"}
    assert set(region(graph, "stage.0").nodes) == {
        f"stage.0.{part}" for part in ("conv", "norm", "gain", "mul", "add", "relu")
    }


def test_equal_blocks_are_folded() -> None:
    graph = graph_of(*(Block(8) for _ in range(4)))
    (run,) = region(graph, "stage").runs()
    assert [r.path for r in run] == [f"stage.{i}" for i in range(4)]
    assert folded(run) == "stage.0 .. stage.3: 4 x the same 6 nodes"
    assert str(graph.regions()).splitlines() == [
        "model: 29 nodes",
        "  stage: 24 nodes",
        "    stage.0 .. stage.3: 4 x the same 6 nodes",
        "  head: 2 nodes",
    ]


def test_names_inside_do_not_matter() -> None:
    graph = graph_of(Block(8), Renamed(8))
    assert region(graph, "stage.0").hash == region(graph, "stage.1").hash


def test_what_else_differs_does() -> None:
    graph = graph_of(Block(8, slope=0.1), Block(8, slope=0.1), Block(8, slope=0.2), Block(8))
    runs = [[r.path for r in run] for run in region(graph, "stage").runs()]
    assert runs == [["stage.0", "stage.1"], ["stage.2"], ["stage.3"]]


def test_frozen_weights_and_another_mode_are_a_difference() -> None:
    blocks = [Block(8) for _ in range(4)]
    blocks[1].conv.weight.requires_grad_(False)
    blocks[2].norm.eval()
    hashes = [r.hash for r in region(graph_of(*blocks), "stage").children]
    assert hashes[0] == hashes[3]
    assert len(set(hashes)) == 3


def test_shapes_are_a_difference() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Block(3), Block(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x)[..., ::2])

    a, b = parse(Two(), torch.zeros(2, 3, 4, 4)).regions().children
    assert a.hash != b.hash


def test_how_parameters_are_shared_is_a_difference() -> None:
    class Pair(nn.Module):
        def __init__(self, shared: bool) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4)
            self.two = self.one if shared else nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x))

    graph = parse(nn.Sequential(Pair(False), Pair(True), Pair(False)), torch.zeros(2, 4))
    one, two, three = graph.regions().children
    assert one.hash == three.hash != two.hash


def test_a_result_that_is_read_outside_is_a_difference() -> None:
    class Leaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (
                nn.Sequential(nn.Tanh(), nn.ReLU()),
                nn.Sequential(nn.Tanh(), nn.ReLU()),
            )

        def forward(self, x: torch.Tensor) -> Any:
            inner = self.a[0](x)
            return self.b(self.a[1](inner)), inner

    a, b = parse(Leaky(), torch.zeros(2, 4)).regions().children
    assert a.hash != b.hash


def test_constants_are_compared_by_their_values() -> None:
    class Scaled(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.by = torch.tensor([by])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.by

    graph = parse(nn.Sequential(Scaled(2.0), Scaled(2.0), Scaled(3.0)), torch.zeros(2, 4))
    one, two, three = graph.regions().children
    assert one.hash == two.hash != three.hash
    assert one.size == 2


def test_alike_finds_what_is_the_same_anywhere() -> None:
    graph = graph_of(Block(8), Block(8, slope=0.1), Block(8), nn.Sequential(Block(8), Block(8)))
    alike = graph.regions().alike()
    assert ("stage.0", "stage.2", "stage.3.0", "stage.3.1") in alike
    assert len(alike) == 1


def test_alike_keeps_to_the_outermost() -> None:
    graph = graph_of(*(nn.Sequential(Block(8), Block(8)) for _ in range(2)))
    assert graph.regions().alike() == (("stage.0", "stage.1"), ("stage.0.0", "stage.0.1"))


def test_an_edit_makes_a_block_another() -> None:
    graph = graph_of(*(Block(8) for _ in range(3)))
    graph.remove(graph.node("stage.1.relu"))
    runs = [[r.path for r in run] for run in region(graph, "stage").runs()]
    assert runs == [["stage.0"], ["stage.1"], ["stage.2"]]


def test_opaque_parts_are_the_same_where_their_modules_are() -> None:
    class Inner(nn.Module):
        def __init__(self, width: int, sign: int) -> None:
            super().__init__()
            self.fc = nn.Linear(4, width)
            self.sign = sign

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.fc(x) * self.sign
            return y[..., :4] if float(y.detach().sum()) > 0 else -y[..., :4]

    class Outer(nn.Module):
        def __init__(self, width: int, sign: int = 1) -> None:
            super().__init__()
            self.inner = Inner(width, sign)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + 1

    graph = parse(nn.Sequential(Outer(4), Outer(4), Outer(5), Outer(4, -1)), torch.ones(2, 4))
    assert len(graph.opaque) == 4
    one, two, three, four = graph.regions().children
    assert one.hash == two.hash
    assert len({one.hash, three.hash, four.hash}) == 3
