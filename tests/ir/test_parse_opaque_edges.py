"""Opaque modules at the edges: the whole model, TorchScript, ties, checks that read numbers."""

from __future__ import annotations

import copy
import functools
import warnings

import pytest
import torch
from torch import nn

from retiarii.testing.parsing import check, parsed


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else self.fc(-x)


class Wholly(nn.Module):
    """Opaque as a whole, with parameters, a buffer and children of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("seen", torch.zeros(()))
        self.parts = nn.ModuleList([nn.Linear(4, 4), nn.Dropout(0.5)])

    def forward(self, x, limit: float = 0.0):
        self.seen += 1
        for part in self.parts:
            x = part(x) * self.scale
        return {"out": x, "positive": None if x.sum().item() > 1e9 else True}


@pytest.mark.parametrize("training", [True, False])
def test_a_root_that_is_opaque_keeps_keys_modes_and_state(training: bool) -> None:
    graph = check(Wholly, lambda b: torch.randn(b, 4), opaque=("",), train_example=training)
    built = graph.to_module()
    twin = copy.deepcopy(built).double()
    assert {p.dtype for p in twin.parameters()} == {torch.float64}
    twin.train(not training)
    twin(torch.randn(3, 4, dtype=torch.float64))
    assert float(twin.seen) == float(built.seen) + 1


def test_an_opaque_module_may_return_no_tensor() -> None:
    class Logs(nn.Module):
        def forward(self, x):
            return {"high": x.max().item() > 1e9}

    class Calls(nn.Module):
        def __init__(self):
            super().__init__()
            self.logs = Logs()

        def forward(self, x):
            self.logs(x)
            return x * 2

    graph = check(Calls, lambda b: torch.randn(b, 4), opaque=("logs",))
    assert graph.node("logs").types == ()


def test_a_tie_into_an_opaque_module() -> None:
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(4, 4))
            self.inner = Branches()
            self.inner.fc.weight = self.table

        def forward(self, x):
            return self.inner(x) @ self.inner.fc.weight

    check(Tied, lambda b: torch.randn(b, 4), opaque=("inner",))


class Quick(nn.Module):
    """Looks at numbers to save work, unless it is being compiled."""

    def forward(self, x, mask):
        if not torch.compiler.is_compiling() and mask.all():
            return x
        return x * mask


def test_what_compiled_code_leaves_out_is_left_out() -> None:
    def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(batch, 4), torch.arange(batch)[:, None] > 0

    graph = check(Quick, inputs)
    assert not torch.compiler.is_compiling()
    assert [n.op for n in graph.nodes if n.op == "mul"] == ["mul"]


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.inner = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.inner(x))


def test_torchscript_is_opaque() -> None:
    model = Scripted()
    graph = parsed(model, torch.randn(2, 4))
    assert [n.path for n in graph.opaque] == ["inner"]
    built = graph.to_module()
    assert list(built.state_dict()) == list(model.state_dict())
    x = torch.randn(5, 4)
    torch.testing.assert_close(built(x), model(x))
    built(x).sum().backward()
    assert all(p.grad is not None for p in built.parameters())


@functools.lru_cache
def places(length: int) -> torch.Tensor:
    return torch.arange(length, dtype=torch.float64)


class Cached(nn.Module):
    def forward(self, x):
        return x * places(x.shape[1])


def test_what_a_function_keeps_is_a_constant() -> None:
    places.cache_clear()
    graph = check(Cached, lambda b: torch.randn(b, 4))
    assert any(n.op == "constant" for n in graph.nodes)
