"""Functions of ``torch.jit.script`` that a model calls."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import torch
from torch import nn

from retiarii.testing.parsing import check


def _double_relu(x: torch.Tensor, times: int = 2) -> torch.Tensor:
    return torch.relu(x) * times


def _scripted(function: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(function)


SCRIPTED = _scripted(_double_relu)
WITHOUT_CODE = _scripted(_double_relu)
WITHOUT_CODE._torchdynamo_inline = None


class Calls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return SCRIPTED(self.fc(x), times=3) + 1


class Loaded(nn.Module):
    """Calls a function whose Python code is not at hand, as of one that was loaded."""

    def forward(self, x):
        return WITHOUT_CODE(x)


def test_its_python_code_is_traced() -> None:
    graph = check(Calls, lambda b: torch.randn(b, 4))
    assert [n.op for n in graph.nodes if n.op in ("relu", "mul", "add")] == ["relu", "mul", "add"]
    assert graph.node("mul").attrs["other"] == 3


def test_without_python_code_the_module_is_opaque() -> None:
    graph = check(lambda: nn.Sequential(Loaded()), lambda b: torch.randn(b, 4), opaque=("0",))
    assert "TorchScript" in graph.opaque[0].attrs["reason"]


def test_scripted_functions_are_what_they_were_afterwards() -> None:
    kind: Any = torch.jit.ScriptFunction
    usual = vars(kind)["__call__"]
    seen = []

    class Looks(Calls):
        def forward(self, x):
            # Another thread calls the function as ever: real tensors, no trace.
            other = threading.Thread(target=lambda: seen.append(SCRIPTED(torch.ones(2), times=2)))
            other.start()
            other.join()
            return super().forward(x)

    check(Looks, lambda b: torch.randn(b, 4))
    assert vars(kind)["__call__"] is usual
    assert all(torch.equal(made, torch.full((2,), 2.0)) for made in seen)
