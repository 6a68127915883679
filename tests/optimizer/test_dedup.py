"""What models share, and what they must not: frozen prefixes, buffers, equal and zero terms."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from retiarii.ir.parse import parse
from retiarii.optimizer.dedup import dedup, storage_of
from retiarii.optimizer.forest import SHARED, Forest
from retiarii.optimizer.layout import pieces
from retiarii.optimizer.lift import Model, lift
from retiarii.optimizer.merge import merge
from retiarii.optimizer.merged import MergedModel
from retiarii.optimizer.simplify import gradient_ways, simplify
from retiarii.testing.merging import check_merged, train_merged

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def backbone(seed: int = 0, frozen: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).double()
    return made.requires_grad_(not frozen)


def with_head(body: nn.Module, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).double()
    return nn.Sequential(body, *head)


def merged_of(*models: nn.Module, dedup: bool = True) -> MergedModel:
    return merge(list(models), X, dedup=dedup, fuse="on")


def forest_of(*models: nn.Module, training: bool = True) -> Forest:
    return lift([Model.of(parse(m, X), m) for m in models], training)


def ops_of(forest: Forest, owner: int | None = None) -> list[str]:
    return [
        item.call.op
        for item in forest.items
        if item.leaf is None and (owner is None or item.owner == owner)
    ]


# --- frozen prefixes ------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_an_equal_frozen_prefix_runs_once(training: bool) -> None:
    models = [with_head(backbone(), seed).train(training) for seed in range(3)]
    merged = merged_of(*models)
    # Convolution, batch norm, ReLU, pooling and flatten of two models are saved.
    assert merged.stats.shared == 2 * 5
    assert merged.storage.places[0, "0.0.weight"] == merged.storage.places[2, "0.0.weight"]
    for model, got in zip(models, merged(X), strict=True):
        torch.testing.assert_close(got, model(X), rtol=1e-10, atol=1e-10)
    for i, model in enumerate(models):
        for key, value in merged.state_dict_of(i).items():
            torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-10, atol=1e-10)


def test_it_keeps_running_once_and_right_over_steps_and_modes() -> None:
    models = [with_head(backbone(), seed) for seed in range(3)]
    merged = check_merged(models, [(X,), (X + 1,), (X,)])
    # In evaluation, what is shared lies where training put it.
    assert not merged.training
    assert merged.stats.shared == 2 * 5
    merged.train()
    train_merged(merged, [(X,)])
    assert torch.equal(
        merged.tensor_of(0, "0.1.running_mean"), merged.tensor_of(1, "0.1.running_mean")
    )


def test_frozen_layers_of_other_weights_are_not_shared() -> None:
    merged = merged_of(with_head(backbone(0), 0), with_head(backbone(1), 1))
    assert merged.stats.shared == 0
    check_merged([with_head(backbone(0), 0), with_head(backbone(1), 1)], [(X,), (X,)])


def test_one_weight_that_differs_is_enough() -> None:
    one, other = backbone(), backbone()
    with torch.no_grad():
        other[1].running_var[2] += 1e-9
    models = [with_head(one, 0), with_head(other, 1)]
    merged = merged_of(*models)
    assert merged.stats.shared == 1  # the convolution
    check_merged(models, [(X,), (X,)])


def test_trained_layers_that_begin_equal_are_not_shared() -> None:
    merged = check_merged([with_head(backbone(0, False), s) for s in range(2)], [(X,), (X,)])
    assert merged.stats.shared == 0


def test_buffers_that_begin_equal_are_not_shared() -> None:
    """Statistics of layers after trained ones start alike and part at the first step."""
    models = [with_head(backbone(s, False), s) for s in range(2)]
    merged = check_merged(models, [(X,), (X,)])
    places = merged.storage.places
    assert places[0, "0.1.running_mean"] != places[1, "0.1.running_mean"]
    one, two = (merged.tensor_of(i, "0.1.running_mean") for i in range(2))
    assert not torch.equal(one, two)


def test_statistics_are_apart_where_one_layer_is_called_more_often() -> None:
    """Two frozen batch norms that are equal; one model calls its own twice."""

    class Twice(nn.Module):
        def __init__(self, times: int) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3).requires_grad_(False)
            self.head = nn.Conv2d(3, 2, 1)
            self.times = times
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(self.times):
                x = self.norm(x)
            return self.head(x)

    check_merged([Twice(1), Twice(2), Twice(1)], [(X,), (X,)])


def test_a_frozen_norm_that_is_called_twice_on_the_same_counts_twice() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3).requires_grad_(False)
            self.head = nn.Conv2d(3, 2, 1)
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(x) + self.norm(x))

    merged = check_merged([Again(), Again()], [(X,), (X,)])
    assert merged.state_dict_of(1)["norm.num_batches_tracked"] == 4


def test_a_norm_called_twice_beside_two_norms() -> None:
    """The second group's statistics lie in two stacks: joined for the call, and written back."""

    class Norms(nn.Module):
        def __init__(self, two: bool) -> None:
            super().__init__()
            self.first = nn.BatchNorm2d(3)
            self.second = nn.BatchNorm2d(3) if two else self.first
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.tanh(self.first(x)))

    merged = check_merged([Norms(False), Norms(True), Norms(False)], [(X,), (X + 1,)])
    assert "write_back" in merged.train().source


