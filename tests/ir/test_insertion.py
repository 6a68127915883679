"""Modules that do more than their class says, inserted into a graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from retiarii.errors import GraphError
from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse


def base() -> Graph:
    return parse(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), torch.zeros(2, 4))


def inserted(layer: nn.Module) -> Graph:
    graph = base()
    graph.rewire(graph.node("1"), 0, graph.insert(layer, graph.node("0"), name="new"))
    graph.verify()
    return graph


def doubled(module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
    return output * 2


def shifted(module: nn.Module, args: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return args[0] + 1


def hooked(layer: nn.Module, path: str = "") -> nn.Module:
    layer.get_submodule(path).register_forward_hook(doubled)
    return layer


def pre_hooked() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_forward_pre_hook(shifted)
    return layer


def with_own_forward() -> nn.Module:
    layer = nn.ReLU()
    layer.forward = lambda x: torch.sin(x)  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize(
    "make",
    [
        lambda: hooked(nn.Linear(4, 4)),
        lambda: hooked(nn.Tanh()),
        pre_hooked,
        with_own_forward,
        lambda: hooked(nn.Sequential(nn.Linear(4, 4), nn.Tanh())),
        lambda: hooked(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), "1"),
        lambda: nn.Sequential(hooked(nn.Sequential(nn.Linear(4, 4))), nn.Tanh()),
        lambda: hooked(nn.TransformerEncoderLayer(4, 2, 8, 0.0), "linear1"),
    ],
)
def test_hooks_are_in_the_graph(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    layer = make()
    module = inserted(layer).to_module()
    held = {k: v for k, v in module.state_dict().items() if k.startswith("new.")}
    layer.load_state_dict({key.removeprefix("new."): value for key, value in held.items()})
    ends = base().to_module()
    ends.load_state_dict({k: v for k, v in module.state_dict().items() if k not in held})
    x = torch.randn(2, 4)
    torch.testing.assert_close(module(x), ends[1](layer(ends[0](x))))


def test_a_layer_without_hooks_is_one_node() -> None:
    removed = nn.Linear(4, 4)
    removed.register_forward_hook(doubled).remove()
    assert inserted(removed).node("new").op == "Linear"


def by_its_numbers(module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
    return -output if output.sum() > 0 else output


@pytest.mark.parametrize(
    ("layer", "path", "of"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Tanh()), "", "hooks of the Sequential"),
        (nn.Sequential(nn.Linear(4, 4), nn.Tanh()), "1", "hooks of the Tanh"),
        (nn.TransformerEncoderLayer(4, 2, 8), "linear1", "hooks of its part 'linear1'"),
    ],
)
def test_hooks_that_cannot_be_lowered_are_refused(layer: nn.Module, path: str, of: str) -> None:
    layer.get_submodule(path).register_forward_hook(by_its_numbers)
    graph = base()
    before = str(graph)
    with pytest.raises(GraphError) as caught:
        graph.insert(layer, graph.node("0"), name="new")
    assert of in str(caught.value.fix)
    assert "could not be lowered" in caught.value.cause
    assert "inserting 'new" in str(caught.value.where)
    assert str(graph) == before


def test_what_a_backward_hook_does_is_refused() -> None:
    layer = nn.Linear(4, 4)
    layer.register_full_backward_hook(lambda *_: None)
    with pytest.raises(GraphError, match="hooks of the Linear"):
        inserted(layer)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, width), nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


def test_a_block_inserted_twice_is_two() -> None:
    graph = base()
    first = graph.insert(_Block(8), graph.node("0"), name="block")
    graph.rewire(graph.node("1"), 0, graph.insert(_Block(6), first, name="block"))
    model = graph.to_module()
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items() if k.endswith("a.weight")}
    assert shapes == {"block.a.weight": (8, 4), "block_1.a.weight": (6, 4)}
    assert model(torch.zeros(2, 4)).shape == (2, 3)
