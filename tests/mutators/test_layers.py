"""Choices as layers: resolved into what was chosen, nested, shared, counted."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from retiarii.errors import SpaceError
from retiarii.ir.graph import Graph
from retiarii.ir.node import Node
from retiarii.mutators.choice import choice
from retiarii.mutators.layers import Cell, InputChoice, LayerChoice, Repeat
from retiarii.mutators.mutator import Mutator
from retiarii.space import ModelSpace


class Zero(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.0


def conv(kernel: int) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(4, 4, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(4)
    )


class Cell201(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("01", "02", "12", "03", "13", "23"):
            options = {
                "none": Zero(),
                "skip": nn.Identity(),
                "conv1": conv(1),
                "conv3": conv(3),
                "pool": nn.AvgPool2d(3, 1, 1),
            }
            self.add_module(f"edge{name}", LayerChoice(options, label=f"edge{name}"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nodes = [x]
        for target in (1, 2, 3):
            parts = [getattr(self, f"edge{s}{target}")(nodes[s]) for s in range(target)]
            nodes.append(sum(parts[1:], start=parts[0]))
        return nodes[3]


def test_nas_bench_201_has_its_size() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), Cell201(), Cell201())
    space = ModelSpace(net, torch.zeros(2, 3, 4, 4))
    assert space.count() == 15_625
    candidate = space.sample(0)
    assert len(candidate.decisions) == 6
    assert not candidate.graph.opaque
    candidate.graph.verify()
    assert candidate.build(0)(torch.zeros(3, 3, 4, 4)).shape == (3, 4, 4, 4)


@pytest.mark.slow
def test_nas_bench_201_enumerates_to_its_size() -> None:
    space = ModelSpace(Cell201(), torch.zeros(2, 4, 4, 4))
    seen, hashes = set(), set()
    for candidate in space.enumerate():
        seen.add(tuple(candidate.decisions.values()))
        hashes.add(candidate.canonical_hash())
    assert len(seen) == 15_625
    assert len(hashes) == 5_485


def test_only_what_was_chosen_is_in_the_candidate() -> None:
    net = nn.Sequential(LayerChoice([nn.Linear(4, 4), nn.Tanh(), conv_free()], label="l"))
    space = ModelSpace(net, torch.zeros(2, 4))
    assert [n.op for n in space.freeze({"l": 1}).graph.nodes] == ["input", "Tanh"]
    model = space.freeze({"l": 2}).build(0)
    assert list(model.state_dict()) == ["0.2.0.weight", "0.2.0.bias"]


def conv_free() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU())


def test_inherited_weights_are_those_of_the_option() -> None:
    net = nn.Sequential(LayerChoice({"a": nn.Linear(4, 3), "b": conv_free()}, label="l"), nn.ReLU())
    space = ModelSpace(net, torch.zeros(2, 4), weights="inherit")
    model = space.freeze({"l": "a"}).build(0)
    assert torch.equal(model.state_dict()["0.a.weight"], net.state_dict()["0.a.weight"])
    fresh = ModelSpace(net, torch.zeros(2, 4)).freeze({"l": "a"}).build(0)
    assert not torch.equal(fresh.state_dict()["0.a.weight"], net.state_dict()["0.a.weight"])


def test_options_of_other_widths_resize_what_follows() -> None:
    net = nn.Sequential(LayerChoice([nn.Linear(4, n) for n in (3, 5)], label="n"), nn.Linear(3, 2))
    model = ModelSpace(net, torch.zeros(2, 4)).freeze({"n": 1}).build(0)
    assert model(torch.zeros(1, 4)).shape == (1, 2)
    assert model.get_submodule("1").in_features == 5


def test_nested_choices_are_conditional() -> None:
    inner = LayerChoice([nn.Tanh(), nn.ReLU(), nn.Sigmoid()], label="inner")
    outer = LayerChoice(
        {"plain": nn.Identity(), "deep": nn.Sequential(inner, nn.Linear(4, 4))}, label="outer"
    )
    space = ModelSpace(nn.Sequential(outer), torch.zeros(2, 4))
    assert space.count() == 1 + 3 == len(list(space.enumerate()))
    assert dict(space.freeze({"outer": "plain"}).decisions) == {"outer": "plain"}
    deep = space.freeze({"outer": "deep", "inner": 2})
    assert [n.op for n in deep.graph.nodes] == ["input", "Sigmoid", "Linear"]


def test_repeat() -> None:
    net = nn.Sequential(
        Repeat(
            lambda i: nn.Sequential(nn.Linear(4, 4), LayerChoice([nn.Tanh(), nn.ReLU()], f"a{i}")),
            (0, 3),
            label="depth",
        ),
        nn.Linear(4, 1),
    )
    space = ModelSpace(net, torch.zeros(2, 4))
    assert space.count() == 1 + 2 + 4 + 8 == len(list(space.enumerate()))
    candidate = space.freeze({"depth": 2, "a0": 0, "a1": 1})
    assert [n.op for n in candidate.graph.nodes] == [
        "input",
        "Linear",
        "Tanh",
        "Linear",
        "ReLU",
        "Linear",
    ]
    assert "0.1.0.weight" in candidate.build(0).state_dict()
    assert [n.op for n in space.freeze({"depth": 0}).graph.nodes] == ["input", "Linear"]


@pytest.mark.parametrize(
    ("reduction", "shape"), [("sum", (2, 4)), ("mean", (2, 4)), ("concat", (2, 8))]
)
def test_input_choice(reduction: Any, shape: tuple[int, ...]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pick = InputChoice(3, 2, reduction, label="pick")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.pick([x, x + 1, x * 3])

    space = ModelSpace(Net(), torch.zeros(2, 4))
    assert space.count() == math.comb(3, 2) == len(list(space.enumerate()))
    x = torch.randn(2, 4)
    made = space.freeze({"pick": (1, 2)}).build(0)(x)
    assert made.shape == shape
    expected = {
        "sum": x + 1 + x * 3,
        "mean": (x + 1 + x * 3) / 2,
        "concat": torch.cat([x + 1, x * 3], 1),
    }[reduction]
    torch.testing.assert_close(made, expected)


def test_input_choice_of_any_number() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pick = InputChoice(4, None, "sum")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.pick([x, x + 1, x * 3, x - 2])

    space = ModelSpace(Net(), torch.zeros(2, 4))
    assert space.count() == 15
    assert list(space.sample(0).decisions) == ["pick"]  # the path is its label


def test_cells_share_by_label() -> None:
    class Net(nn.Module):
        def __init__(self, labels: list[str]) -> None:
            super().__init__()
            ops = {"lin": lambda: nn.Conv2d(4, 4, 1), "tanh": nn.Tanh, "id": nn.Identity}
            self.cells = nn.ModuleList(Cell(ops, 2, label=name) for name in labels)
            self.merge = nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in labels)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            before = x
            for cell, merge in zip(self.cells, self.merge, strict=True):
                before, x = x, merge(cell(before, x))
            return x

    one = ModelSpace(Net(["cell"]), torch.zeros(2, 4, 3, 3))
    per_cell = math.comb(2, 2) * math.comb(3, 2) * 3**4
    assert one.count() == per_cell
    assert ModelSpace(Net(["cell", "cell"]), torch.zeros(2, 4, 3, 3)).count() == per_cell
    assert ModelSpace(Net(["a", "b"]), torch.zeros(2, 4, 3, 3)).count() == per_cell**2
    candidate = one.sample(3)
    assert not candidate.graph.opaque
    assert candidate.build(0)(torch.zeros(2, 4, 3, 3)).shape == (2, 4, 3, 3)


def test_placeholders_come_before_mutators() -> None:
    class Double(Mutator):
        def mutate(self, graph: Graph, target: Node) -> None:
            if self.choice([False, True], label="double"):
                graph.replace(
                    target, graph.insert(nn.Tanh(), graph.insert(nn.Tanh(), target.inputs[0]))
                )

    net = nn.Sequential(LayerChoice({"t": nn.Tanh(), "r": nn.ReLU()}, label="l"), nn.Linear(4, 1))
    space = ModelSpace(net, torch.zeros(2, 4)).apply_mutator("0.t", Double())
    assert space.count() == 3 == len(list(space.enumerate()))


def test_inside_a_callable() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width = choice([4, 8], label="width")
            self.a = nn.Linear(4, width)
            self.b = LayerChoice([nn.Tanh(), nn.Linear(width, width)], label="b")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))

    space = ModelSpace(Net, torch.zeros(2, 4))
    assert space.count() == 4 == len(list(space.enumerate()))
    model = space.freeze({"width": 8, "b": 1}).build(3)
    assert model(torch.zeros(5, 4)).shape == (5, 8)
    assert list(model.state_dict()) == ["a.weight", "a.bias", "b.1.weight", "b.1.bias"]


def test_a_model_with_placeholders_runs_as_it_is() -> None:
    net = nn.Sequential(LayerChoice([nn.Linear(4, 3), nn.Tanh()]), Repeat(nn.Linear(3, 3), (1, 2)))
    assert net(torch.zeros(2, 4)).shape == (2, 3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LayerChoice([]), "option"),
        (lambda: LayerChoice([3]), "not a layer"),
        (lambda: InputChoice(2, 3), "cannot choose 3 of 2"),
        (lambda: InputChoice(2, 1, "product"), "product"),  # type: ignore[arg-type]
        (lambda: InputChoice(3, None, "none"), "variable number"),
        (lambda: Repeat(nn.Tanh(), (-1, 2)), "depths"),
        (lambda: Repeat(nn.Tanh(), []), "option"),
        (lambda: Cell({"a": nn.Tanh}, 0, label="c"), "at least 1"),
    ],
)
def test_what_is_refused(make: Any, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        make()


def test_one_label_with_other_options() -> None:
    net = nn.Sequential(
        LayerChoice({"a": nn.Tanh(), "b": nn.ReLU()}, label="l"),
        LayerChoice({"a": nn.Tanh(), "c": nn.ReLU()}, label="l"),
    )
    with pytest.raises(SpaceError, match="two different lists"):
        ModelSpace(net, torch.zeros(2, 4)).sample(0)


def test_a_choice_in_a_choice_follows_a_changed_shape() -> None:
    inner = LayerChoice({"t": nn.Tanh(), "l": nn.Linear(4, 4)}, label="inner")
    deep = nn.Sequential(LayerChoice([nn.Linear(4, n) for n in (4, 6)], label="width"), inner)
    outer = LayerChoice({"plain": nn.Identity(), "deep": deep}, label="outer")
    space = ModelSpace(nn.Sequential(outer, nn.Linear(4, 1)), torch.zeros(2, 4))
    assert space.count() == 1 + 2 * 2 == len(list(space.enumerate()))
    model = space.freeze({"outer": "deep", "width": 1, "inner": "l"}).build(0)
    assert model.get_submodule("0.deep.1.l").in_features == 6
    assert model(torch.zeros(3, 4)).shape == (3, 1)


def test_choices_behind_one_tensor_stay_independent() -> None:
    """What is dropped with one user does not depend on who the other users are."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ways = nn.ModuleList(
                LayerChoice([nn.Tanh(), nn.ReLU(), nn.Linear(4, 4)], label=f"way{i}")
                for i in range(14)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + 1
            return sum(way(x) for way in self.ways[1:]) + self.ways[0](x)

    assert ModelSpace(Net(), torch.zeros(2, 4)).count() == 3**14


