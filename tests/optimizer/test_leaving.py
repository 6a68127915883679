"""Models that leave: the others go on as if nothing had happened."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import retiarii as rt
from retiarii.errors import MergeError
from retiarii.optimizer.merged import MergedModel, Remaining

RATE = 0.05


class Block(nn.Module):
    """Convolutions, statistics and dropout; wider or deeper from one to the next."""

    def __init__(self, width: int, depth: int, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
        for _ in range(depth):
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
        self.body = nn.Sequential(*layers, nn.Dropout(dropout), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))


class Counting(nn.Module):
    """Looks at values, so that it is called as it is, and keeps a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return x * self.scale if x.detach().sum().item() > 0 else x * self.scale * 2


class WithOpaque(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.inner, self.head = nn.Linear(6, width), Counting(), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(torch.tanh(self.first(x))))


class Transfer(nn.Module):
    """A frozen backbone, equal in all models, whose statistics still follow the data."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.head = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def batches(shape: tuple[int, ...], count: int) -> list[tuple[Tensor, Tensor]]:
    made = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(shape, generator=made, dtype=torch.float64),
            torch.randint(0, 4, shape[:1], generator=made),
        )
        for _ in range(count)
    ]


def steps(
    model: nn.Module, data: Sequence[tuple[Tensor, Tensor]], optimizer: torch.optim.SGD
) -> None:
    for x, y in data:
        optimizer.zero_grad()
        outputs = model(x)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        sum(nn.functional.cross_entropy(out, y) for out in outputs).backward()
        optimizer.step()


def sgd(model: nn.Module) -> torch.optim.SGD:
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(trained, lr=RATE, momentum=0.9)


def carried(old: MergedModel, left: Remaining, sgd_old: torch.optim.SGD) -> torch.optim.SGD:
    """The optimizer of the remaining models, with their momentum."""
    made = sgd(left.merged)
    for stack, origin in zip(left.merged.storage.stacks, left.moved.stacks, strict=True):
        before = getattr(old, old.storage.stacks[origin.stack].name)
        if stack.trainable:
            momentum = sgd_old.state[before]["momentum_buffer"]
            now = getattr(left.merged, stack.name)
            made.state[now]["momentum_buffer"] = momentum[list(origin.members)]
    return made


def same(merged: MergedModel, number: int, alone: nn.Module) -> None:
    state = merged.state_dict_of(number)
    expected = alone.state_dict()
    assert list(state) == list(expected)
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value, rtol=1e-9, atol=1e-11, msg=key)


def go_on(models: list[nn.Module], shape: tuple[int, ...], leaving: Sequence[int]) -> MergedModel:
    """Trains together and alone, lets models leave in between, and compares who stayed."""
    models = [m.double().train() for m in models]
    alone = copy.deepcopy(models)
    data = batches(shape, 4)
    merged = rt.merge(models, data[0][0], seeds=range(len(models)))
    optimizer = sgd(merged)
    steps(merged, data[:2], optimizer)
    left = merged.remaining(leaving)
    steps(left.merged, data[2:], carried(merged, left, optimizer))
    for model in alone:
        steps(model, data, sgd(model))
    stay = [i for i in range(len(models)) if i not in leaving]
    assert left.moved.models == tuple(stay)
    assert left.merged.models == len(stay)
    for new, old in enumerate(stay):
        same(left.merged, new, alone[old])
    x = data[0][0]
    outputs = left.merged.eval()(x)
    for new, old in enumerate(stay):
        torch.testing.assert_close(outputs[new], alone[old].eval()(x), rtol=1e-9, atol=1e-11)
    return left.merged


@pytest.mark.parametrize("leaving", [[0], [4], [1, 3], [0, 1, 2, 3], []])
def test_training_goes_on(leaving: list[int]) -> None:
    models: list[nn.Module] = [Block(w, d) for w, d in ((4, 1), (4, 2), (6, 1), (4, 2), (6, 2))]
    go_on(models, (6, 3, 5, 5), leaving)


def test_buffers_of_submodules_that_run_as_they_are() -> None:
    models: list[nn.Module] = [WithOpaque(w) for w in (5, 5, 7, 5)]
    merged = go_on(models, (6, 6), [1])
    calls = [merged.state_dict_of(i)["inner.calls"].item() for i in range(3)]
    assert calls == [5, 5, 5]  # 4 steps, and one in eval mode


def test_a_shared_backbone_stays_when_its_first_holder_leaves() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
    models: list[nn.Module] = [Transfer(backbone, w) for w in (4, 4, 6, 4)]
    merged = go_on(models, (6, 6), [0, 2])
    assert merged.stats.shared == 3
    only = go_on(models, (6, 6), [0, 1, 2])
    assert only.stats.shared == 0


def test_a_shared_backbone_of_those_that_leave_goes() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
    models: list[nn.Module] = [Transfer(backbone, 4), Transfer(backbone, 4), nn.Linear(6, 4)]
    merged = go_on(models, (6, 6), [0, 1])
    assert len(merged.storage.stacks) == 2
    assert "batch_norm" not in merged.train().source.lower()


def test_random_streams_go_on() -> None:
    """As in a twin that nobody left."""
    torch.manual_seed(0)
    models = [Block(4, 1, dropout=0.5).double().train() for _ in range(4)]
    (x, _), *_ = batches((6, 3, 5, 5), 1)
    twin = rt.merge(models, x, seeds=range(4))
    merged = rt.merge(models, x, seeds=range(4))
    twin(x)
    merged(x)
    left = merged.without([0, 2])
    for _ in range(2):
        expected, got = twin(x), left(x)
        torch.testing.assert_close(got[0], expected[1], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(got[1], expected[3], rtol=1e-10, atol=1e-12)
    assert not torch.equal(left(x)[0], left(x)[0])
    # The old one was not drawn from.
    torch.testing.assert_close(merged(x)[1], rt_second(models, x), rtol=1e-10, atol=1e-12)


def rt_second(models: list[Block], x: Tensor) -> Tensor:
    """What the second model draws in its second pass."""
    fresh = rt.merge(models, x, seeds=range(4))
    fresh(x)
    found: Tensor = fresh(x)[1]
    return found


def test_every_tensor_is_where_the_map_says() -> None:
    space = rt.spaces.nas_bench_201(channels=4, cells=1, input_size=4)
    merged = rt.merge([space.sample(i) for i in range(6)], seeds=range(6))
    sum(out.sum() for out in merged.train()(torch.randn(2, 3, 4, 4))).backward()
    left = merged.remaining([2, 3])
    places = left.moved.places
    ours = {(left.moved.models[m], key): p for (m, key), p in left.merged.storage.places.items()}
    expected = {
        home: places[place]
        for home, place in merged.storage.places.items()
        if home[0] not in (2, 3)
    }
    assert ours == expected
    for origin, stack in zip(left.moved.stacks, left.merged.storage.stacks, strict=True):
        old = getattr(merged, merged.storage.stacks[origin.stack].name)
        new = getattr(left.merged, stack.name)
        assert new.data_ptr() != old.data_ptr()
        assert new.stride()[1:] == old.stride()[1:]  # filters stay channels-last
        index = ... if origin.plain else list(origin.members)
        torch.testing.assert_close(new, old[index], rtol=0, atol=0)
        if old.grad is not None:
            torch.testing.assert_close(new.grad, old.grad[index], rtol=0, atol=0)


def test_what_is_left_is_what_a_fresh_merge_has() -> None:
    space = rt.spaces.nas_bench_201(channels=4, cells=1, input_size=4)
    samples = [space.sample(i) for i in range(8)]
    left = rt.merge(samples, seeds=range(8)).train().without([0, 5]).without([2])
    # The second number counts those that were left: it is 3 of the first.
    fresh = rt.merge([samples[i] for i in (1, 2, 4, 6, 7)], seeds=(1, 2, 4, 6, 7)).train()
    assert left.stats.nodes_before == fresh.stats.nodes_before
    assert (left.stats.shared, left.stats.fused) == (fresh.stats.shared, fresh.stats.fused)
    assert sorted(k for _, k in left.storage.places) == sorted(k for _, k in fresh.storage.places)
    x = torch.randn(4, 3, 4, 4)
    for a, b in zip(left(x), fresh(x), strict=True):
        torch.testing.assert_close(a, b)


def test_twice_and_in_both_modes() -> None:
    torch.manual_seed(0)
    models = [Block(4, 1 + i % 2).double().train() for i in range(5)]
    (x, _), *_ = batches((6, 3, 5, 5), 1)
    merged = rt.merge(models, x)
    merged.eval()(x)
    left = merged.without([0]).without([1])
    assert not left.training
    expected = merged(x)
    for new, old in enumerate((1, 3, 4)):
        torch.testing.assert_close(left(x)[new], expected[old], rtol=1e-10, atol=1e-12)
    left.train()(x)
    assert left.state_dict_of(0)["body.1.num_batches_tracked"] == 1
    assert merged.state_dict_of(1)["body.1.num_batches_tracked"] == 0


@pytest.mark.parametrize(
    ("leaving", "says"), [([3], "no model 3"), ([0, 1, 2], "all models leave")]
)
def test_refused(leaving: list[int], says: str) -> None:
    merged = rt.merge([nn.Linear(3, 2) for _ in range(3)], torch.randn(2, 3))
    with pytest.raises(MergeError, match=says):
        merged.without(leaving)
