"""Merged training equals training each model alone: random graphs, all spaces, mixtures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from retiarii.optimizer.merge import merge
from retiarii.testing.merging import (
    adam,
    check_merged,
    fresh_stream,
    mixed_loss,
    sgd,
    train_merged,
)
from retiarii.testing.random_nets import OPS, RandomNet, Recipe, Step, batches
from retiarii.testing.small_spaces import SMALL

STEPS = st.builds(
    Step,
    op=st.sampled_from(sorted(OPS)),
    first=st.integers(0, 5),
    second=st.integers(0, 5),
    option=st.integers(0, 3),
    tie=st.booleans(),
)
RECIPES = st.builds(
    Recipe,
    steps=st.lists(STEPS, min_size=1, max_size=8).map(tuple),
    frozen=st.sampled_from([0, 0, 1, 2]),
    output=st.sampled_from(["tensor", "dict", "tuple"]),
)


def check_recipes(recipes: list[Recipe], use_adam: bool) -> None:
    models = [RandomNet(recipe, seed) for seed, recipe in enumerate(recipes)]
    check_merged(models, batches([3, 3, 5]), optimizer=adam if use_adam else sgd)


@settings(max_examples=40, derandomize=True)
@given(recipes=st.lists(RECIPES, min_size=1, max_size=4), use_adam=st.booleans())
def test_random_models(recipes: list[Recipe], use_adam: bool) -> None:
    check_recipes(recipes, use_adam)


@pytest.mark.slow
@settings(max_examples=2000)
@given(recipes=st.lists(RECIPES, min_size=1, max_size=5), use_adam=st.booleans())
def test_many_random_models(recipes: list[Recipe], use_adam: bool) -> None:
    check_recipes(recipes, use_adam)


# What random models have found, and what they meet too rarely.
FOUND = {
    "a layer called twice, one call of it unread, beside a layer nobody reads": [
        Recipe(
            (
                Step("block"),
                Step("block", tie=True),
                *[Step("act")] * 4,
                Step("block"),
                Step("add", 0, 2),
            )
        )
    ],
    "an unread branch beside a frozen one that is read": [
        Recipe((Step("act"), Step("attention"), Step("act"), Step("conv"))),
        Recipe((Step("attention"),), frozen=1, output="tuple"),
    ],
    "the same batch norm in two groups that join its statistics": [
        Recipe(
            (
                Step("act"),
                Step("block"),
                Step("block", tie=True),
                *[Step("act")] * 3,
                Step("block"),
                Step("add", 0, 2),
            )
        )
    ],
    "an unread branch in the groups of one that is read": [
        Recipe(
            (Step("block", 0, 1, 1), Step("attention", 4), Step("bn", 3, 4), Step("attention", 1)),
            output="dict",
        ),
        Recipe((Step("no_grad", 3, 1), Step("act", 4))),
    ],
    # torch's backward pass crashed here: a channels-last input that takes no gradient.
    "a group norm of a frozen layer": [
        Recipe((Step("conv"), Step("groupnorm", 1), Step("mul", 2, 0)), frozen=1),
        Recipe((Step("unused"), Step("groupnorm", 1), Step("mul", 2, 0)), frozen=1),
    ],
    "a zero behind trained layers": [
        Recipe((Step("conv"), Step("bn", 1), Step("zero", 2), Step("conv"), Step("add", 3, 4))),
        Recipe((Step("conv"), Step("bn", 1), Step("zero", 2))),
    ],
    "equal frozen prefixes": [
        Recipe((Step("conv"), Step("bn", 1), Step("act", 2), Step(last, 3)), frozen=2)
        for last in ("conv", "attention", "bn", "prelu")
    ],
    "random draws in the order of the models' own": [
        Recipe((Step("dropout"), Step("dropout2d", 1), Step("dropout", 0), Step("add", 2, 1))),
        Recipe((Step("dropout2d"), Step("dropout", 1), Step("conv", 2), Step("dropout", 3))),
    ],
}


@pytest.mark.parametrize("name", FOUND)
def test_found_cases(name: str) -> None:
    check_recipes(FOUND[name], False)
    check_recipes(FOUND[name], True)


def test_fifty_steps() -> None:
    recipes = [
        Recipe(
            (
                Step("conv", option=1),
                Step("bn", 1),
                Step("act", 2),
                Step(last, 3),
                Step("dropout", 4),
            )
        )
        for last in ("conv", "depthwise", "attention", "groupnorm")
    ]
    models = [RandomNet(recipe, seed) for seed, recipe in enumerate(recipes)]
    check_merged(models, batches([4] * 50), optimizer=sgd)


def test_without_dedup() -> None:
    recipes = FOUND["equal frozen prefixes"]
    models = [RandomNet(recipe, seed) for seed, recipe in enumerate(recipes)]
    merged = check_merged(models, batches([3, 4]), dedup=False)
    assert merged.stats.shared == 0


def test_dropout_masks_are_bitwise_the_models_own() -> None:
    class Masks(nn.Module):
        def __init__(self, conv: bool) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1) if conv else nn.Identity()
            self.drop, self.drop2d = nn.Dropout(0.4), nn.Dropout2d(0.5)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            first = self.drop(torch.ones_like(self.first(x)))
            return first, self.drop2d(first)

    models = [Masks(conv) for conv in (True, False, True)]
    x = torch.randn(4, 3, 5, 5)
    merged = merge(models, x, fuse="on")
    merged.seed([3, 1, 4])
    rounds = [merged(x) for _ in range(3)]
    for i, seed in enumerate([3, 1, 4]):
        with fresh_stream(seed):
            for outputs in rounds:
                for got, alone in zip(outputs[i], models[i](x), strict=True):
                    assert torch.equal(got, alone)


class Heads(nn.Module):
    """Two heads over one body; losses may use one only."""

    def __init__(self, seed: int, both: bool) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Linear(4, 5)
        self.main, self.more = nn.Linear(5, 2), nn.Linear(5, 2)
        self.both = both
        self.double()

    def forward(self, x: Tensor) -> Any:
        hidden = self.body(x).tanh()
        main = self.main(hidden)
        return (main, self.more(hidden)) if self.both else (main + self.more(hidden), main)


@pytest.mark.parametrize("used", [0, 1])
def test_a_loss_that_leaves_an_output_out(used: int) -> None:
    """What only led to that output has no gradient, and no weight decay moves it."""
    models = [Heads(s, both) for s, both in enumerate((True, True, False))]
    x = torch.randn(4, 4, dtype=torch.float64)
    check_merged(models, [(x,), (x,)], loss=lambda out: mixed_loss(out[used]))


def test_what_only_an_index_comes_of_has_no_gradient() -> None:
    class Best(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.score, self.value = nn.Linear(4, 3), nn.Linear(4, 3)
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            return self.value(x).gather(1, self.score(x).argmax(1, keepdim=True))

    x = torch.randn(4, 4, dtype=torch.float64)
    check_merged([Best(0), Best(1)], [(x,), (x,)])


def test_parameters_and_buffers_of_the_models_own() -> None:
    class Own(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            made = torch.Generator().manual_seed(seed)
            self.scale = nn.Parameter(torch.randn((), generator=made, dtype=torch.float64))
            self.matrix = nn.Parameter(torch.randn(4, 4, generator=made, dtype=torch.float64))
            self.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
            self.register_buffer("shift", torch.randn(4, generator=made, dtype=torch.float64))
            self.register_buffer("hidden", torch.ones(4).double() * seed, persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            symmetric = self.matrix + self.matrix.T
            return (x @ symmetric + self.shift * self.hidden) * self.scale * self.matrix.norm()

    x = torch.randn(3, 4, dtype=torch.float64)
    check_merged([Own(0), Own(1), Own(2)], [(x,), (x,)])


def test_tied_layers() -> None:
    class Tied(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.embed = nn.Embedding(9, 6)
            self.out = nn.Linear(6, 9, bias=False)
            self.out.weight = self.embed.weight
            self.double()

        def forward(self, tokens: Tensor) -> Tensor:
            return self.out(self.embed(tokens).tanh())

    tokens = torch.randint(9, (3, 5), generator=torch.Generator().manual_seed(0))
    merged = check_merged([Tied(0), Tied(1)], [(tokens,), (tokens,)], optimizer=adam)
    assert list(merged.state_dict_of(0)) == ["embed.weight", "out.weight"]


def test_the_same_merge_trains_bitwise_the_same() -> None:
    def course() -> list[dict[str, Tensor]]:
        models = [RandomNet(recipe, 1) for recipe in FOUND["equal frozen prefixes"]]
        steps = batches([4, 4])
        return [c.state for c in train_merged(merge(models, steps[0], fuse="on"), steps)]

    for first, second in zip(course(), course(), strict=True):
        assert all(torch.equal(v, second[k]) for k, v in first.items())


def test_the_cohort_does_not_matter_beyond_rounding() -> None:
    recipes = [
        Recipe((Step("conv", option=1), Step("bn", 1), Step(last, 2)))
        for last in ("dropout", "attention", "block", "conv", "prelu")
    ]
    models = [RandomNet(recipe, seed) for seed, recipe in enumerate(recipes)]
    steps = batches([4, 4])
    (small,) = train_merged(merge(models[:1], steps[0], fuse="on"), steps, seeds=[7])
    large, *_ = train_merged(merge(models, steps[0], fuse="on"), steps, seeds=[7, 1, 2, 3, 4])
    for key, value in small.state.items():
        torch.testing.assert_close(large.state[key], value, rtol=1e-11, atol=1e-11)


# --- ready spaces ---------------------------------------------------------------------------------

QUICK = ("nas_bench_201", "mobilenet_v3", "autoformer", "tabular_resnet")


def sampled(name: str, count: int) -> list[nn.Module]:
    space = SMALL[name]()
    return [space.sample(seed).build(seed).double() for seed in range(count)]


def inputs_for(name: str, *sizes: int) -> list[tuple[Tensor, ...]]:
    types = [node.type for node in SMALL[name]().sample(0).graph.inputs]
    made = torch.Generator().manual_seed(1)
    return [
        tuple(torch.randn(n, *t.shape[1:], generator=made, dtype=torch.float64) for t in types)
        for n in sizes
    ]


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SMALL]
)
def test_ready_spaces(name: str) -> None:
    check_merged(sampled(name, 3), inputs_for(name, 4, 4, 6))


@pytest.mark.slow
def test_a_mixture_of_unlike_families() -> None:
    """All that take images of 32x32, three colours: one cohort of unlike models."""
    names = ("proxylessnas", "fbnet", "ofa_mobilenet_v3", "mobilenet_v3", "spos", "autoformer")
    models = [model for name in names for model in sampled(name, 2)]
    merged = check_merged(models, inputs_for("spos", 4, 4, 4))
    assert merged.stats.fused > merged.stats.nodes_before / 2


def test_candidates_begin_and_draw_as_their_seeds_say() -> None:
    space = SMALL["autoformer"]()
    candidates = [space.sample(seed) for seed in (4, 5)]
    merged = merge(candidates, seeds=[11, 12], fuse="on")
    (inputs,) = inputs_for("autoformer", 4)
    got = merged(inputs[0].float())
    for candidate, seed, output in zip(candidates, (11, 12), got, strict=True):
        model = candidate.build(seed)
        with fresh_stream(seed):
            torch.testing.assert_close(output, model(inputs[0].float()), rtol=1e-4, atol=1e-5)


class _ByMode(nn.Module):
    """Its evaluation mode has nodes and constants of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.scale = torch.arange(4, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if not self.training:
            y = (y + torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=x.dtype) * self.scale).relu()
        return y


@pytest.mark.parametrize("dedup", [True, False])
def test_each_mode_has_its_own_nodes_and_constants(dedup: bool) -> None:
    models = [_ByMode().double() for _ in range(2)]
    merged = merge(models, torch.randn(3, 4, dtype=torch.float64), fuse="on", dedup=dedup)
    x = torch.randn(5, 4, dtype=torch.float64)
    for training in (True, False):
        merged.train(training)
        for model, out in zip(models, merged(x), strict=True):
            torch.testing.assert_close(out, model.train(training)(x))
