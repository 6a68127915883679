"""Parsing leaves the model, and all that is global, as it was; the graph knows what it must."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from retiarii.ir.parse import parse
from retiarii.ir.types import BatchSize, InputDevice, Training
from retiarii.testing.parsing import assert_same_run, check, doubled, parsed


class Uncopyable(nn.Module):
    """Cannot be deep-copied: it holds a lock. Its state is put back."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.fc = nn.Linear(4, 4)
        self.bn = nn.BatchNorm1d(4)
        self.seen: list[Any] = []

    def forward(self, x):
        with self.lock:
            self.seen.append(x)
            y = self.bn(self.fc(x))
            return y if y.sum() > 1e9 else y * 2


def test_a_model_that_cannot_be_copied_is_put_back() -> None:
    model = Uncopyable()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    parameters = list(model.parameters())
    graph = parsed(model, torch.randn(3, 4))
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert model.seen == []
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, weights[key], msg=key)
    assert len(graph.opaque) == 1


def test_random_states_and_modes_stay() -> None:
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x) * F.dropout(torch.ones(4), 0.5)

    state, torch_state = random.getstate(), torch.get_rng_state()
    with torch.no_grad():
        graph = parse(Noisy(), torch.randn(2, 4))
        assert not torch.is_grad_enabled()
    assert random.getstate() == state
    assert not any(n.record.no_grad for n in graph.nodes)
    assert graph.opaque == ()
    torch.set_rng_state(torch_state)


def test_parsing_in_one_thread_while_the_model_runs_in_another() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    x = torch.randn(2, 4)
    expected = model(x)
    wrong: list[Any] = []
    done = threading.Event()

    def run() -> None:
        while not done.is_set():
            if not torch.equal(model(x), expected):
                wrong.append(1)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for _ in range(5):
            parse(model, x)
    finally:
        done.set()
        thread.join()
    assert wrong == []


def test_frozen_layers_and_parameters_stay_frozen() -> None:
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.bn = nn.BatchNorm2d(4)
            self.bn.eval()
            self.conv.weight.requires_grad_(False)

        def train(self, mode=True):
            super().train(mode)
            self.bn.eval()
            return self

        def forward(self, x):
            return F.dropout(self.bn(self.conv(x)), 0.0, self.bn.training)

    model = Frozen().double()
    graph = parsed(model, doubled(torch.randn(2, 3, 5, 5)))
    assert graph.context.modes == {"bn": False}
    assert graph.context.frozen == {"conv.weight"}
    assert graph.node("dropout").attrs["training"] is False
    built = graph.to_module()
    assert not built.get_submodule("bn").training
    assert not built.get_parameter("conv.weight").requires_grad
    assert_same_run(model, built, doubled(torch.randn(3, 3, 5, 5)))


class Symbols(nn.Module):
    def forward(self, x):
        b = x.shape[0]
        y = x.view(2 * b, -1)
        z = torch.zeros(b // 2 + 1, device=x.device)
        return F.dropout(y, 0.5, self.training), z, torch.arange(3)


def test_what_follows_the_batch_the_mode_and_the_device() -> None:
    graph = parsed(Symbols(), torch.randn(2, 4))
    assert graph.opaque == ()
    assert graph.node("view").attrs["size"] == (BatchSize(2), -1)
    assert graph.node("dropout").attrs.get("training", Training()) == Training()
    (size,) = (leaf for leaf in graph.node("zeros").attrs["size"])
    assert [size.at(b) for b in (1, 2, 3, 8, 9)] == [1, 2, 2, 5, 5]
    assert graph.node("zeros").attrs["device"] == InputDevice()
    assert "device" not in graph.node("arange").attrs


def test_a_model_that_runs_at_one_batch_size_only() -> None:
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return F.dropout(self.fc(x).view(2, 4), 0.5, self.training)

    check(Fixed, lambda b: torch.randn(b, 4), batches=(2,))


def test_names_say_where_nodes_come_from() -> None:
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return torch.relu(self.fc(x)) + torch.relu(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return self.blocks[0](x) * self.scale

    graph = parsed(Net(), torch.randn(2, 4))
    assert [n.name for n in graph.nodes] == [
        "x",
        "scale",
        *("blocks.0.fc", "blocks.0.relu", "blocks.0.relu_1", "blocks.0.add"),
        *("blocks.1.fc", "blocks.1.relu", "blocks.1.relu_1", "blocks.1.add"),
        *("blocks.0.fc@1", "blocks.0.relu_2", "blocks.0.relu_3", "blocks.0.add_1"),
        "mul",
    ]
    assert graph.node("blocks.0.fc@1").path == "blocks.0.fc"
    assert all(
        n.where is not None and "test_parse_isolation.py:" in n.where
        for n in graph.nodes
        if n.op not in ("input", "parameter")
    )


@pytest.mark.parametrize("written", ["data", "detach"])
def test_writes_that_cannot_be_followed_are_never_wrong(written: str) -> None:
    class Writes(nn.Module):
        def forward(self, x):
            y = x * 2
            alias = y.data if written == "data" else y.detach()
            alias.add_(1)
            return y + 1

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Writes()

        def forward(self, x):
            return self.inner(x * 3)

    check(Net, lambda b: torch.randn(b, 4), opaque=("inner",))


def test_a_view_of_a_parameter_made_beforehand_is_no_constant() -> None:
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 4))
            self.flat = self.weight.data.view(-1)

        def forward(self, x):
            return x * self.flat[:4]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Views()

        def forward(self, x):
            return self.inner(x * 1)

    graph = parsed(Net(), torch.randn(2, 4))
    assert [n.path for n in graph.opaque] == ["inner"]


def test_models_on_the_meta_device_parse() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    graph = parse(model, torch.empty(2, 4, device="meta"))
    assert [n.op for n in graph.nodes] == ["input", "Linear", "ReLU", "Linear"]
