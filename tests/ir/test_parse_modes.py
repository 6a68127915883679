"""What a model does in one mode only: both stay in the graph, and each runs in its own mode."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from retiarii.ir.forms.text import parse_text
from retiarii.ir.graph import Graph
from retiarii.ir.types import ByMode, Training
from retiarii.testing.parsing import check, parsed

Both = namedtuple("Both", ["main", "aux"])


class DropPath(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x):
        if self.p == 0.0 or not self.training:
            return x
        keep = 1 - self.p
        mask = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(keep)
        return x * mask.div_(keep)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.drop = DropPath(0.3)

    def forward(self, x):
        return x + self.drop(torch.relu(self.fc(x)))


class TwoWays(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)

    def forward(self, x):
        y = self.fc(x)
        y = self.other(y) * 2 if self.training else torch.tanh(y)
        return self.fc(y) + x


class Aux(nn.Module):
    """Another structure is returned in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.aux = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.body(x)
        aux = self.aux(x) if self.training else None
        x = self.head(x)
        return Both(x, aux) if self.training else x


class Rates(nn.Module):
    """Arguments that follow the mode: a number, a string, a flag."""

    def forward(self, x):
        y = F.dropout(x, 0.4 if self.training else 0.2, training=self.training)
        kind = "circular" if self.training else "replicate"
        return F.pad(y[:, None], (1, 1), mode=kind) + (1.5 if self.training else 0.5)


class BatchInOneMode(nn.Module):
    """A size that follows the batch, in training only."""

    def forward(self, x):
        if self.training:
            return x.reshape(x.shape[0] * 2, 2).sum(0).expand(x.shape[0], 2)
        return x[:, :2] * 3


MODELS = {
    "drop path": lambda: nn.Sequential(Block(), Block()),
    "two ways": TwoWays,
    "aux": Aux,
    "rates": Rates,
    "batch": BatchInOneMode,
}


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("training", [True, False])
def test_both_modes_are_lowered(name: str, training: bool) -> None:
    graph = check(MODELS[name], lambda b: torch.randn(b, 4), train_example=training)
    text = str(graph)
    assert str(parse_text(text)) == text


@pytest.mark.parametrize("name", ["drop path", "two ways", "rates", "batch"])
def test_the_source_runs_in_both_modes(name: str) -> None:
    model = MODELS[name]()
    namespace: dict[str, object] = {}
    exec(parsed(model, torch.randn(2, 4)).to_source(), namespace)
    made = namespace["Model"]()  # type: ignore[operator]
    made.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(3, 4)
    for training in (True, False):
        results = []
        for module in (model, made):
            module.train(training)
            torch.manual_seed(1)
            results.append(module(x))
        torch.testing.assert_close(results[1], results[0])


def test_what_is_for_training_draws_nothing_in_evaluation() -> None:
    built = parsed(Block(), torch.randn(2, 4)).to_module().eval()
    state = torch.get_rng_state()
    built(torch.randn(0, 4))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_choice_is_a_node_that_says_the_mode() -> None:
    graph: Graph = parsed(Block(), torch.randn(2, 4))
    (node,) = graph.find("*by_mode*")
    assert node.attrs["training"] == Training()
    made, kept = node.inputs
    assert made.node.op == "mul"
    assert kept.node.op == "relu"


def test_numbers_of_both_modes_stand_in_one_attribute() -> None:
    graph = parsed(Rates(), torch.randn(2, 4))
    (drop,) = (n for n in graph.nodes if n.op == "dropout")
    assert drop.attrs["p"] == ByMode(0.4, 0.2)
    assert drop.attrs["training"] == Training()


class WrittenOut(nn.BatchNorm2d):
    """A batch norm whose forward is spelled out, with what follows it."""

    def __init__(self, channels: int, **options: object) -> None:
        super().__init__(channels, **options)
        self.act = nn.PReLU()

    def forward(self, x):
        torch._assert(x.ndim == 4, "four dimensions")
        if self.training and self.track_running_stats:
            self.num_batches_tracked.add_(1)
        batch = self.training or self.running_mean is None
        x = F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            batch,
            self.momentum,
            self.eps,
        )
        return self.act(x)


@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"eps": 1e-3}, {"track_running_stats": False}]
)
def test_a_batch_norm_that_is_spelled_out_is_the_layer(options: dict[str, object]) -> None:
    graph = check(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), WrittenOut(4, **options)),
        lambda b: torch.randn(b, 3, 5, 5),
    )
    (norm,) = (n for n in graph.nodes if n.op == "BatchNorm2d")
    assert norm.path == "1"
    assert [n.path for n in graph.nodes if n.op == "PReLU"] == ["1.act"]


def test_a_batch_norm_that_counts_otherwise_is_opaque() -> None:
    class Twice(WrittenOut):
        def forward(self, x):
            if self.training:
                self.num_batches_tracked.add_(1)
            return super().forward(x)

    graph = parsed(nn.Sequential(Twice(4)), torch.randn(2, 4, 5, 5))
    assert [n.path for n in graph.opaque] == ["0"]


def test_a_norm_beside_a_tie_of_what_lies_in_it() -> None:
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = WrittenOut(4), WrittenOut(4)
            self.two.act = self.one.act

        def forward(self, x):
            return self.two(self.one(x))

    check(Tied, lambda b: torch.randn(b, 4, 3, 3))
