from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from retiarii.errors import EvaluatorError
from retiarii.training.data import open_data
from retiarii.training.rng import Stream
from retiarii.training.sampling import Sampling
from retiarii.training.structure import tensors

CPU = torch.device("cpu")


class Slow(Dataset):
    """The same samples, one at a time; nothing says that they never change."""

    def __init__(self, *data, draw=None):
        self.data = data
        self.draw = draw

    def __len__(self):
        return len(self.data[0])

    def __getitem__(self, index):
        x, *rest = (d[index] for d in self.data)
        return (x + self.draw() if self.draw else x, *rest)


def batches(source, seed=3, epoch=0, batch_size=8, dtype=None, training=True, data_seed=9):
    plan = source.sampling.plan(batch_size, seed, epoch, training=training)
    return list(source.read(plan, CPU, dtype, data_seed))


def flat(found):
    return [t for b in found for t in tensors((b.inputs, b.targets))]


def same(a, b):
    a, b = flat(a), flat(b)
    return len(a) == len(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and torch.equal(x, y)
        for x, y in zip(a, b, strict=True)
    )


@pytest.fixture
def xy():
    x = torch.randn(21, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, torch.arange(21)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [None, 3])
def test_every_way_gives_the_same_batches(xy, dtype, seed):
    x, y = xy
    samples = [(x[i], int(y[i])) for i in range(21)]
    ways = [
        (x, y),
        (x.numpy(), y.numpy()),
        TensorDataset(x, y),
        samples,
        tuple(samples),
        Slow(x, y),
        Slow(x.numpy(), y.numpy()),
        Subset(TensorDataset(x, y), range(21)),
    ]
    ways += [DataLoader(w, batch_size=8, shuffle=True) for w in (ways[2], ways[3], ways[5])]
    sources = [open_data(w, "train_data") for w in ways]
    assert [s.in_memory for s in sources] == [True] * 5 + [False] * 3 + [True, True, False]
    first = batches(sources[0], seed, dtype=dtype)
    assert [b.size for b in first] == [8, 8, 5]
    for source in sources[1:]:
        assert same(first, batches(source, seed, dtype=dtype))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_give_the_same_batches(xy):
    loader = DataLoader(Slow(*xy), batch_size=8, shuffle=True, num_workers=1)
    assert same(batches(open_data(loader, "train_data")), batches(open_data(xy, "train_data")))


def test_structures(xy):
    x, y = xy
    both = open_data(({"a": x, "b": (x + 1, x + 2)}, (y, x)), "train_data")
    (batch, *_) = batches(both, seed=None)
    assert torch.equal(batch.inputs["b"][1], x[:8] + 2)
    assert torch.equal(batch.targets[1], x[:8])
    three = batches(open_data(TensorDataset(x, x + 1, y), "train_data"), seed=None)[0]
    assert torch.equal(three.inputs[1], x[:8] + 1)
    assert torch.equal(three.targets, y[:8])
    dicts = [({"a": x[i]}, {"c": y[i]}) for i in range(21)]
    assert torch.equal(batches(open_data(dicts, "v"), None)[0].targets["c"], y[:8])


def test_a_batch_is_a_copy(xy):
    x, y = xy
    before = x.clone()
    for seed in (None, 1):
        for batch in batches(open_data((x, y), "train_data"), seed):
            batch.inputs.zero_()
    assert torch.equal(x, before)


def test_the_order_follows_from_the_seed_alone(xy):
    source = open_data(xy, "train_data")
    torch.manual_seed(0)
    first = batches(source, 3)
    torch.manual_seed(1)
    assert same(first, batches(source, 3))
    assert not same(first, batches(source, 4))
    seen = torch.cat([b.targets for b in first])
    assert sorted(seen.tolist()) == list(range(21))


@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(()), lambda: np.random.rand(), lambda: random.random()]
)
def test_augmentation_is_seeded_and_leaves_the_callers_stream(xy, draw):
    source = open_data(Slow(*xy, draw=draw), "train_data")
    before = draw()
    with Stream(1):
        a = batches(source, data_seed=5)
        rest = torch.rand(3)
    with Stream(1):
        assert torch.equal(rest, torch.rand(3))
    assert same(a, batches(source, data_seed=5))
    assert not same(a, batches(source, data_seed=6))
    assert before != draw()


def test_a_loaders_own_settings_are_kept(xy):
    def collate(samples):
        return torch.stack([s[0] for s in samples]) * 2, torch.tensor([s[1] for s in samples])

    loader = DataLoader(
        TensorDataset(*xy), batch_size=5, shuffle=False, drop_last=True, collate_fn=collate
    )
    found = batches(open_data(loader, "train_data"))
    assert [b.size for b in found] == [5] * 4
    assert torch.equal(found[1].inputs, xy[0][5:10] * 2)


