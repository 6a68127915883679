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
from retiarii.mutators.mutator import Mutator
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
