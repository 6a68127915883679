"""Children that start from a parent's weights, by path and shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from retiarii.errors import SpaceError
from retiarii.ir.build.inherit import inherit
from retiarii.ir.graph import Graph
from retiarii.ir.node import Node
from retiarii.mutators.choice import choice as rt_choice
from retiarii.mutators.growth import Net2Deeper, Net2Wider
from retiarii.mutators.mutator import Mutator
from retiarii.mutators.prune import prune_channels
from retiarii.space import ModelSpace


class Change(Mutator):
    """Another kernel for the second layer, and perhaps a layer behind it."""

    def mutate(self, graph: Graph, target: Node) -> None:
        size = self.choice([1, 3, 5], label="kernel")
        (x,) = target.inputs
        layer = nn.Conv2d(4, 4, size, padding=size // 2)
        graph.replace(target, graph.insert(layer, x, name="new"))
        if self.choice([False, True], label="more"):
            graph.insert_after(graph.node("new"), nn.BatchNorm2d, name="more")


def space() -> ModelSpace:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(64, 2)
    )
    return ModelSpace(net, torch.zeros(2, 1, 4, 4)).apply_mutator("1", Change())


def candidate(kernel: int, more: bool) -> Any:
    return space().freeze({"Change/1/kernel": kernel, "Change/1/more": more})


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    return model.state_dict()


def test_what_has_the_same_path_and_shape_is_copied() -> None:
    parent = trained(candidate(3, False).build(seed=1))
    child = candidate(3, True).build(2, parent=parent).state_dict()
    fresh = candidate(3, True).build(2).state_dict()
    # Layers that the mutator made are inherited too, and what is new is as it would be.
    for key in parent:
        assert torch.equal(child[key], parent[key])
        assert not torch.equal(child[key], fresh[key])
    assert torch.equal(child["more.weight"], fresh["more.weight"])
    assert child.keys() - parent.keys() == {k for k in child if k.startswith("more.")}


def test_what_has_another_shape_is_initialised() -> None:
    parent = trained(candidate(3, True).build(seed=1))
    child = candidate(5, True).build(2, parent=parent).state_dict()
    fresh = candidate(5, True).build(2).state_dict()
    assert torch.equal(child["new.weight"], fresh["new.weight"])
    assert torch.equal(child["new.bias"], parent["new.bias"])
    assert torch.equal(child["more.running_mean"], parent["more.running_mean"])


def test_the_parent_is_left_alone() -> None:
    parent = trained(candidate(1, False).build(1))
    before = {k: v.clone() for k, v in parent.items()}
    child = candidate(1, False).build(2, parent=parent)
    trained(child)
    assert all(torch.equal(v, before[k]) for k, v in parent.items())


def test_which_keys_were_copied() -> None:
    parent = {"0.weight": torch.ones(4, 1, 3, 3), "3.bias": torch.ones(9), "x": torch.ones(1)}
    assert inherit(candidate(1, False).build(0), parent) == ("0.weight",)


@pytest.mark.parametrize(
    ("parent", "words"),
    [
        ({"model": {}}, "'model' is no tensor"),
        (nn.Linear(1, 1), "is a Linear"),
        ({"0.weight": torch.empty(4, 1, 3, 3, device="meta")}, "no tensor with values"),
    ],
)
def test_what_is_no_state_dict_is_refused(parent: Any, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        candidate(1, False).build(0, parent=parent)


# --- growth ---------------------------------------------------------------------------------------

X = torch.randn(3, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def net(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 4, 1),
        nn.Flatten(),
        nn.Linear(144, 3),
    ).double()


def made() -> nn.Module:
    return net(rt_choice([4, 6], label="width"))


def grown(base: Any, **options: Any) -> ModelSpace:
    space = ModelSpace(base, X, **options)
    space.apply_mutator("0", Net2Wider((1.0, 1.5), noise=0.3))
    space.apply_mutator("2", Net2Deeper(2, norm=True))
    return space.apply_mutator("0", Net2Wider((1.0, 2.0)), name="again")


def labels(widths: int, deeper: int, again: float) -> dict[str, Any]:
    kernels = {f"Net2Deeper/2/kernel{i}": 3 for i in range(deeper)}
    return {
        "Net2Wider/0/factor": (1.0, 1.5)[widths],
        "Net2Deeper/2/layers": deeper,
        "again/0/factor": again,
        **kernels,
    }


WAYS = [labels(w, d, a) for w in (0, 1) for d in (0, 2) for a in (1.0, 2.0)]


def apart(a: nn.Module, b: nn.Module) -> float:
    with torch.no_grad():
        return float((a.eval()(X) - b.eval()(X)).abs().max())


@pytest.mark.parametrize("way", WAYS)
def test_a_made_model_grows_from_its_own_first_weights(way: dict[str, Any]) -> None:
    space = grown(made)
    for width in (4, 6):
        plain = space.freeze({**labels(0, 0, 1.0), "width": width}).build(7)
        candidate = space.freeze({**way, "width": width})
        assert apart(candidate.build(7), plain) < 1e-9
        assert apart(candidate.build(8), plain) > 1e-3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("base", ["made", "fresh", "inherit"])
def test_growth_keeps_the_function_of_the_parent(base: str, way: dict[str, Any]) -> None:
    width = {"width": 6} if base == "made" else {}
    space = grown(made) if base == "made" else grown(net(6), weights=base)
    parent = space.freeze({**labels(0, 0, 1.0), **width}).build(1)
    state = trained(parent)
    candidate = space.freeze({**way, **width})
    child = candidate.build(2, parent=state)
    assert apart(child, parent) < 1e-9
    # A parent that grew alike hands on its weights as they are, trained since then.
    state = trained(child)
    heir = candidate.build(3, parent=state).state_dict()
    assert all(torch.equal(heir[key], state[key]) for key in state)


def test_growth_goes_on_where_the_parent_stopped() -> None:
    space = grown(net(6))
    parent = space.freeze(labels(1, 0, 1.0)).build(1)
    trained(parent)
    child = space.freeze(labels(1, 2, 2.0)).build(2, parent=parent.state_dict())
    assert child.get_submodule("0").out_channels == 18
    assert apart(child, parent) < 1e-9


def test_pruning_takes_the_parents_channels() -> None:
    class Slim(Mutator):
        def mutate(self, graph: Graph, target: Node) -> None:
            prune_channels(graph, target, self.choice([(0, 1, 2, 3), (1, 3)], label="keep"))

    space = ModelSpace(lambda: net(4), X).apply_mutator("0", Slim())
    whole, slim = (space.freeze({"Slim/0/keep": keep}) for keep in ((0, 1, 2, 3), (1, 3)))
    parent = whole.build(0)
    state = trained(parent)
    child = slim.build(1, parent=state).state_dict()
    assert torch.equal(child["0.weight"], state["0.weight"][[1, 3]])
    assert torch.equal(child["1.running_mean"], state["1.running_mean"][[1, 3]])
    assert torch.equal(child["3.weight"], state["3.weight"][:, [1, 3]])
    assert torch.equal(slim.build(0).state_dict()["0.bias"], whole.build(0)[0].bias[[1, 3]])