def test_raw_parameters_of_a_model_without_values_are_made() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))
            self.layer = LayerChoice([nn.Linear(4, 4), nn.Tanh()], label="layer")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x * self.scale)

    with torch.device("meta"):
        net = Scaled()
    model = ModelSpace(net, torch.zeros(2, 4)).freeze({"layer": 0}).build(1)
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert model(torch.zeros(2, 4)).shape == (2, 4)


def test_options_of_a_list_are_numbers_that_show_their_layers() -> None:
    options = [
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False)),
        nn.ReLU(),
        nn.ReLU(),
        nn.Identity,
    ]
    space = ModelSpace(nn.Sequential(LayerChoice(options, label="l")), torch.zeros(2, 4, 5, 5))
    values = [candidate.decisions["l"] for candidate in space.enumerate()]
    assert values == [0, 1, 2, 3, 4]
    assert list(map(repr, values)) == [
        "Conv2d(4, 4, 3, padding=1)",
        "Sequential(ReLU(), Conv2d(4, 4, 1, bias=False))",
        "ReLU() #2",
        "ReLU() #3",
        "Identity()",
    ]
    assert [json.dumps(value) for value in values] == ["0", "1", "2", "3", "4"]
    for given in (1, values[1], repr(values[1])):
        assert space.freeze({"l": given}).decisions["l"] == 1
    assert repr(pickle.loads(pickle.dumps(values[0]))) == repr(values[0])


def test_lists_of_other_layers_share_a_label() -> None:
    # Cells of other widths share decisions: it is the number that is shared, not the layer.
    net = nn.Sequential(
        LayerChoice([nn.Linear(4, 4), nn.Tanh()], label="l"),
        LayerChoice([nn.Linear(4, 8), nn.Tanh()], label="l"),
    )
    assert ModelSpace(net, torch.zeros(2, 4)).count() == 2
