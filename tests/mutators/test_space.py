"""Spaces: what can be said, what follows, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from retiarii.errors import InfeasibleError, SpaceError
from retiarii.ir.graph import Graph
from retiarii.ir.node import Node
from retiarii.mutators.choice import choice, randint, uniform
from retiarii.mutators.mutator import Mutator
from retiarii.search_space import SearchSpace
from retiarii.space import ModelSpace


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.mixer = nn.MaxPool2d(3, stride=1, padding=1)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mixer(self.stem(x)))


class Inception(Mutator):
    def mutate(self, graph: Graph, target: Node) -> None:
        (x,) = target.inputs
        branches = []
        for i in range(self.choice([2, 3, 4, 5], label="branches")):
            kind = self.choice(["conv", "depthwise", "maxpool"], label=f"op{i}")
            layer = {
                "conv": lambda: nn.Conv2d(16, 16, 3, padding=1),
                "depthwise": lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16),
                "maxpool": lambda: nn.MaxPool2d(3, stride=1, padding=1),
            }[kind]()
            branches.append(graph.insert(layer, x, name=f"branch{i}"))
        graph.replace(target, graph.insert(torch.cat, branches, dim=1, name="concat"))


def inception() -> ModelSpace:
    return ModelSpace(Net(), torch.zeros(2, 1, 8, 8)).apply_mutator("mixer", Inception())


def test_the_design_pages_example() -> None:
    space = inception()
    assert space.count() == 360
    candidates = list(space.enumerate())
    assert len(candidates) == 360
    assert len({tuple(sorted(c.decisions.items())) for c in candidates}) == 360
    for candidate in candidates[::40]:
        n = candidate.decisions["Inception/mixer/branches"]
        assert len(candidate.decisions) == 1 + n
        assert candidate.graph.node("head.2").attrs["in_features"] == 16 * n
        model = candidate.build(0)
        assert model(torch.randn(5, 1, 8, 8)).shape == (5, 10)
        assert model.get_submodule("head.2").in_features == 16 * n
        candidate.graph.verify()


def test_same_decisions_same_graph_and_weights() -> None:
    space = inception()
    a = space.sample(3)
    b = inception().freeze(dict(a.decisions))
    assert str(a.graph) == str(b.graph)
    assert a.canonical_hash() == b.canonical_hash()
    wa, wb = a.build(7).state_dict(), b.build(7).state_dict()
    assert wa.keys() == wb.keys()
    assert all(torch.equal(wa[k], wb[k]) for k in wa)
    other = a.build(8).state_dict()
    assert not torch.equal(wa["stem.0.weight"], other["stem.0.weight"])


def test_building_leaves_the_global_random_state_alone() -> None:
    candidate = inception().sample(0)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    candidate.build(5)
    assert torch.equal(torch.rand(3), expected)


def test_samples_are_a_function_of_the_seed_and_differ() -> None:
    space = inception()
    assert space.sample(1).decisions == space.sample(1).decisions
    assert len({str(dict(space.sample(i).decisions)) for i in range(20)}) > 10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("Inception/mixer/op0"), ["op0", "missing"]),
        (lambda d: d.update({"Inception/mixer/op9": "conv"}), ["op9", "nothing asked", "nearest"]),
        (lambda d: d.update({"Inception/mixer/op0": "convv"}), ["convv", "none of the options"]),
    ],
)
def test_freeze_names_what_is_wrong(change: Any, words: list[str]) -> None:
    space = inception()
    decisions = dict(space.sample(0).decisions)
    change(decisions)
    with pytest.raises(SpaceError) as caught:
        space.freeze(decisions)
    assert all(word in str(caught.value) for word in words)


class Widen(Mutator):
    def mutate(self, graph: Graph, target: Node) -> None:
        graph.update(target, out_channels=self.choice([8, 16, 24], label="width"))


def test_consumers_are_resized_through_norm_and_activation() -> None:
    space = ModelSpace(Net(), torch.zeros(2, 1, 8, 8)).apply_mutator("stem.0", Widen())
    candidate = space.freeze({"Widen/stem.0/width": 24})
    assert candidate.graph.node("stem.1").attrs["num_features"] == 24
    assert candidate.graph.node("head.2").attrs["in_features"] == 24
    assert candidate.build(0)(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    # The base is untouched.
    assert space.graph.node("stem.0").attrs["out_channels"] == 16


def test_inherited_weights_are_kept_where_shapes_are() -> None:
    base = Net()
    example = torch.zeros(2, 1, 8, 8)
    space = ModelSpace(base, example, weights="inherit").apply_mutator("mixer", Inception())
    model = space.freeze(
        {
            "Inception/mixer/branches": 2,
            "Inception/mixer/op0": "conv",
            "Inception/mixer/op1": "conv",
        }
    ).build(0)
    state, original = model.state_dict(), base.state_dict()
    assert torch.equal(state["stem.0.weight"], original["stem.0.weight"])
    assert state["head.2.weight"].shape == (10, 32)
    assert state["stem.0.weight"].data_ptr() != original["stem.0.weight"].data_ptr()
    fresh = ModelSpace(base, example).sample(0).build(0).state_dict()
    assert not torch.equal(fresh["stem.0.weight"], original["stem.0.weight"])


class Twin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 8, 1)
        self.b = nn.Conv2d(1, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) + self.b(x)


def test_shapes_that_cannot_fit_are_infeasible_and_named() -> None:
    space = ModelSpace(Twin(), torch.zeros(2, 1, 4, 4)).apply_mutator("a", Widen())
    with pytest.raises(InfeasibleError) as caught:
        space.freeze({"Widen/a/width": 16})
    text = str(caught.value)
    assert "Widen" in text
    assert "'a'" in text
    assert "width: 16" in text
    assert "16, 4, 4" in text
    assert "8, 4, 4" in text
    assert [c.decisions["Widen/a/width"] for c in space.enumerate()] == [8]
    assert space.count() == 1
    assert space.sample(0).decisions["Widen/a/width"] == 8


class WidenBoth(Mutator):
    def mutate(self, graph: Graph, target: Node) -> None:
        width = self.choice([8, 16], label="width")
        graph.update(graph.node("a"), out_channels=width)
        graph.update(graph.node("b"), out_channels=width)


def test_edits_that_fit_only_together() -> None:
    space = ModelSpace(Twin(), torch.zeros(2, 1, 4, 4)).apply_mutator("a", WidenBoth())
    assert space.count() == 2
    model = space.freeze({"WidenBoth/a/width": 16}).build(0)
    assert model(torch.zeros(3, 1, 4, 4)).shape == (3, 16, 4, 4)


class Kind(Mutator):
    def mutate(self, graph: Graph, target: Node) -> None:
        (x,) = target.inputs
        layer = {"tanh": nn.Tanh, "relu": nn.ReLU}[self.choice(["tanh", "relu"], label="kind")]
        graph.replace(target, graph.insert(layer, x))


def chain(n: int) -> nn.Module:
    return nn.Sequential(*(nn.Identity() for _ in range(n)), nn.Linear(4, 2))


def test_many_targets_have_labels_of_their_own_unless_shared() -> None:
    space = ModelSpace(chain(3), torch.zeros(2, 4)).apply_mutator(["0", "1", "2"], Kind())
    assert sorted(space.sample(0).decisions) == ["Kind/0/kind", "Kind/1/kind", "Kind/2/kind"]
    assert space.count() == 8
    shared = ModelSpace(chain(3), torch.zeros(2, 4))
    shared.apply_mutator(lambda n: n.op == "Identity", Kind(), shared=True)
    assert sorted(shared.sample(0).decisions) == ["Kind/kind"]
    assert shared.count() == len(list(shared.enumerate())) == 2
    kinds = {n.op for n in shared.sample(0).graph.nodes if n.op in ("Tanh", "ReLU")}
    assert len(kinds) == 1


def test_a_later_mutator_sees_what_an_earlier_made() -> None:
    class Grow(Mutator):
        def mutate(self, graph: Graph, target: Node) -> None:
            (x,) = target.inputs
            for i in range(self.choice([1, 2, 3], label="n")):
                x = graph.insert(nn.Identity(), x, name=f"grown{i}")
            graph.replace(target, x)

    space = ModelSpace(chain(1), torch.zeros(2, 4))
    space.apply_mutator("0", Grow()).apply_mutator("grown*", Kind())
    assert space.count() == 2 + 4 + 8
    assert len(list(space.enumerate())) == 14


def test_a_wide_space_is_counted_without_visiting_it() -> None:
    class FourWays(Mutator):
        def mutate(self, graph: Graph, target: Node) -> None:
            kind = self.choice([nn.Tanh, nn.ReLU, nn.Sigmoid, nn.Identity], label="kind")
            assert target.shape == (2, 4)
            graph.replace(target, graph.insert(kind, target.inputs[0]))

    space = ModelSpace(chain(40), torch.zeros(2, 4))
    space.apply_mutator([str(i) for i in range(40)], FourWays())
    assert space.count() == 4**40


def test_counting_sees_dependence_on_shapes() -> None:
    class ByWidth(Mutator):
        """Asks more where the layer before it is wide."""

        def mutate(self, graph: Graph, target: Node) -> None:
            for i in range(target.inputs[0].shape[1] // 8):
                self.choice(["a", "b"], label=f"extra{i}")

    space = ModelSpace(Net(), torch.zeros(2, 1, 8, 8))
    space.apply_mutator("stem.0", Widen()).apply_mutator("mixer", ByWidth())
    assert space.count() == 2 + 4 + 8 == len(list(space.enumerate()))


def test_labels_are_scoped_and_mutators_of_one_class_are_numbered() -> None:
    space = ModelSpace(chain(1), torch.zeros(2, 4))
    space.apply_mutator("0", Kind()).apply_mutator("*", Identityless())
    assert "Kind/0/kind" in space.sample(0).decisions
    space = ModelSpace(chain(2), torch.zeros(2, 4))
    space.apply_mutator("0", Kind()).apply_mutator("1", Kind())
    assert sorted(space.sample(0).decisions) == ["Kind/0/kind", "Kind_2/1/kind"]


class Identityless(Mutator):
    def mutate(self, graph: Graph, target: Node) -> None:
        if target.op == "Identity":
            graph.remove(target)


def test_one_label_with_two_lists_of_options() -> None:
    class Twice(Mutator):
        def mutate(self, graph: Graph, target: Node) -> None:
            self.choice([1, 2], label="n")
            self.choice([1, 2, 3], label="n")

    space = ModelSpace(chain(1), torch.zeros(2, 4)).apply_mutator("0", Twice())
    with pytest.raises(SpaceError, match="two different lists"):
        space.sample(0)


@pytest.mark.parametrize("options", [[], "abc", 3])
def test_bad_options(options: Any) -> None:
    class Bad(Mutator):
        def mutate(self, graph: Graph, target: Node) -> None:
            self.choice(options, label="x")

    space = ModelSpace(chain(1), torch.zeros(2, 4)).apply_mutator("0", Bad())
    with pytest.raises(SpaceError, match="option"):
        space.sample(0)


def test_a_mutator_that_raises_says_where() -> None:
    class Raises(Mutator):
        def mutate(self, graph: Graph, target: Node) -> None:
            if self.choice([0, 1], label="x"):
                raise ValueError("boom")

    space = ModelSpace(chain(1), torch.zeros(2, 4)).apply_mutator("0", Raises())
    with pytest.raises(InfeasibleError) as caught:
        space.freeze({"Raises/0/x": 1})
    text = str(caught.value)
    assert "boom" in text
    assert "test_space.py:" in text
    assert "x: 1" in text


def test_unknown_targets_name_the_nearest() -> None:
    space = ModelSpace(Net(), torch.zeros(2, 1, 8, 8))
    with pytest.raises(SpaceError, match="'mixer'"):
        space.apply_mutator("mixr", Kind())
    with pytest.raises(SpaceError, match=r"container.*stem\.0"):
        space.apply_mutator("stem", Kind())


@pytest.mark.parametrize("bad", [Kind, "Kind", None])
def test_not_a_mutator(bad: Any) -> None:
    with pytest.raises(SpaceError, match="not a Mutator"):
        ModelSpace(chain(1), torch.zeros(2, 4)).apply_mutator("0", bad)


def test_choice_outside_of_mutate() -> None:
    with pytest.raises(SpaceError, match="outside of mutate"):
        Kind().choice([1, 2], label="x")


# --- choices in __init__ ------------------------------------------------------------------------


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 4
        for i in range(choice([1, 2, 3], label="depth")):
            new = choice([4, 8], label=f"width{i}")
            layers += [nn.Linear(width, new), nn.ReLU()]
            width = new
        self.body = nn.Sequential(*layers)
        self.out = nn.Linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.body(x))


def test_define_by_run() -> None:
    space = ModelSpace(Deep, torch.zeros(3, 4))
    assert space.count() == 2 + 4 + 8
    candidates = list(space.enumerate())
    assert len(candidates) == 14
    candidate = space.freeze({"depth": 2, "width0": 8, "width1": 4})
    model = candidate.build(1)
    assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [8, 4, 1]
    assert model(torch.zeros(7, 4)).shape == (7, 1)
    again = candidate.build(1)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_define_by_run_with_a_mutator() -> None:
    space = ModelSpace(Deep, torch.zeros(3, 4)).apply_mutator("body.1", Kind())
    assert space.count() == 2 * 14
    assert len(list(space.enumerate())) == 28


def test_candidates_that_differ_in_later_decisions_share_the_model() -> None:
    runs = []

    def make() -> nn.Module:
        width = choice([4, 8], label="width")
        runs.append(width)
        return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))

    space = ModelSpace(make, torch.zeros(2, 4)).apply_mutator("1", Kind())
    assert len(list(space.enumerate())) == 4
    assert sorted(runs) == [4, 8]
    first = space.freeze({"width": 8, "Kind/1/kind": "relu"})
    assert [n.op for n in first.graph.nodes] == ["input", "Linear", "ReLU", "Linear"]
    other = space.freeze({"width": 8, "Kind/1/kind": "tanh"})
    assert [n.op for n in other.graph.nodes] == ["input", "Linear", "Tanh", "Linear"]
    assert sorted(runs) == [4, 8]
    assert first.build(0)(torch.zeros(2, 4)).shape == (2, 1)


def test_the_base_graph_cannot_be_edited_through_the_space() -> None:
    space = inception()
    graph = space.graph
    graph.remove(graph.node("stem.2"))
    assert "stem.2" in space.sample(0).graph


def test_decisions_whose_model_does_not_run_are_infeasible() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, choice([3, 5], label="n"))
            self.b = nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))

    space = ModelSpace(Net, torch.zeros(2, 4))
    assert [c.decisions["n"] for c in space.enumerate()] == [3]
    assert space.count() == 1
    with pytest.raises(InfeasibleError, match=r"n.*5"):
        space.freeze({"n": 5})


def test_a_choice_without_label_inside_init() -> None:
    def make() -> nn.Module:
        return nn.Linear(4, choice([1, 2]))

    with pytest.raises(SpaceError, match="no label"):
        ModelSpace(make, torch.zeros(2, 4)).sample(0)


def test_a_description_where_a_number_is_needed() -> None:
    for use in (int, float, bool, range):
        with pytest.raises(SpaceError, match="callable"):
            use(choice([1, 2], label="n"))  # type: ignore[call-overload]


def test_constructors_that_need_values() -> None:
    class Scheduled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            n = choice([1, 2], label="n")
            rates = [float(r) for r in torch.linspace(0, 0.5, n)]
            self.body = nn.Sequential(*(nn.Dropout(r) for r in rates))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x)

    assert ModelSpace(Scheduled, torch.zeros(2, 4)).count() == 2


# --- joint with hyper-parameters ------------------------------------------------------------------


def test_search_space_joins_model_and_hyperparameters() -> None:
    joint = SearchSpace(inception(), {"lr": choice([0.1, 0.01]), "n": randint(1, 3)})
    assert joint.count() == 360 * 2 * 3
    point = joint.freeze(
        {
            "Inception/mixer/branches": 2,
            "Inception/mixer/op0": "conv",
            "Inception/mixer/op1": "conv",
            "lr": 0.01,
            "n": 3,
        }
    )
    assert dict(point.hyperparameters) == {"lr": 0.01, "n": 3}
    assert point.raws[-2:] == (("lr", 1), ("n", 3))
    assert SearchSpace(inception(), {"lr": uniform(0, 1)}).count() is None


def test_key_is_equal_for_canonical_twins_with_equal_hyperparameters() -> None:
    joint = SearchSpace(inception(), {"lr": choice([0.1, 0.01])})
    base = {"Inception/mixer/branches": 2, "lr": 0.1}

    def key(a: str, b: str, lr: float = 0.1) -> str:
        ops = {"Inception/mixer/op0": a, "Inception/mixer/op1": b}
        return joint.freeze({**base, **ops, "lr": lr}).key()

    assert key("conv", "conv") == key("conv", "conv")
    assert key("conv", "conv") != key("conv", "conv", 0.01)
    # A concatenation is not commutative.
    assert key("conv", "maxpool") != key("maxpool", "conv")


def test_nothing_to_search() -> None:
    with pytest.raises(SpaceError, match="nothing to search"):
        SearchSpace(None, {})


def test_bad_bases() -> None:
    with pytest.raises(SpaceError, match="base of a space is of type int"):
        ModelSpace(3, torch.zeros(1))  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="not a module"):
        ModelSpace(lambda: 3, torch.zeros(1)).sample(0)  # type: ignore[arg-type, return-value]
    with pytest.raises(SpaceError, match="weights"):
        ModelSpace(Net(), torch.zeros(1), weights="some")
