"""Choices that are layers, resolved at once: the graph that resolving them one by one gives."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import retiarii as rt
from retiarii.base_model import Lowered
from retiarii.errors import SpaceError
from retiarii.ir.graph import Graph
from retiarii.mutators.choice import Domain, Recorder
from retiarii.mutators.draw import uniform_chooser
from retiarii.mutators.steps import Plan


class Shift(nn.Module):
    """A raw parameter, and a value that nothing uses."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.sum()
        return self.by + x


class Halved(nn.Module):
    """Makes one resolution of whatever it gets, as the cells of DARTS do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 2)


class Rows(nn.Module):
    """Acts on a size, for which alone its graph holds then."""

    def __init__(self, dim: int = 2) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu() + 1 if x.shape[self.dim] > 1 else x


def option(kind: str, width: int) -> nn.Module:
    made: dict[str, Any] = {
        "layer": lambda: nn.Conv2d(width, width, 1),
        "chain": lambda: nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()),
        "skip": nn.Identity,
        "shift": lambda: Shift(width),
        "choice": lambda: rt.LayerChoice([nn.ReLU(), Shift(width), nn.Identity()]),
        "nested": lambda: nn.Sequential(
            rt.Repeat(lambda _: rt.LayerChoice([nn.Tanh(), nn.Identity()]), (0, 2)), nn.ReLU()
        ),
        "rows": Rows,
        "columns": lambda: nn.Sequential(nn.Conv2d(width, width, 1), Rows(3)),
        "channels": lambda: Rows(1),
        "wider": lambda: nn.Conv2d(width, width + 2, 1),
    }
    module: nn.Module = made[kind]()
    return module


KINDS = ["layer", "chain", "skip", "shift", "choice", "nested", "rows", "columns", "channels"]


class Net(nn.Module):
    """Choices behind each other, joined by chosen inputs, each layer reading earlier ones."""

    def __init__(self, rows: list[list[str]], reductions: list[str], labels: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.layers, self.picks = nn.ModuleList(), nn.ModuleList()
        for i, (kinds, reduction) in enumerate(zip(rows, reductions, strict=True)):
            label = f"shared{len(kinds)}" if labels else None
            self.layers.append(rt.LayerChoice([option(k, 4) for k in kinds], label=label))
            chosen = 1 if reduction == "none" else None
            self.picks.append(rt.InputChoice(i + 2, chosen, reduction=reduction))  # type: ignore[arg-type]
        self.halve = rt.LayerChoice([nn.MaxPool2d(2), nn.AvgPool2d(2)])
        self.either = rt.InputChoice(2)
        self.end = rt.LayerChoice([Halved(), nn.Sequential(Halved(), nn.ReLU())])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nodes = [self.stem(x)]
        for layer, pick in zip(self.layers, self.picks, strict=True):
            made = pick([*nodes, layer(nodes[-1])])
            nodes.append(made[0] if isinstance(made, list) else made)
        chosen = self.either([nodes[-1], self.halve(nodes[-1])])
        result: torch.Tensor = self.end(chosen)
        return result


def one_by_one(lowered: Lowered, recorder: Recorder) -> Graph:
    graph, plan = lowered.graph.copy(), Plan(lowered.placeholders, ())
    progress = plan.begin(graph)
    while (following := plan.next(graph, progress)) is not None:
        progress = plan.perform(graph, *following, recorder)
    return graph


def same_as_one_by_one(lowered: Lowered, seed: int) -> tuple[str, ...]:
    """Compares; the placeholders that were not resolved at once."""
    first, second = Recorder(uniform_chooser(seed)), Recorder(uniform_chooser(seed))
    slow = one_by_one(lowered, first)
    quick, left = lowered.resolver.resolve(second)
    plan = Plan(lowered.placeholders, ())
    progress = plan.resume(left)
    while (following := plan.next(quick, progress)) is not None:
        progress = plan.perform(quick, *following, second)
    assert second.decisions == first.decisions
    assert str(quick) == str(slow)
    assert quick.suffixes == slow.suffixes
    quick.verify()
    for node in quick.nodes:  # who uses what is counted anew
        assert quick.users_of(node.name) == slow.users_of(node.name)
    # Later edits find the same graph.
    for graph in (quick, slow):
        user = graph.inputs[0].users[0]
        graph.replace(user, graph.insert(nn.Conv2d, graph.inputs[0], out_channels=4, kernel_size=1))
        graph.insert(torch.relu, graph.outputs[0])
    assert str(quick) == str(slow)
    return left


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
            st.sampled_from(["sum", "mean", "none"]),
        ),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
    st.integers(0, 999),
)
def test_at_once_as_one_by_one(rows: list[tuple[list[str], str]], labels: bool, seed: int) -> None:
    net = Net([kinds for kinds, _ in rows], [reduction for _, reduction in rows], labels)
    lowered = Lowered.of(net, torch.zeros(2, 3, 4, 4))
    for i in range(6):
        assert same_as_one_by_one(lowered, seed + i) == ()


def test_sizes_that_options_act_on_are_found_when_they_are_asked_for() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.one = rt.LayerChoice([nn.ReLU(), Rows(2)])
            self.two = rt.LayerChoice([nn.ReLU(), Rows(3)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(self.conv(x)))

    space = rt.ModelSpace(Sized(), torch.zeros(2, 3, 4, 4))
    for one, two in ((0, 0), (1, 0), (0, 1), (1, 1)):
        fixed = [(0, 2)] * one + [(0, 3)] * two
        graph = space.freeze({"one": one, "two": two}).graph
        later = graph.copy()
        # What is put in between makes no size: those that were acted on are the input's still.
        edited = graph.copy()
        edited.replace(edited.node("conv"), edited.insert(nn.Conv2d(3, 4, 1), edited.inputs[0]))
        for made in (later, graph, edited):
            assert [(size.input, size.dim) for size in made.sizes] == fixed
        module = graph.to_module()
        module(torch.zeros(2, 3, 4, 4))
        if fixed:
            with pytest.raises(ValueError, match="was lowered for"):
                module(torch.zeros(2, 3, 5, 5))


def test_a_size_that_was_acted_on_counts_where_nothing_uses_the_tensor() -> None:
    class Counts(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return y * x.shape[2]

    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.pick = rt.LayerChoice([Counts(), Counts()])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.pick(self.conv(x), x)

    lowered = Lowered.of(Sized(), torch.zeros(2, 3, 4, 4))
    graph, left = lowered.resolver.resolve(Recorder(lambda *_: 0))
    assert left == ()
    assert "conv" not in graph
    assert [(size.input, size.dim) for size in graph.sizes] == [(0, 2)]
    same_as_one_by_one(lowered, 0)


def answered(answers: Mapping[str, int], label: str, _: Domain) -> int:
    return answers[label]


def test_other_widths_are_left_to_edits() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        *(rt.LayerChoice([option("chain", 4), option("wider", 4)]) for _ in range(3)),
        nn.Conv2d(4, 2, 1),
    )
    lowered = Lowered.of(net, torch.zeros(2, 3, 4, 4))
    assert lowered.resolver.resolve(Recorder(lambda *_: 0))[1] == ()
    # What reads the wider one is a choice still, and then a layer.
    for chosen, left in (((0, 1, 0), ()), ((0, 0, 1), ("3",)), ((0, 1, 1), ("3",))):
        answers = dict(zip("123", chosen, strict=True))
        recorder = Recorder(partial(answered, answers))
        assert lowered.resolver.resolve(recorder)[1] == left
    for seed in range(8):
        same_as_one_by_one(lowered, seed)


def test_labels_with_other_options_are_refused_at_once() -> None:
    net = nn.Sequential(
        rt.LayerChoice([nn.ReLU(), nn.Tanh()], label="a"),
        rt.LayerChoice([nn.ReLU()], label="a"),
    )
    space = rt.ModelSpace(net, torch.zeros(2, 3))
    with pytest.raises(SpaceError, match="two different lists"):
        space.sample(0)