@pytest.mark.parametrize("own", [False, True])
def test_a_sampler_of_the_users_is_drawn_from_our_seeds(xy, own):
    generator = torch.Generator().manual_seed(99) if own else None
    sampler = WeightedRandomSampler([1.0] * 20 + [50.0], 30, generator=generator)
    source = open_data(DataLoader(TensorDataset(*xy), 7, sampler=sampler), "train_data")
    a = batches(source, 1)
    assert [b.size for b in a] == [7, 7, 7, 7, 2]
    assert same(a, batches(source, 1))
    assert not same(a, batches(source, 2))
    assert sampler.generator is generator
    if own:
        assert generator.initial_seed() == 99


def test_a_batch_sampler_of_the_users(xy):
    class Halves:
        epoch = 0

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            yield [self.epoch, 1, 2]
            yield [4]

        def __len__(self):
            return 2

    source = open_data(DataLoader(TensorDataset(*xy), batch_sampler=Halves()), "train_data")
    assert [b.targets.tolist() for b in batches(source, 1, epoch=7)] == [[7, 1, 2, 4]]
    assert [b.targets.tolist() for b in batches(source, training=False)] == [[0, 1, 2], [4]]


@given(st.integers(1, 60), st.integers(1, 20), st.booleans(), st.booleans(), st.booleans())
def test_a_plan_covers_the_data_and_trains_no_single_sample(n, size, drop, training, shuffled):
    sampling = Sampling(n, drop_last=drop)
    plan = sampling.plan(size, 1 if shuffled else None, training=training)
    indices = [i for batch in plan.indices() for i in batch]
    assert len(indices) == len(set(indices)) == (n - n % size if drop else n)
    assert all(len(b) <= size + 1 for b in plan.indices())
    if training and size > 1 and n > 1:
        assert 1 not in plan.sizes
    if not training:
        assert all(len(b) <= size for b in plan.indices())


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        ((torch.zeros(0, 3), torch.zeros(0)), "is empty"),
        ([], "is empty"),
        (TensorDataset(torch.zeros(0, 3), torch.zeros(0)), "is empty"),
        ((torch.zeros(3, 3), torch.zeros(4)), "different lengths"),
        (torch.zeros(3, 3), "inputs without targets"),
        (None, "cannot be asked for a sample"),
        ("train.csv", "inputs without targets"),
        ([torch.zeros(3)], "not a pair"),
        ([(torch.zeros(3),)], "not a pair"),
        (TensorDataset(torch.zeros(3)), "not a pair"),
        ([(torch.zeros(2), 0), (torch.zeros(3), 0)], "cannot be stacked"),
        (DataLoader(TensorDataset(*[torch.zeros(3)] * 2), 4, drop_last=True), "gives no batch"),
        (DataLoader(TensorDataset(*[torch.zeros(3)] * 2), None), "makes no batches"),
    ],
)
def test_data_that_cannot_be_used(data, cause):
    with pytest.raises(EvaluatorError) as caught:
        open_data(data, "val_data")
    assert cause in caught.value.cause
    assert caught.value.where == "Supervised(val_data=...)"
    assert caught.value.fix


def test_a_stream_of_samples_is_refused():
    class Endless(IterableDataset):
        def __iter__(self):
            yield 1, 2

    for data in (Endless(), DataLoader(Endless(), 2)):
        with pytest.raises(EvaluatorError, match="Endless"):
            open_data(data, "train_data")


def test_samples_that_are_no_pairs_are_found_when_read():
    class Bare(Slow):
        def __getitem__(self, index):
            return self.data[0][index]

    with pytest.raises(EvaluatorError, match="a sample of train_data is a Tensor, not a pair"):
        batches(open_data(Bare(torch.zeros(4, 2)), "train_data"))


def test_describe_is_stable_and_sees_content(xy):
    x, y = xy
    described = open_data((x, y), "train_data").describe()
    assert described == open_data((x.numpy(), y.numpy()), "train_data").describe()
    assert described["length"] == 21
    assert described["sample"] == ["torch.float64[3]", "torch.int64[]"]
    changed = x.clone()
    changed[-1, 0] += 1
    assert described != open_data((changed, y), "train_data").describe()
    drawn = Slow(x, y, draw=lambda: torch.rand(()))
    assert open_data(drawn, "a").describe() == open_data(drawn, "a").describe()
    own = np.random.default_rng()
    unstable = Slow(x, y, draw=lambda: own.random())
    assert "checksum" not in open_data(unstable, "a").describe()
    assert open_data(unstable, "a").describe() == open_data(unstable, "a").describe()


def test_entering_a_stream_again_goes_on():
    with Stream(4):
        whole = torch.rand(4)
    stream = Stream(4)
    with stream:
        first = torch.rand(2)
    torch.rand(7)
    with stream:
        second = torch.rand(2)
    assert torch.equal(torch.cat([first, second]), whole)
