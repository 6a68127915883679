"""Candidates of a callable share what was traced before, and are what they are without that."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import retiarii as rt
from retiarii.ir.graph import Graph
from retiarii.ir.tracing.replay import Replay
from retiarii.space import ModelSpace

Make = Callable[[], nn.Module]
SCALES = [1.0]
SETTINGS = {"scale": 1.0}
SCALE = 1.0
IMAGE = torch.zeros(2, 4, 6, 6)


def exactly(graph: Graph) -> list[Any]:
    """All of a graph's records, their lines included."""
    return [*graph.records(), graph.output_refs(), graph.output_structure, _bounds(graph)]


def _bounds(graph: Graph) -> tuple[Any, ...]:
    """What it holds for one value of only."""
    return graph.context.fixed, graph.sizes


def check(make: Make, example: Any, ways: list[dict[str, Any]]) -> None:
    """Each way leads to the same graph in a space that knows the others and in one of its own."""
    space = ModelSpace(make, example)
    alone = [ModelSpace(make, example).freeze(way).graph for way in ways]
    wanted = [(exactly(graph), graph.canonical_hash()) for graph in alone]
    for way, (records, digest) in [*zip(ways, wanted, strict=True)] * 2:
        space._base._kept.clear()  # type: ignore[attr-defined]
        known = space.freeze(way).graph
        assert exactly(known) == records
        assert known.canonical_hash() == digest


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the calls that are played from memory."""
    paths: list[str] = []
    play = Replay.play

    def noting(self: Replay, recorder: Any, asked: Any) -> Any:
        paths.append(asked.path)
        return play(self, recorder, asked)

    monkeypatch.setattr(Replay, "play", noting)
    return paths


class Block(nn.Module):
    """Several kinds of code, all of which depends on what the block holds and is given."""

    def __init__(self, width: int, inner: int, kind: str) -> None:
        super().__init__()
        self.one = nn.Conv2d(width, inner, 1)
        self.norm = nn.BatchNorm2d(inner)
        self.two = nn.Conv2d(inner, width, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(width, 1, 1))
        self.register_buffer("shift", torch.zeros(1))
        self.act = F.gelu if kind == "gelu" else F.relu
        self.kind = kind
        self.steps = [1, 2]

    def forward(self, x: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        y = self.act(self.norm(self.one(x)))
        if self.kind == "drop":
            y = F.dropout(y, 0.1, self.training)
        if self.kind == "shape":
            y = y.reshape(x.shape[0], -1).view(y.shape) * x.shape[2]
        if self.kind == "inplace":
            y = y * 2
            y += self.shift
        for step in self.steps:
            y = y * step
        return x + self.two(y) * self.scale * factor


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for i in range(3):
            inner = rt.choice([2, 3], label=f"inner{i}")
            kind = rt.choice(["plain", "gelu", "drop", "shape", "inplace"], label=f"kind{i}")
            self.blocks.append(Block(4, inner, kind))
        self.factor = rt.choice([1.0, 2.0], label="factor")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x, factor=self.factor)
        return x


def decisions() -> st.SearchStrategy[dict[str, Any]]:
    kinds = st.sampled_from(["plain", "gelu", "drop", "shape", "inplace"])
    each = {f"inner{i}": st.sampled_from([2, 3]) for i in range(3)}
    return st.fixed_dictionaries(
        {**each, **{f"kind{i}": kinds for i in range(3)}, "factor": st.sampled_from([1.0, 2.0])}
    )


@pytest.mark.parametrize(
    "examples", [pytest.param(4, id="few"), pytest.param(40, id="many", marks=pytest.mark.slow)]
)
def test_sharing_changes_no_graph(examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(st.lists(decisions(), min_size=2, max_size=4))
    def same(ways: list[dict[str, Any]]) -> None:
        check(Net, IMAGE, ways)

    same()


def test_what_is_the_same_is_played(played: list[str]) -> None:
    space = ModelSpace(Net, IMAGE)
    way = {f"inner{i}": 2 for i in range(3)} | {f"kind{i}": "plain" for i in range(3)}
    for kind in ("plain", "gelu", "drop"):
        space.freeze({**way, "kind1": kind, "factor": 1.0})
    # A trace at the example's batch and one at another; the second model is the first to know
    # that blocks come again.
    assert played == ["blocks.0", "blocks.2"] * 2


# --- what a forward may look at -------------------------------------------------------------------


class Reads(nn.Module):
    """A block whose forward is told by the test."""

    def __init__(self, code: Callable[[Any, Any], Any], setting: Any = None) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.code = code
        self.setting = setting

    def forward(self, x: Any) -> Any:
        return self.code(self, x)


class Around(nn.Module):
    def __init__(self, block: nn.Module, width: int) -> None:
        super().__init__()
        self.block = block
        self.head = nn.Linear(4, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(x))


def reads_list(block: Any, x: Any) -> Any:
    return block.layer(x) * SCALES[0]


def reads_dict(block: Any, x: Any) -> Any:
    return block.layer(x) * SETTINGS["scale"]


def reads_number(block: Any, x: Any) -> Any:
    return block.layer(x) * SCALE


def reads_default(block: Any, x: Any, scales: Any = SCALES) -> Any:
    return block.layer(x) * scales[0]


def reads_own(block: Any, x: Any) -> Any:
    return block.layer(x) * block.setting[0]


def scaled(value: float, block: Any, x: Any) -> Any:
    return block.layer(x) * value


def reads_class(block: Any, x: Any) -> Any:
    return block.layer(x) * type(block).factor


def reads_inner(block: Any, x: Any) -> Any:
    def inner() -> float:
        return SCALES[0]

    return block.layer(x) * inner()


class Factor(Reads):
    factor = 1.0


def _set_list(value: float) -> None:
    SCALES[0] = value


def _set_dict(value: float) -> None:
    SETTINGS["scale"] = value


def _set_number(value: float) -> None:
    globals()["SCALE"] = value


def _set_class(value: float) -> None:
    Factor.factor = value


def _nothing(value: float) -> None:
    del value


CASES: dict[str, tuple[Callable[[float], None], Callable[[float], nn.Module]]] = {
    "a list of the file": (_set_list, lambda _: Reads(reads_list)),
    "a dict of the file": (_set_dict, lambda _: Reads(reads_dict)),
    "a number of the file": (_set_number, lambda _: Reads(reads_number)),
    "a default that is a list": (_set_list, lambda _: Reads(reads_default)),
    "a function within": (_set_list, lambda _: Reads(reads_inner)),
    "an attribute of the class": (_set_class, lambda _: Factor(reads_class)),
    "an attribute": (_nothing, lambda v: Reads(reads_own, (v,))),
    "an attribute that is a list": (_nothing, lambda v: Reads(reads_own, [v])),
    "a list in a tuple": (_nothing, lambda v: Reads(lambda b, x: x * b.setting[0][0], ([v],))),
    "a closure": (_nothing, lambda v: Reads(lambda b, x: b.layer(x) * v)),
    "a partial function": (_nothing, lambda v: Reads(functools.partial(scaled, v))),
}


@pytest.mark.parametrize("case", CASES)
def test_code_that_reads_something_else_is_run_again(case: str) -> None:
    change, block = CASES[case]

    def make() -> nn.Module:
        value = rt.choice([1.0, 2.0, 3.0], label="value")
        change(value)
        return Around(block(value), rt.choice([2, 3], label="width"))

    ways = [{"value": v, "width": w} for w in (2, 3) for v in (1.0, 2.0, 3.0)]
    check(make, torch.zeros(2, 4), ways)
    change(1.0)


def test_a_hook_is_not_forgotten() -> None:
    def make() -> nn.Module:
        block = Reads(reads_own, (1.0,))
        if rt.choice([False, True], label="hook"):
            block.register_forward_hook(lambda _module, _given, out: out + 1)
        return Around(block, rt.choice([2, 3], label="width"))

    ways = [{"hook": h, "width": w} for w in (2, 3) for h in (False, True)]
    check(make, torch.zeros(2, 4), ways)


class Parent(nn.Module):
    """Calls its block in a way that is chosen."""

    def __init__(self, way: str, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
        self.own = Reads(reads_own, [1.0])
        self.way = way
        self.head = nn.Linear(4, width)

    def forward(self, x: torch.Tensor) -> Any:
        if self.way == "twice":
            x = self.block(self.block(x))
        elif self.way == "inside":
            x = self.block(self.block[0](x))
        elif self.way == "no grad":
            with torch.no_grad():
                x = self.block(x)
        elif self.way == "set":
            self.own.setting[0] = float(x.shape[0])
        elif self.way == "written":
            y = self.block(x)
            y += 1
            x = y + x
        elif self.way == "view":
            x = self.block(x.view(-1, 2, 4)[:, 0])
        x = self.own(x)
        return self.head(x)


def test_how_a_block_is_called_counts() -> None:
    options = ["once", "twice", "inside", "no grad", "set", "written", "view"]

    def make() -> nn.Module:
        return Parent(rt.choice(options, label="way"), rt.choice([2, 3], label="width"))

    ways = [{"way": way, "width": w} for w in (2, 3) for way in options]
    check(make, torch.zeros(4, 4), ways)


class Writes(nn.Module):
    """Does to its input, or to itself, what a chosen word says."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.what = what
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> Any:
        if self.what == "input":
            x.mul_(2)
        elif self.what == "list":
            self.seen.append(1)
            return self.layer(x) * len(self.seen)
        elif self.what == "view":
            return self.layer(x).transpose(0, 1)
        elif self.what == "same":
            return x
        elif self.what == "pair":
            return self.layer(x), x, {"a": 1}
        elif self.what == "literal":
            return self.layer(x) * torch.tensor(2.0)
        elif self.what == "data" and x.sum() > 0:
            return x
        elif self.what == "counted":
            return self.layer(x) * torch.arange(4)
        return self.layer(x)


