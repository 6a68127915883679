"""Hidden widths of recurrent layers: wider, exactly; narrower, as if the others were not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from retiarii.errors import GraphError
from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse
from retiarii.mutators.growth import widen
from retiarii.mutators.prune import prune_channels

X = torch.randn(3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
HIDDEN = 4


class Tagger(nn.Module):
    """All results of a recurrent layer are read."""

    def __init__(self, kind: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 7)
        self.rnn = kind(7, HIDDEN, batch_first=True, **options)
        self.leave = nn.Linear(HIDDEN * (2 if options.get("bidirectional") else 1), 3)
        self.state = nn.Linear(HIDDEN, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made, states = self.rnn(torch.tanh(self.enter(x)))
        last = states[0] if isinstance(states, tuple) else states
        return self.leave(made[:, -1]) + self.state(last[-1])


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, HIDDEN)
        self.rnn = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
        self.leave = nn.Linear(HIDDEN, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        zero = torch.zeros(1, x.shape[0], HIDDEN, dtype=x.dtype)
        return self.leave(x + self.rnn(x, (zero, zero))[0])


class Loop(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.cell = kind(5, HIDDEN)
        self.leave = nn.Linear(HIDDEN, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state: Any = torch.zeros(x.shape[0], HIDDEN, dtype=x.dtype)
        if isinstance(self.cell, nn.LSTMCell):
            state = (state, state)
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.leave(state[0] if isinstance(state, tuple) else state)


NETS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "lstm": (lambda: Tagger(nn.LSTM), "rnn"),
    "lstm both ways": (lambda: Tagger(nn.LSTM, num_layers=2, bidirectional=True), "rnn"),
    "gru": (lambda: Tagger(nn.GRU, num_layers=3, bias=False), "rnn"),
    "gru both ways": (lambda: Tagger(nn.GRU, bidirectional=True), "rnn"),
    "rnn": (lambda: Tagger(nn.RNN, num_layers=2, nonlinearity="relu"), "rnn"),
    "residual": (Residual, "rnn"),
    "lstm cell": (lambda: Loop(nn.LSTMCell), "cell"),
    "gru cell": (lambda: Loop(nn.GRUCell), "cell"),
    "rnn cell": (lambda: Loop(nn.RNNCell), "cell"),
}


def made(name: str) -> tuple[Any, Graph, str]:
    torch.manual_seed(2)
    net = NETS[name][0]().double().eval()
    return net, parse(net, X), NETS[name][1]


def difference(graph: Graph, net: nn.Module) -> float:
    graph.verify()
    with torch.no_grad():
        return float((graph.to_module()(X) - net(X)).abs().max())


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=3, deadline=None)
@given(more=st.integers(1, 7), seed=st.integers(0, 9), noise=st.sampled_from([0.0, 0.7]))
def test_a_wider_state_keeps_the_function(name: str, more: int, seed: int, noise: float) -> None:
    net, graph, layer = made(name)
    widen(graph, graph.node(layer), HIDDEN + more, seed=seed, noise=noise)
    assert graph.node(layer).attrs["hidden_size"] == HIDDEN + more
    assert difference(graph, net) < 1e-9
    widen(graph, graph.node(layer), HIDDEN + more + 2, seed=seed, noise=noise)
    assert difference(graph, net) < 1e-9


def unread(net: Any, layer: str, gone: list[int]) -> None:
    """Nothing reads these units of a recurrent layer any more."""
    directions = 2 if getattr(getattr(net, layer), "bidirectional", False) else 1
    columns = [d * HIDDEN + c for d in range(directions) for c in gone]
    with torch.no_grad():
        for key, weight in getattr(net, layer).named_parameters():
            if key.startswith("weight_hh"):
                weight[:, gone] = 0.0
            elif key.startswith("weight_ih_l") and "_l0" not in key:
                weight[:, columns] = 0.0
        net.leave.weight[:, columns] = 0.0
        if hasattr(net, "state"):
            net.state.weight[:, gone] = 0.0


@pytest.mark.parametrize("name", [n for n in NETS if n != "residual"])
@settings(max_examples=3, deadline=None)
@given(keep=st.sets(st.integers(0, HIDDEN - 1), min_size=1))
def test_a_narrower_state_is_as_if_the_rest_were_not_read(name: str, keep: set[int]) -> None:
    net, graph, layer = made(name)
    prune_channels(graph, graph.node(layer), keep)
    unread(net, layer, [c for c in range(HIDDEN) if c not in keep])
    assert difference(graph, net) < 1e-9
    assert graph.node(layer).attrs["hidden_size"] == len(keep)


def test_a_residual_partner_and_the_first_state_follow() -> None:
    net, graph, _ = made("residual")
    widen(graph, graph.node("enter"), 7, noise=0.3)
    assert graph.node("rnn").attrs["hidden_size"] == graph.node("rnn").attrs["input_size"] == 7
    assert difference(graph, net) < 1e-9
    prune_channels(graph, graph.node("rnn"), [0, 2, 6])
    graph.verify()
    assert graph.to_module()(X).shape == (3, 6, 3)


def test_a_width_set_by_hand_is_followed_by_a_residual_lstm() -> None:
    class Plain(Residual):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.enter(x)
            return self.leave(x + self.rnn(x)[0])

    graph = parse(Plain().double(), X)
    graph.update(graph.node("enter"), out_features=9)
    graph.verify()
    assert graph.node("rnn").attrs["hidden_size"] == 9


@pytest.mark.parametrize(
    ("net", "layer", "words"),
    [
        (lambda: Tagger(nn.LSTM, proj_size=2), "rnn", "no width of its own"),
        (lambda: nn.Sequential(nn.Linear(5, 4), nn.LSTM(4, 6)), "1", "returned by the model"),
    ],
)
def test_what_is_refused(net: Callable[[], nn.Module], layer: str, words: str) -> None:
    module = net()
    if isinstance(module, Tagger):
        module.leave, module.state = nn.Linear(2, 3), nn.Linear(2, 3)
    graph = parse(module.double(), X)
    before, context = str(graph), graph.context
    with pytest.raises(GraphError, match=words):
        widen(graph, graph.node(layer), 8)
    assert str(graph) == before
    assert graph.context is context
