"""The batch: which input tells it, and values that follow it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from retiarii.ir.forms.text import parse_text
from retiarii.ir.types import BatchSize
from retiarii.testing.parsing import check


class Cache:
    """What a model returns beside its output: an object that is only its attributes."""

    kind = "cache"

    def __init__(self) -> None:
        self.keys: list[torch.Tensor] = []
        self.length = 0


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        cache = Cache()
        for _ in range(2):
            x = self.fc(x)
            cache.keys.append(x)
            cache.length += 1
        return {"out": x, "cache": cache}


class Timed(nn.Module):
    """Its first argument has no batch."""

    def forward(self, step, x):
        return x.reshape(x.shape[0], 2, 2).transpose(1, 2).reshape(x.shape[0] * 2, 2) * step


def test_the_batch_is_counted_on_the_first_input_that_has_one() -> None:
    def inputs(batch: int) -> tuple[Any, ...]:
        return torch.tensor(0.5), torch.randn(batch, 4)

    graph = check(Timed, inputs)
    assert (graph.context.batch, graph.context.batch_input) == (2, 1)
    assert any(BatchSize(2) in (n.attrs.get("shape") or ()) for n in graph.nodes)
    text = str(graph)
    assert "batch_input=1" in text
    again = parse_text(text)
    assert again.context.batch_input == 1
    assert str(again) == text


def test_objects_that_are_their_attributes_are_returned() -> None:
    graph = check(Remembers, lambda b: torch.randn(b, 4))
    made = graph.to_module()(torch.randn(3, 4).double())["cache"]
    assert type(made) is Cache
    assert [k.shape for k in made.keys] == [(3, 4), (3, 4)]
    assert made.length == 2


class Counts(nn.Module):
    """Sizes that follow the batch, beside operators."""

    def forward(self, x):
        n = 2 * x.shape[0] - 1
        return (x / n, x - n, x * n, x + n, n * x, n - x, n / x)


def test_sizes_beside_operators() -> None:
    check(Counts, lambda b: torch.rand(b, 4) + 1, batches=(1, 2, 7))