def test_two_equal_frozen_layers_of_one_model_keep_their_own_statistics() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.BatchNorm2d(3).requires_grad_(False)
            self.b = nn.BatchNorm2d(3).requires_grad_(False)
            self.head = nn.Conv2d(3, 2, 1)
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.a(x) + 2 * self.b(x))

    merged = check_merged([Two(), Two()], [(X,), (X,)])
    assert merged.storage.places[0, "a.running_mean"] != merged.storage.places[0, "b.running_mean"]
    assert merged.storage.places[0, "a.running_mean"] == merged.storage.places[1, "a.running_mean"]


def test_dedup_can_be_switched_off() -> None:
    models = [with_head(backbone(), seed) for seed in range(2)]
    merged = merged_of(*models, dedup=False)
    assert merged.stats.shared == 0
    assert merged.storage.places[0, "0.0.weight"] != merged.storage.places[1, "0.0.weight"]


def test_storage_is_the_same_in_both_modes() -> None:
    models = [with_head(backbone(s % 2), s) for s in range(4)]
    merged = merged_of(*models)
    names = list(merged.state_dict())
    before = {k: v.data_ptr() for k, v in merged.state_dict().items()}
    merged.eval()(X)
    merged.train()(X)
    assert list(merged.state_dict()) == names
    assert {k: v.data_ptr() for k, v in merged.state_dict().items()} == before


# --- equal terms ----------------------------------------------------------------------------------


