"""Counts of spaces whose mutators look at each other's work, beside those of enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from retiarii.ir.graph import Graph
from retiarii.ir.node import Node
from retiarii.mutators.growth import widen
from retiarii.mutators.mutator import Mutator
from retiarii.mutators.prune import prune_channels
from retiarii.space import ModelSpace


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(w, 8, 1) for w in (3, 8, 8, 8))
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        x = x + self.c(F.relu(self.b(x)))
        made: torch.Tensor = self.head((x + self.d(x)).mean((2, 3)))
        return made


class Edit(Mutator):
    """One of the larger edits, or two; what it reads decides how a space is counted."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def mutate(self, graph: Graph, target: Node) -> None:
        times = self.choice([0, 1, 2], label="times")
        if times:
            getattr(self, self.kind)(graph, target, times)

    def append(self, graph: Graph, target: Node, times: int) -> None:
        for _ in range(times):
            graph.insert_after(target, nn.Conv2d, out_channels=8, kernel_size=1)

    def update(self, graph: Graph, target: Node, times: int) -> None:
        graph.update(target, out_channels=4 + 8 * times)

    def fuse(self, graph: Graph, target: Node, times: int) -> None:
        for found in graph.match(lambda x: torch.relu(x)):
            if self.choice([False, True], label="fuse"):
                graph.replace_match(found, nn.Tanh())

    def widen(self, graph: Graph, target: Node, times: int) -> None:
        widen(graph, target, 12 * times)

    def prune(self, graph: Graph, target: Node, times: int) -> None:
        prune_channels(graph, target, range(2 * times))

    def skip(self, graph: Graph, target: Node, times: int) -> None:
        graph.insert_after(target, torch.add, graph.align(target, graph.node("a")))

    def double(self, graph: Graph, target: Node, times: int) -> None:
        (copy,) = graph.duplicate(target).values()
        graph.insert_after(target, torch.add, copy)

    def ask(self, graph: Graph, target: Node, times: int) -> None:
        near = [*graph.successors(target), *graph.predecessors(target)]
        self.choice(range(len(near) + len(graph.between(graph.node("a"), target))), label="near")


KINDS = ["append", "update", "fuse", "widen", "prune", "skip", "double", "ask"]
TARGETS = ["a", "b", "c", "d", ("a", "d"), ("b", "c")]


# So many are enumerated at most; of larger spaces it is known that they are larger.
ENUMERATED = 120


@example([("skip", "b", False), ("update", "b", False)])
@example([("update", "a", False), ("widen", "a", False)])
@example([("update", ("a", "b"), True), ("widen", ("a", "d"), True)])
@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.sampled_from(TARGETS), st.booleans()),
        min_size=2,
        max_size=3,
    )
)
def test_counts_are_those_of_enumeration(steps: list[tuple[str, Any, bool]]) -> None:
    space = ModelSpace(Small(), torch.zeros(2, 3, 4, 4))
    for i, (kind, target, shared) in enumerate(steps):
        # Shared questions must have the same options everywhere.
        space.apply_mutator(target, Edit(kind), name=f"m{i}", shared=shared and kind != "ask")
    candidates = list(itertools.islice(space.enumerate(), ENUMERATED + 1))
    assert min(space.count(), ENUMERATED + 1) == len(candidates)
    for candidate in candidates[:: max(1, len(candidates) // 3)]:
        candidate.graph.verify()
        assert candidate.build(0)(torch.zeros(2, 3, 4, 4)).shape == (2, 2)


@pytest.mark.parametrize("kinds", [("update", "widen"), ("widen", "update"), ("update", "append")])
def test_shared_decisions_over_many_layers_are_counted_at_once(kinds: tuple[str, str]) -> None:
    layers = [nn.Conv2d(3, 8, 1), *(nn.Conv2d(8, 8, 1) for _ in range(11))]
    space = ModelSpace(nn.Sequential(*layers, nn.Flatten()), torch.zeros(2, 3, 4, 4))
    for i, kind in enumerate(kinds):
        space.apply_mutator([str(i) for i in range(10)], Edit(kind), name=f"m{i}", shared=True)
    # 3^10 joint widths, of which nine at most can be.
    assert space.count() == len(list(space.enumerate())) > 2
