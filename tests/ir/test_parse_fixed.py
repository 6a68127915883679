"""Models that run at one batch size or in one mode only: graphs say so, and raise elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from retiarii.errors import GraphError
from retiarii.ir.forms.json_form import from_json
from retiarii.ir.forms.text import parse_text
from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse
from retiarii.testing.parsing import check


class PairsOnly(nn.Module):
    """Its sizes follow the batch, and it runs at one batch size: nobody can tell what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        if x.shape[0] != 2:
            raise ValueError("pairs, please")
        return self.fc(x) + torch.ones(x.shape[0], 1)


class FewOnly(nn.Module):
    """Runs at 2, 8 and 6, of the sizes that are tried."""

    def forward(self, x):
        if x.shape[0] not in (2, 6, 8):
            raise ValueError("few, please")
        return x.reshape(x.shape[0] * 2, -1)


class NotLinear(nn.Module):
    """Between 2 and 8 it looks linear, and no third size contradicts."""

    def forward(self, x):
        if x.shape[0] not in (2, 8):
            raise ValueError("few, please")
        return x.sum() * x.shape[0] ** 2


class NeedsTargets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x, targets=None):
        x = self.fc(x)
        if self.training:
            if targets is None:
                raise ValueError("targets, please")
            return (x - targets).square().mean()
        return x


class Recurrent(nn.Module):
    """The batch is not the leading dimension of its state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x, h, c):
        y, (h, c) = self.lstm(x, (h, c))
        return y.reshape(x.shape[0] * 5, 3), h, c


def _forward_of(graph: Graph) -> Callable[..., nn.Module]:
    """The class of `to_source`."""
    space: dict[str, Any] = {}
    exec(graph.to_source(), space)
    made: Callable[..., nn.Module] = space["Model"]
    return made


@pytest.mark.parametrize("nested", [False, True])
def test_one_batch_size(nested: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), PairsOnly()) if nested else PairsOnly()
    graph = parse(model, torch.zeros(2, 4))
    assert graph.context.fixed == {"batch"}
    assert graph.opaque == ()
    x = torch.randn(2, 4)
    built = graph.to_module()
    torch.testing.assert_close(built(x), model(x))
    for made in (built, _forward_of(graph)(), parse_text(str(graph)).to_module(), _read(graph)):
        made(x)
        for batch in (1, 3, 64):
            with pytest.raises(ValueError, match="for a batch of 2 only"):
                made(torch.randn(batch, 4))


def _read(graph: Graph) -> nn.Module:
    return from_json(graph.to_json()).to_module()


def test_the_forms_keep_it() -> None:
    graph = parse(PairsOnly(), torch.zeros(2, 4))
    assert "  fixed batch\n" in str(graph)
    assert str(parse_text(str(graph))) == str(graph)
    assert str(from_json(graph.to_json())) == str(graph)
    assert graph.copy().context.fixed == {"batch"}
    with pytest.raises(GraphError, match="cannot be fixed"):
        parse_text(str(graph).replace("fixed batch", "fixed colour"))


def test_any_third_size_confirms() -> None:
    graph = parse(FewOnly(), torch.zeros(2, 4))
    assert graph.context.fixed == frozenset()
    assert graph.to_module()(torch.randn(64, 4)).shape == (128, 2)


def test_two_sizes_alone_are_no_proof() -> None:
    graph = parse(NotLinear(), torch.zeros(2, 4))
    assert graph.context.fixed == {"batch"}
    x = torch.randn(2, 4)
    torch.testing.assert_close(graph.to_module()(x), NotLinear()(x))
    with pytest.raises(ValueError, match="batch of 2 only"):
        graph.to_module()(torch.randn(5, 4))


def test_a_state_whose_batch_is_not_in_front() -> None:
    def inputs(batch: int) -> tuple[torch.Tensor, ...]:
        return torch.randn(batch, 5, 4), torch.randn(1, batch, 3), torch.randn(1, batch, 3)

    graph = check(Recurrent, inputs, batches=(2, 7))
    assert graph.context.fixed == frozenset()


@pytest.mark.parametrize("training", [False, True])
def test_one_mode(training: bool) -> None:
    model = NeedsTargets().train(training)
    given = (torch.randn(2, 4), torch.randn(2, 4)) if training else torch.randn(2, 4)
    graph = parse(model, given)
    # With targets it runs in both modes.
    assert graph.context.fixed == (frozenset() if training else {"training"})
    built = graph.to_module()
    if training:
        assert built.eval()(*given).shape == (2, 4)
        return
    for made in (built, _forward_of(graph)().eval()):
        assert made(torch.randn(5, 4)).shape == (5, 4)
        with pytest.raises(ValueError, match="for evaluation mode only"):
            made.train()(torch.randn(5, 4))


def test_such_a_module_is_not_inserted_where_the_graph_would_not_say_so() -> None:
    graph = parse(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.zeros(2, 4))
    with pytest.raises(GraphError, match="runs at one batch size only"):
        graph.insert(PairsOnly(), graph.node("0"))
    fixed = parse(PairsOnly(), torch.zeros(2, 4))
    fixed.insert(PairsOnly(), fixed.node("fc"))
