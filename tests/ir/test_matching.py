"""Patterns written as PyTorch, found and replaced."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from retiarii.errors import GraphError
from retiarii.ir.edit.patterns import wildcard
from retiarii.ir.graph import Graph
from retiarii.ir.node import Node
from retiarii.ir.parse import parse
from retiarii.mutators.mutator import Mutator
from retiarii.space import ModelSpace


class Block(nn.Module):
    def __init__(self, layer: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True) if layer else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        return x + (F.relu(y) if self.act is None else self.act(y))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.a = Block(True)
        self.b = Block(False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.b(self.a(torch.tanh(self.stem(x)))), 2)
        return self.head(x.mean((2, 3)))


@pytest.fixture
def graph() -> Graph:
    return parse(Net(), torch.zeros(2, 3, 4, 4))


def conv_norm_relu(x: Any) -> Any:
    conv = wildcard(nn.Conv2d, name="conv")
    return F.relu(wildcard("BatchNorm2d", "GroupNorm", name="norm")(conv(x)))


def test_a_chain_is_found_whatever_it_is_called_and_spelled(graph: Graph) -> None:
    found = graph.match(conv_norm_relu)
    assert [m["conv"].name for m in found] == ["a.conv", "b.conv"]
    assert [m["norm"].name for m in found] == ["a.norm", "b.norm"]
    assert [m["relu"].op for m in found] == ["ReLU", "relu"]
    assert [m.output.name for m in found] == [m["relu"].name for m in found]
    assert [m.inputs["x"].name for m in found] == [v.inputs[0].name for v in graph.find("*.conv")]
    assert set(found[0].nodes) == {"conv", "norm", "relu"}


def test_commutative_inputs_come_in_any_order(graph: Graph) -> None:
    def left(x: Any) -> Any:
        return conv_norm_relu(x) + x

    def right(x: Any) -> Any:
        return torch.add(x, conv_norm_relu(x))

    assert [m["conv"].name for m in graph.match(left)] == ["a.conv", "b.conv"]
    assert [m["conv"].name for m in graph.match(right)] == ["a.conv", "b.conv"]

    def difference(x: Any) -> Any:
        return conv_norm_relu(x) - x

    assert graph.match(difference) == ()


def test_the_same_tensor_twice_and_two_tensors() -> None:
    class Sums(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (a * a) - (a * b)

    graph = parse(Sums(), (torch.zeros(2, 2), torch.zeros(2, 2)))
    squares = graph.match(lambda x: x * x)
    products = graph.match(lambda x, y: x * y)
    assert len(squares) == 1
    assert len(products) == 2
    assert [v.name for v in squares[0].inputs.values()] == ["a"]
    assert list(products[0].inputs) == ["x", "y"]
    assert len(graph.match(lambda x, y: x - y)) == 1
    assert len(graph.match(lambda x, y, z: x * y - x * z)) == 1
    assert len(graph.match(lambda x, y, z: x * z - y * x)) == 1


def test_attributes(graph: Graph) -> None:
    def sized(size: Any) -> Any:
        return lambda x: wildcard("Conv2d", kernel_size=size)(x)

    assert len(graph.match(sized((3, 3)))) == 2
    assert len(graph.match(sized((1, 1)))) == 1
    assert len(graph.match(sized((5, 5)))) == 0
    assert len(graph.match(sized(wildcard()))) == 3
    assert len(graph.match(lambda x: F.max_pool2d(x, 2))) == 1
    assert len(graph.match(lambda x: F.max_pool2d(x, 3))) == 0
    assert len(graph.match(lambda x: F.max_pool2d(x, wildcard()))) == 1
    assert len(graph.match(lambda x: x.mean((2, 3)))) == 1
    assert len(graph.match(lambda x: x.mean(dim=(2, 3), keepdim=True))) == 0
    wide = wildcard("Conv2d", where=lambda n: n.attrs["in_channels"] == 3)
    assert [m.output.name for m in graph.match(lambda x: wide(x))] == ["stem"]


def test_a_module_is_a_pattern(graph: Graph) -> None:
    class Pattern(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # in_channels follows from the input, and does not matter.
            self.conv = nn.Conv2d(99, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(self.norm(self.conv(x)))

    found = graph.match(Pattern())
    assert [m["conv"].name for m in found] == ["a.conv", "b.conv"]
    assert graph.match(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))) == ()
    pattern = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    assert [m["1"].name for m in graph.match(pattern)] == ["a.norm", "b.norm"]


def test_what_is_used_outside_is_no_inner_node(graph: Graph) -> None:
    tanh = graph.node("tanh")
    before = graph.match(lambda x: wildcard("add")(x, ...))
    assert len(before) == 2
    inner = graph.match(lambda x: wildcard("Conv2d")(torch.tanh(x)))
    assert inner == ()  # the block adds the tanh to its result
    assert len(tanh.users) == 2


def test_overlapping_matches() -> None:
    net = nn.Sequential(nn.Tanh(), nn.Tanh(), nn.Tanh())
    graph = parse(net, torch.zeros(2, 2))

    def twice(x: Any) -> Any:
        return torch.tanh(torch.tanh(x))

    assert [m.output.name for m in graph.match(twice)] == ["1"]
    assert [m.output.name for m in graph.match(twice, overlapping=True)] == ["1", "2"]


def test_any_operation_and_any_inputs(graph: Graph) -> None:
    any_of = graph.match(lambda x: wildcard(name="it")(x), overlapping=True)
    single = [n for n in graph.nodes if len(n.inputs) == 1]
    assert {m["it"].name for m in any_of} == {n.name for n in single}


# --- replacing ------------------------------------------------------------------------------------


def test_every_match_can_be_replaced(graph: Graph) -> None:
    for found in graph.match(lambda x: conv_norm_relu(x) + x):
        graph.replace_match(found, nn.Conv2d(4, 4, 5, padding=2), name="plain")
    assert [n.name for n in graph.find("plain*")] == ["plain", "plain_1"]
    assert not graph.find(lambda n: n.op in ("BatchNorm2d", "ReLU", "relu"))
    graph.verify()
    assert graph.to_module(seed=0)(torch.zeros(2, 3, 4, 4)).shape == (2, 2)


def test_a_function_of_tensors_replaces() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2)).double()

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layers[0](x)
            return self.layers[2](torch.sigmoid(y) * y)

    x = torch.randn(5, 3, dtype=torch.float64)
    graph = parse(Gate(), x)
    (found,) = graph.match(lambda x: x * torch.sigmoid(x))
    new = graph.replace_match(found, lambda x: F.silu(x))
    assert new.op == "silu"
    assert len(graph.find(lambda n: n.op in ("mul", "Sigmoid", "sigmoid"))) == 0
    graph.verify()
    assert torch.allclose(graph.to_module()(x), Gate()(x))
    (again,) = graph.match(F.silu)
    graph.replace_match(again, F.silu)
    (last,) = graph.match(F.silu)
    graph.replace_match(last, graph.insert(nn.ReLU(), last.inputs["input"]))
    assert graph.find(lambda n: n.op == "silu") == ()


def test_a_stale_match_is_refused(graph: Graph) -> None:
    first, second = graph.match(conv_norm_relu)
    graph.insert_after(first["conv"], nn.Dropout2d())
    before = str(graph)
    with pytest.raises(GraphError, match="edited since"):
        graph.replace_match(first, nn.ReLU())
    assert str(graph) == before
    with pytest.raises(GraphError, match="another graph"):
        graph.copy().replace_match(second, nn.ReLU())
    graph.replace_match(second, nn.ReLU())
    graph.verify()


def test_a_replacement_that_does_not_fit_changes_nothing(graph: Graph) -> None:
    (found, _) = graph.match(conv_norm_relu)
    before = str(graph)
    with pytest.raises(GraphError):
        graph.replace_match(found, nn.Conv2d(4, 4, 3))
    assert str(graph) == before
    graph.verify()


# --- what is no pattern ---------------------------------------------------------------------------


def _branching(x: Any) -> Any:
    return x if x else -x


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (3, "no pattern"),
        (lambda x: x, "not the result"),
        (lambda x: (F.relu(x), x), "tuple"),
        (_branching, "branches"),
        (lambda x: x.shape[0] * x, r"\.shape"),
        (lambda x: torch.fft.fft2(x), "no row"),
        (lambda x: wildcard("Conv2d")(3), "without a tensor"),
        (lambda x: wildcard("Conv2d")(x, 3), "only tensors"),
        (lambda x: wildcard("Conf2d")(x), "Conv2d"),
        (lambda x: wildcard(len)(x), "no operation"),
        (lambda x: wildcard(name="a")(wildcard(name="a")(x)), "two parts"),
    ],
)
def test_what_no_pattern_can_do(graph: Graph, pattern: Any, words: str) -> None:
    with pytest.raises(GraphError, match=words):
        graph.match(pattern)


def test_a_variable_that_is_not_there(graph: Graph) -> None:
    (found, _) = graph.match(conv_norm_relu)
    with pytest.raises(KeyError, match="norm"):
        found["nrom"]


# --- property, and counting -----------------------------------------------------------------------

OPS = {"tanh": torch.tanh, "relu": F.relu, "neg": torch.neg, "mul": torch.mul, "sub": torch.sub}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(OPS)), st.integers(0, 9), st.integers(0, 9))),
    st.lists(st.sampled_from(["tanh", "relu", "neg"]), min_size=1, max_size=3),
)
def test_chains_are_found_exactly_where_they_are(
    steps: list[tuple[str, int, int]], chain: list[str]
) -> None:
    class Random(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values = [x]
            for op, i, j in steps:
                inputs = [values[i % len(values)], values[j % len(values)]]
                values.append(OPS[op](*(inputs if op in ("mul", "sub") else inputs[:1])))
            return torch.stack(values).sum()

    def pattern(x: Any) -> Any:
        for op in chain:
            x = OPS[op](x)
        return x

    graph = parse(Random(), torch.zeros(2, 2))
    found = {m.output.name for m in graph.match(pattern, overlapping=True)}
    expected = set()
    for node in graph.nodes:
        at: Node = node
        for depth, op in enumerate(reversed(chain)):
            if at.op != op or (depth and len(at.users) != 1):
                break
            at = at.inputs[0].node
        else:
            expected.add(node.name)
    assert found == expected


class Fuse(Mutator):
    """Perhaps replaces each pair of equal activations behind the target by one."""

    def mutate(self, graph: Graph, target: Node) -> None:
        for i, found in enumerate(graph.match(lambda x: torch.tanh(torch.tanh(x)))):
            if self.choice([False, True], label=f"fuse{i}"):
                graph.replace_match(found, nn.Tanh())


class Activation(Mutator):
    def mutate(self, graph: Graph, target: Node) -> None:
        graph.replace(target, graph.insert(self.choice([nn.Tanh, nn.ReLU]), target.inputs[0]))


def test_counting_notes_what_was_found() -> None:
    net = nn.Sequential(nn.Identity(), nn.Identity(), nn.Linear(2, 2), nn.Identity())
    space = ModelSpace(net, torch.zeros(2, 2))
    space.apply_mutator(["0", "1", "3"], Activation())
    space.apply_mutator("2", Fuse())
    candidates = list(space.enumerate())
    # Two of the eight have a pair, which is fused or not.
    assert len(candidates) == 8 + 2
    assert space.count() == 10