class Reader(nn.Module):
    def __init__(self, what: str, width: int) -> None:
        super().__init__()
        self.block = Writes(what)
        self.head = nn.Linear(4, width)

    def forward(self, x: torch.Tensor) -> Any:
        x = x + 1
        made = self.block(x)
        made = made[0] if isinstance(made, tuple) else made
        return self.head(made * 1 if made.shape == x.shape else made.mT), x


def test_what_a_block_does_counts() -> None:
    options = ["input", "list", "view", "same", "pair", "literal", "data", "counted", "nothing"]

    def make() -> nn.Module:
        return Reader(rt.choice(options, label="what"), rt.choice([2, 3], label="width"))

    ways = [{"what": what, "width": w} for w in (2, 3) for what in options]
    check(make, torch.zeros(2, 4), ways)


def test_shared_modules_and_tied_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = Reads(reads_own, (1.0,)), Reads(reads_own, (1.0,))
            tie = rt.choice(["nothing", "weights", "layers", "blocks"], label="tie")
            if tie == "weights":
                self.two.layer.weight = self.one.layer.weight
            elif tie == "layers":
                self.two.layer = self.one.layer
            elif tie == "blocks":
                self.two = self.one
            self.head = nn.Linear(4, rt.choice([2, 3], label="width"))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.two(self.one(x)))

    ties = ["nothing", "weights", "layers", "blocks"]
    check(Tied, torch.zeros(2, 4), [{"tie": t, "width": w} for w in (2, 3) for t in ties])


def test_nothing_of_a_parse_waits_for_the_garbage_collector() -> None:
    space = ModelSpace(Net, IMAGE)
    for i in range(3):
        space.sample(i)
    gc.collect()
    gc.disable()
    try:
        space.sample(7)
        alive = [o for o in gc.get_objects() if type(o) is Block]
    finally:
        gc.enable()
    assert not alive
