"""A model full of NaN or Inf changes no bit of the others' outputs, gradients and buffers."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from retiarii.optimizer.merge import merge
from retiarii.testing.merging import Course, Inputs, sgd, train_merged
from retiarii.testing.random_nets import OPS, RandomNet, Recipe, Step, batches
from retiarii.testing.small_spaces import SMALL

FAMILIES = ("conv", "block", "attention", "groupnorm", "layernorm", "prelu", "dropout", "unused")


def spoiled(model: nn.Module, value: float) -> nn.Module:
    """The model with the value in the first element of all that it learns or keeps."""
    ill = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in (*ill.parameters(), *ill.buffers()):
            if tensor.is_floating_point() and tensor.numel():
                tensor.view(-1)[0] = value
    return ill


def courses(models: list[nn.Module], steps: list[Inputs]) -> list[Course]:
    return train_merged(merge(models, steps[0], fuse="on"), steps, optimizer=sgd)


def check_isolated(models: list[nn.Module], steps: list[Inputs], ill: int, value: float) -> None:
    well = courses(models, steps)
    sick = courses([spoiled(m, value) if i == ill else m for i, m in enumerate(models)], steps)
    for i, (before, after) in enumerate(zip(well, sick, strict=True)):
        if i == ill:
            assert not all(map(_finite, after.losses)), "nothing was spoiled"
            continue
        assert before.losses == after.losses, f"model {i}"
        for ours, theirs in zip(before.outputs, after.outputs, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        for key, grad in before.gradients.items():
            other = after.gradients[key]
            assert (grad is None) == (other is None)
            assert grad is None or other is None or torch.equal(grad, other), f"model {i}: {key}"
        assert all(torch.equal(v, after.state[k]) for k, v in before.state.items())


def _finite(value: float) -> bool:
    return value - value == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("ill", [0, 1])
def test_models_of_one_family(value: float, ill: int) -> None:
    recipes = [
        Recipe((Step("conv", option=1), Step("bn", 1), Step(op, 2), Step("block", 3)))
        for op in ("conv", "attention", "block")
    ]
    models = [RandomNet(recipe, seed).float() for seed, recipe in enumerate(recipes)]
    steps = [(image.float(), tokens) for image, tokens in batches([4, 4])]
    check_isolated(models, steps, ill, value)


@pytest.mark.parametrize("op", FAMILIES)
def test_each_family(op: str) -> None:
    models: list[nn.Module] = [
        RandomNet(Recipe((Step(op), Step("act", 1), Step(op, 2))), seed) for seed in range(3)
    ]
    check_isolated(models, batches([4, 3]), 1, float("nan"))


@settings(max_examples=25, derandomize=True)
@given(
    ops=st.lists(
        st.lists(
            st.builds(Step, st.sampled_from(sorted(OPS)), st.integers(0, 4), st.integers(0, 4)),
            min_size=1,
            max_size=6,
        ),
        min_size=2,
        max_size=3,
    ),
    ill=st.integers(0, 2),
)
def test_random_models(ops: list[list[Step]], ill: int) -> None:
    models: list[nn.Module] = [RandomNet(Recipe(tuple(s)), i) for i, s in enumerate(ops)]
    check_isolated(models, batches([3, 3]), ill % len(models), float("nan"))


@pytest.mark.parametrize(
    "name", ["nas_bench_201", *(pytest.param(n, marks=pytest.mark.slow) for n in ("darts", "spos"))]
)
def test_candidates(name: str) -> None:
    space = SMALL[name]()
    models = [space.sample(seed).build(seed) for seed in range(4)]
    shape = space.sample(0).graph.inputs[0].type.shape
    made = torch.Generator().manual_seed(0)
    steps: list[Inputs] = [(torch.randn(4, *shape[1:], generator=made),) for _ in range(2)]
    check_isolated(models, steps, 2, float("nan"))


def test_nan_that_arises_in_training() -> None:
    """A learning rate that is too large for one: its loss overflows, the others go on."""

    class Steep(nn.Module):
        def __init__(self, seed: int, factor: float) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.layer = nn.Linear(4, 4)
            self.register_buffer("factor", torch.tensor(factor))

        def forward(self, x: Tensor) -> Tensor:
            return (self.layer(x) * self.factor).exp()

    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    calm: list[nn.Module] = [Steep(0, 0.1), Steep(1, 0.1), Steep(2, 0.1)]
    wild: list[nn.Module] = [Steep(0, 0.1), Steep(1, 1000.0), Steep(2, 0.1)]
    before, after = courses(calm, [(x,)] * 3), courses(wild, [(x,)] * 3)
    assert not _finite(after[1].losses[-1])
    for i in (0, 2):
        assert before[i].losses == after[i].losses
        assert all(torch.equal(v, after[i].state[k]) for k, v in before[i].state.items())