class Equal(nn.Module):
    """Computes x.relu() twice, and draws two dropout masks."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() * torch.relu(x) + self.drop(x) * self.drop(x)


def test_equal_pure_nodes_are_one_and_draws_are_not() -> None:
    forest = dedup(forest_of(Equal(), Equal()))
    assert ops_of(forest).count("relu") == 1
    assert ops_of(forest, SHARED) == ["relu", "mul"]
    assert ops_of(forest).count("dropout") == 4
    check_merged([Equal(), Equal()], [(X,), (X,)])


def test_draws_stay_in_the_models_own_order() -> None:
    forest = dedup(simplify(forest_of(Equal(), Equal())))
    drops = [i for i, item in enumerate(forest.items) if item.call.op == "dropout"]
    for first, second in zip(drops[::2], drops[1::2], strict=True):
        assert forest.items[first].after == ()
        assert forest.items[second].after == (first,)
        assert forest.items[first].owner == forest.items[second].owner


def test_nothing_is_random_in_evaluation() -> None:
    forest = dedup(forest_of(Equal(), Equal(), training=False))
    assert "dropout" not in ops_of(forest)
    assert all(item.owner == SHARED for item in forest.items)


# --- zero terms -----------------------------------------------------------------------------------


class Zeroed(nn.Module):
    """Adds a zero that comes of a layer, through pooling and ReLU."""

    def __init__(self, after_norm: bool = False) -> None:
        super().__init__()
        self.lost = nn.Conv2d(3, 3, 1)
        self.kept = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3) if after_norm else nn.MaxPool2d(3, 1, 1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.kept(x) + self.norm(torch.relu(self.lost(x) * 0.0))


def test_zero_terms_are_not_computed() -> None:
    forest = simplify(forest_of(Zeroed()))
    assert ops_of(forest) == ["Conv2d"]
    lost = {forest.items[n].name for n in forest.lost}
    assert lost == {"lost.weight", "lost.bias"}
    ways = gradient_ways(forest.items, [i.inputs for i in forest.items], forest.outputs)
    names = {item.name for item, way in zip(forest.items, ways, strict=True) if way}
    assert {"kept.weight", "kept.bias"} <= names
    assert not lost & names


def test_weights_behind_a_zero_decay_as_they_do_alone() -> None:
    merged = check_merged([Zeroed(), Zeroed(), with_head(backbone(), 0)[0]], [(X,), (X,)])
    assert merged.storage.places[0, "lost.weight"][0] == merged.storage.places[1, "lost.weight"][0]


def test_a_norm_of_a_zero_is_no_zero() -> None:
    forest = simplify(forest_of(Zeroed(after_norm=True)))
    assert "BatchNorm2d" in ops_of(forest)
    check_merged([Zeroed(after_norm=True), Zeroed()], [(X,), (X,)])


def test_a_forest_without_zeros_stays_the_same() -> None:
    forest = forest_of(with_head(backbone(), 0))
    assert simplify(forest) is forest


# --- leaves and places ----------------------------------------------------------------------------


def test_every_tensor_of_every_model_has_a_place() -> None:
    models = [with_head(backbone(), 0), Zeroed(), Zeroed(True), Equal()]
    merged = merged_of(*models)
    homes = {(i, k) for i, m in enumerate(models) for k in m.state_dict()}
    assert {h for h in merged.storage.places if not h[1].startswith("constant:")} == homes
    members = [
        (s, m) for s, stack in enumerate(merged.storage.stacks) for m in range(len(stack.homes))
    ]
    assert sorted(set(merged.storage.places.values())) == members


def test_ties_are_one_leaf() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1).double(), nn.Conv2d(3, 3, 1).double()
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    forest = forest_of(Tied(), Tied())
    assert forest.homes[0, "a.weight"] == forest.homes[0, "b.weight"]
    assert forest.homes[0, "a.weight"] != forest.homes[1, "a.weight"]
    assert storage_of(forest)[0, "b.weight"] == (0, "a.weight")


def test_stacks_are_in_the_order_in_which_groups_read_them() -> None:
    models = [with_head(backbone(s, False), s) for s in range(5)]
    merged = merged_of(*models)
    assert merged.stats.copies == 0
    assert "torch.cat" not in merged.source
    order = merged.storage.stacks[0].homes
    assert sorted(model for model, _ in order) == [0, 1, 2, 3, 4]


def test_layout_makes_slices_of_what_can_be_slices() -> None:
    """Every other model has a branch more: members are ordered so that no copy is needed."""

    class Branch(nn.Module):
        def __init__(self, more: bool) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1)
            self.more = nn.Conv2d(3, 3, 3, padding=1) if more else nn.Identity()
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            return self.more(self.first(x).tanh())

    models = [Branch(i % 2 == 0) for i in range(6)]
    merged = check_merged(models, [(X,), (X,)])
    assert merged.train().stats.copies <= 2  # of the outputs alone


def test_pieces() -> None:
    runs = pieces([(5, 0, 0), (5, 0, 1), (5, 0, 3), (6, 0, 4), (6, 1, 5), (6, 1, 6)])
    assert runs == [(5, 0, 0, 2), (5, 0, 3, 4), (6, 0, 4, 5), (6, 1, 5, 7)]
    assert pieces([]) == []


def test_merging_a_copy_equals_merging_the_model() -> None:
    model = with_head(backbone(), 3)
    for got in merged_of(model, copy.deepcopy(model))(X):
        torch.testing.assert_close(got, model.train()(X), rtol=1e-10, atol=1e-10)
