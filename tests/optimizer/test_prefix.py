"""The frozen prefix and the rest of a merged model: together they are the whole."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import retiarii as rt
from retiarii.optimizer.prefix import FrozenPrefix, frozen_prefix
from retiarii.testing.random_nets import OPS, RandomNet, Recipe, Step, batches

DOUBLE = torch.float64


def backbone(seed: int = 0, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 6, 3, padding=1), *([nn.BatchNorm2d(6)] if norm else []), nn.ReLU(True)]
    made = nn.Sequential(*layers, nn.Conv2d(6, 6, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return made.requires_grad_(False)


class Transfer(nn.Module):
    """A frozen backbone under a head that trains."""

    def __init__(self, width: int, seed: int = 0, frozen: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone(seed) if frozen is None else frozen
        torch.manual_seed(width)
        self.head = nn.Sequential(
            nn.Linear(24, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(width, 3),
        )
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


class Branches(Transfer):
    """Frozen branches of equal shape, which are fused; two heads read one each, and the input."""

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__(width, seed)
        torch.manual_seed(seed)
        self.left = nn.Linear(24, 5).requires_grad_(False)
        self.right = nn.Linear(24, 5).requires_grad_(False)
        self.one, self.two = nn.Linear(5, 3), nn.Linear(5, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.backbone(x)
        apart = self.one(self.left(h)) + self.two(self.right(h))
        return apart + self.head(h) * x.mean((1, 2, 3), keepdim=False).unsqueeze(1)


def images(n: int = 6, seed: int = 3) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def check(models: Sequence[nn.Module], training: bool, inputs: Sequence[Tensor]) -> FrozenPrefix:
    """Both programs one after the other give what the whole gives: results and gradients."""
    examples = tuple(inputs)
    merged = rt.merge(models, examples, seeds=range(len(models)), fuse="on")
    found = frozen_prefix(merged, training)
    assert isinstance(found, FrozenPrefix), found
    assert compare(merged, found, inputs) < 1e-12
    return found


def compare(merged: rt.MergedModel, found: FrozenPrefix, inputs: Sequence[Tensor]) -> float:
    """The largest difference of outputs, written buffers and gradients."""
    begun = {k: v.clone() for k, v in merged.state_dict().items()}
    sides = []
    for split in (False, True):
        merged.load_state_dict(begun)
        merged.zero_grad()
        merged.seed(range(merged.models))
        if split:
            values = found.head(inputs)
            assert not any(v.requires_grad for v in values)
            outputs = found.rest([*values, *(inputs[i] for i in found.reads)])
        else:
            outputs = [tensor for _, tensor in merged.stacked(*inputs)]
        learned = [o.square().mean() for o in outputs if o.requires_grad]
        sum(learned, torch.zeros(())).backward()
        grads = {k: p.grad for k, p in merged.named_parameters() if p.grad is not None}
        side = {f"out{i}": o.detach() for i, o in enumerate(outputs)} | grads
        sides.append({**side, **{f"buffer {k}": v.clone() for k, v in merged.named_buffers()}})
    assert sides[0].keys() == sides[1].keys()
    gaps = [(sides[0][k].double() - sides[1][k].double()).abs().max() for k in sides[0]]
    return float(torch.stack(gaps).max())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "models",
    [
        [Transfer(4)],
        [Transfer(4), Transfer(4), Transfer(6)],
        [Transfer(4, seed=0), Transfer(4, seed=1), Transfer(6, seed=1)],
        [Branches(4)],
        [Branches(4), Branches(4), Branches(6, seed=1)],
        [Branches(4), Transfer(4)],
    ],
    ids=["one", "shared", "two backbones", "branches", "many branches", "unlike"],
)
def test_head_and_rest_are_the_whole(models: list[nn.Module], training: bool) -> None:
    found = check(models, training, [images()])
    assert "conv2d" in found.source.partition("# the rest")[0]
    assert "conv2d" not in found.source.partition("# the rest")[2]


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
    frozen=st.sampled_from([1, 2, 4]),
    output=st.sampled_from(["tensor", "dict", "tuple"]),
)


@settings(max_examples=40, derandomize=True)
@given(recipes=st.lists(RECIPES, min_size=1, max_size=3), training=st.booleans())
def test_random_models(recipes: list[Recipe], training: bool) -> None:
    models = [RandomNet(recipe, seed) for seed, recipe in enumerate(recipes)]
    (inputs,) = batches([4])
    merged = rt.merge(models, inputs, seeds=range(len(models)))
    found = frozen_prefix(merged, training)
    if isinstance(found, FrozenPrefix):
        assert compare(merged, found, inputs) < 1e-9


def test_a_batch_of_another_size() -> None:
    merged = rt.merge([Branches(4), Transfer(6)], images(6))
    found = frozen_prefix(merged, False)
    assert isinstance(found, FrozenPrefix)
    assert compare(merged, found, [images(11, seed=5)]) < 1e-12


# --- what belongs to it ---------------------------------------------------------------------------


def names(models: Sequence[nn.Module], training: bool) -> list[str]:
    found = frozen_prefix(rt.merge(models, images(), fuse="on"), training)
    assert isinstance(found, FrozenPrefix), found
    return [value.name for value in found.values]


def test_statistics_that_training_writes_are_not_frozen() -> None:
    """In evaluation neither: what the layer returns then changes from epoch to epoch."""
    for training in (True, False):
        models = [Transfer(4, frozen=backbone(norm=True)), Transfer(6, frozen=backbone(norm=True))]
        assert names(models, training) == ["backbone.0"]


def test_statistics_that_nothing_writes_are_frozen() -> None:
    class Fixed(nn.Module):
        """A BatchNorm whose statistics are constants."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.linspace(-0.1, 0.1, 6).view(6, 1, 1))
            self.register_buffer("scale", torch.linspace(0.9, 1.1, 6).view(6, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return (x - self.mean) * self.scale

    def fixed() -> nn.Sequential:
        return nn.Sequential(backbone()[0], Fixed(), *backbone()[1:])

    for training in (True, False):
        assert names([Transfer(4, frozen=fixed()), Transfer(6, frozen=fixed())], training) == [
            "backbone.5"
        ]


def test_dropout_ends_it_in_training_only() -> None:
    def dropping() -> nn.Sequential:
        return nn.Sequential(*backbone()[:2], nn.Dropout(0.5), *backbone()[2:])

    models = [Transfer(4, frozen=dropping()), Transfer(6, frozen=dropping())]
    assert names(models, True) == ["backbone.1"]
    assert set(names(models, False)) == {"backbone.5"}


def test_a_layer_that_trains_ends_it() -> None:
    trained = backbone()
    trained[2].requires_grad_(True)
    assert names([Transfer(4, frozen=trained)], True) == ["backbone.1"]


class Rearranged(Transfer):
    """What trained weights read of the frozen part has the batch in its second dimension."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.gain = nn.Parameter(torch.ones(24, 1, dtype=DOUBLE))

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.backbone(x).t() * self.gain).t())


class Enlarged(Transfer):
    """The backbone's result is repeated before the head reads it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).repeat(1, 50)[:, :24])


class Looks(Transfer):
    """A scale that is one number for the whole batch, of the frozen part."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.backbone(x)
        return self.head(h) * h.abs().max()


def test_it_ends_before_what_has_no_row_for_each_sample() -> None:
    assert names([Rearranged(4)], True) == ["backbone.4"]
    assert names([Looks(4)], True) == ["backbone.4"]
    check([Looks(4), Rearranged(4)], True, [images()])


def test_what_only_makes_it_bigger_is_left_to_the_rest() -> None:
    found = check([Enlarged(4)], True, [images()])
    assert [value.type.shape for value in found.values] == [(6, 24)]


class Positions(Transfer):
    """A frozen table that depends on no input, read on both sides."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.randn(1, 24, dtype=DOUBLE), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        places = self.table.sin()
        return self.head(torch.relu(self.backbone(x) + places)) + places[:, :3]


def test_what_depends_on_no_input_is_on_both_sides() -> None:
    found = check([Positions(4), Positions(6)], True, [images()])
    assert len(found.values) == 1
    head, _, rest = found.source.partition("# the rest")
    assert ".sin(" in head
    assert ".sin(" in rest


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), "next to nothing"),
        (nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()), "nothing but trained layers"),
    ],
    ids=["only a view", "nothing"],
)
def test_why_there_is_none(model: nn.Module, reason: str) -> None:
    found = frozen_prefix(rt.merge([model.double()], images()), True)
    assert isinstance(found, str)
    assert reason in found


# --- its name -------------------------------------------------------------------------------------


def digest(*models: nn.Module) -> str:
    found = frozen_prefix(rt.merge(models, images()), True)
    assert isinstance(found, FrozenPrefix)
    (value,) = found.values
    return value.digest


def test_a_value_is_known_by_operations_and_weights() -> None:
    """Whatever the heads are, and whoever is in the cohort."""
    own = digest(Transfer(4))
    assert digest(Transfer(9), Transfer(6)) == own
    assert digest(Transfer(4, seed=1)) != own
    nudged = Transfer(4)
    with torch.no_grad():
        nudged.backbone[2].bias[0] += 1e-9
    assert digest(nudged) != own
    other = backbone()
    other[1] = nn.GELU()
    assert digest(Transfer(4, frozen=other)) != own
