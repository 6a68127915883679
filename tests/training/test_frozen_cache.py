"""What frozen layers return is computed once and kept; no result is another for it."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate

from retiarii.errors import EvaluatorError
from retiarii.optimizer.prefix import FrozenPrefix
from retiarii.space import ModelSpace
from retiarii.testing.cohorts import Heard, candidates_trials, check_metrics
from retiarii.training.checkpoint import load_weights
from retiarii.training.frozen_store import FrozenStore
from retiarii.training.optimizers import SGD
from retiarii.training.supervised import Supervised

WIDTHS = (4, 6, 4)


def images(n: int = 45, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (n,), generator=generator)


class Net(nn.Module):
    """A frozen backbone under a head that trains."""

    def __init__(self, width: int, centred: bool = False) -> None:
        super().__init__()
        self.centred = centred
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        ).requires_grad_(False)
        self.head = nn.Sequential(
            nn.Linear(24, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(width, 3),
        )  # fmt: skip

        self.look = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())

    def forward(self, x):
        h = self.backbone(x)
        if self.centred:
            h = torch.sin(h - h.mean(0, keepdim=True)) @ torch.eye(24, dtype=h.dtype)
        return self.head(h) + self.look(x)  # the rest reads the image as well


class Samples(Dataset):
    """A data set that is asked for one sample at a time; it may draw at random."""

    def __init__(self, data, noise: float = 0.0) -> None:
        self.data = data
        self.noise = noise

    def __len__(self) -> int:
        return len(self.data[0])

    def __getitem__(self, index):
        x, y = (part[index] for part in self.data)
        if self.noise:
            x = x + self.noise * torch.randn(x.shape, dtype=x.dtype)
        return x, y


def candidates(centred: bool = False):
    found = []
    for width in WIDTHS:
        torch.manual_seed(0)  # the same backbone
        net = Net(width, centred).double()
        example = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
        found.append(ModelSpace(net, example, weights="inherit").sample(0))
    return found


def evaluator(cache, train=None, val=None, **options) -> Supervised:
    options = {"epochs": 4, "batch_size": 7, **options}
    return Supervised(
        images() if train is None else train, images(20, 1) if val is None else val,
        loss=nn.CrossEntropyLoss(), optimizer=SGD(lr=0.05, momentum=0.9), device="cpu",
        cache_frozen=cache, **options,
    )  # fmt: skip


def search(made: Supervised, place: Path, models=None, together: bool = True) -> Heard:
    """Trains a trial of each model, in a search's directory."""
    torch.set_num_threads(1)
    heard = Heard()
    trials = candidates_trials(models or candidates(), heard)
    for trial in trials:
        trial.directory = place / "trials" / str(trial.number)
    for cohort in [trials] if together else [[trial] for trial in trials]:
        made.run(cohort)
    return heard


def check_same(ours: Path, theirs: Path, one: Heard, other: Heard) -> None:
    for number in range(len(WIDTHS)):
        a, b = one.history(number), other.history(number)
        assert len(a) == len(b) > 0
        for metrics, expected in zip(a, b, strict=True):
            check_metrics(metrics, expected, 1e-9)
        state = load_weights(ours / "trials" / str(number))
        for name, expected in load_weights(theirs / "trials" / str(number)).items():
            assert torch.allclose(state[name], expected, rtol=1e-9, atol=1e-12), name


def kept(place: Path) -> list[Path]:
    return sorted((place / "frozen").glob("*.safetensors"))


@pytest.fixture
def heads(monkeypatch):
    """Counts the samples that go through a frozen part."""
    count = {"samples": 0}
    head = FrozenPrefix.head

    def counting(self, inputs):
        count["samples"] += len(inputs[0])
        return head(self, inputs)

    monkeypatch.setattr(FrozenPrefix, "head", counting)
    return count


# --- the same results -----------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False], ids=["cohort", "alone"])
@pytest.mark.parametrize(
    "wrap",
    [lambda d: d, Samples, lambda d: DataLoader(Samples(d), batch_size=6, shuffle=True)],
    ids=["arrays", "dataset", "loader"],
)
def test_results_are_those_without_it(tmp_path, heads, together, wrap):
    sources = {"train": wrap(images()), "val": wrap(images(20, 1))}
    one = search(evaluator(True, **sources), tmp_path / "kept", together=together)
    # Once over all samples, and a batch to look at: not once an epoch, nor once a model.
    assert 65 <= heads["samples"] <= 65 + 4 * 7
    assert kept(tmp_path / "kept")
    other = search(evaluator(False, **sources), tmp_path / "plain", together=together)
    assert not kept(tmp_path / "plain")
    check_same(tmp_path / "kept", tmp_path / "plain", one, other)


def test_it_is_no_part_of_what_a_search_is():
    assert evaluator(True).describe() == evaluator(False).describe()


def test_average_schedule_and_accumulation(tmp_path):
    options = {"ema": 0.9, "accumulate": 2, "grad_clip": 1.0, "schedule": "cosine"}
    one = search(evaluator(True, **options), tmp_path / "kept", together=False)
    other = search(evaluator(False, **options), tmp_path / "plain", together=False)
    check_same(tmp_path / "kept", tmp_path / "plain", one, other)


def test_mixed_precision(tmp_path):
    one = search(evaluator(True, amp="bf16", epochs=2), tmp_path / "kept")
    other = search(evaluator(False, amp="bf16", epochs=2), tmp_path / "plain")
    for number in range(len(WIDTHS)):
        for a, b in zip(one.history(number), other.history(number), strict=True):
            check_metrics(a, b, 1e-2)
    assert kept(tmp_path / "kept")


def test_without_a_directory_nothing_is_left(tmp_path, monkeypatch, heads):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    made = evaluator(True, epochs=2)
    for _ in range(2):
        heard = Heard()
        made.run(candidates_trials(candidates(), heard))
        assert len(heard.history(0)) == 2
    assert heads["samples"] <= 65 + 4 * 7
    assert list(tmp_path.iterdir())
    del made
    assert not list(tmp_path.iterdir())


# --- once in the whole search ---------------------------------------------------------------------


def test_other_cohorts_and_resumed_searches_find_it(tmp_path, heads):
    search(evaluator(True), tmp_path)
    files = {path: path.stat().st_mtime_ns for path in kept(tmp_path)}
    heads["samples"] = 0
    made = pickle.loads(pickle.dumps(evaluator(True)))  # another process's
    for number in range(len(WIDTHS)):
        for path in (tmp_path / "trials" / str(number)).iterdir():
            path.unlink()
    heard = search(made, tmp_path)
    assert heads["samples"] == 0
    assert {path: path.stat().st_mtime_ns for path in kept(tmp_path)} == files
    assert len(heard.history(2)) == 4


def test_a_search_that_was_cut_off_goes_on(tmp_path):
    class CutOff(BaseException):
        pass

    class Breaking(Heard):
        def send(self, event):
            super().send(event)
            if len(self.history(0)) == 2:
                raise CutOff

    first = Breaking()
    (trial, *_) = candidates_trials(candidates(), first)
    trial.directory = tmp_path / "kept" / "trials" / "0"
    with pytest.raises(CutOff):
        evaluator(True).run([trial])
    one = search(evaluator(True), tmp_path / "kept")
    other = search(evaluator(False), tmp_path / "plain")
    check_same(tmp_path / "kept", tmp_path / "plain", one, other)


def test_other_weights_and_other_data_are_other_files(tmp_path, heads):
    search(evaluator(True, epochs=1), tmp_path)
    before = heads["samples"]
    models = candidates()
    for model in models:
        torch.manual_seed(1)
        model.graph.context.weights["backbone.0.weight"].data.add_(1e-6)
    search(evaluator(True, epochs=1), tmp_path, models)
    assert heads["samples"] == before  # finished trials are not trained again
    again = tmp_path / "again"
    (again / "frozen").parent.mkdir()
    (tmp_path / "frozen").rename(again / "frozen")
    search(evaluator(True, epochs=1), again, models)
    assert len(kept(again)) == 4
    x, y = images()
    x[-1, 0, 0, 0] += 1e-6
    search(evaluator(True, (x, y), epochs=1), tmp_path / "data")
    assert {p.name for p in kept(tmp_path / "data")} - {p.name for p in kept(again)}


def _work(place: str, number: int, barrier) -> None:
    barrier.wait(60)
    heard = search(evaluator(True, epochs=2), Path(place) / f"{number}")
    assert len(heard.history(0)) == 2


def test_two_processes_at_once(tmp_path):
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "frozen").symlink_to(tmp_path / "frozen")
    (tmp_path / "frozen").mkdir()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    workers = [context.Process(target=_work, args=(str(tmp_path), n, barrier)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    store = FrozenStore(tmp_path / "frozen", 1 << 30)
    assert len(kept(tmp_path)) == 2
    assert all(store.open(path.stem) is not None for path in kept(tmp_path))
    assert not list((tmp_path / "frozen").glob("*.partial"))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_file_is_made_anew(tmp_path, heads, damage):
    search(evaluator(True, epochs=1), tmp_path / "a")
    heads["samples"] = 0
    path = kept(tmp_path / "a")[0]
    whole = path.read_bytes()
    broken = {"flip": whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:], "cut": whole[:-8]}
    path.write_bytes(broken.get(damage, b""))
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "frozen").rename(tmp_path / "b" / "frozen")
    search(evaluator(True, epochs=1), tmp_path / "b")
    assert heads["samples"] > 0
    assert kept(tmp_path / "b")[0].read_bytes() == whole


# --- where nothing is kept ------------------------------------------------------------------------


def refused(place: Path, reason: str, made: Supervised, models=None) -> Heard:
    """Nothing of the training data is kept, and it is said once."""
    heard = search(made, place, models)
    notes = [n for n in heard.notes if n.startswith("cache_frozen") and "train_data" in n]
    assert len(notes) == 1
    assert reason in notes[0]
    assert len(heard.history(0)) == 4
    return heard


def test_over_the_bound(tmp_path):
    heard = refused(tmp_path, "the bound is", evaluator(45 * 24 * 8 - 1))
    # The validation data fits.
    assert not [n for n in heard.notes if "val_data" in n]
    assert sum(p.stat().st_size for p in kept(tmp_path)) <= 45 * 24 * 8 - 1


@pytest.mark.parametrize("given", [0, -1, 1.5, "yes", None])
def test_a_bound_that_is_none(given):
    with pytest.raises(EvaluatorError, match="cache_frozen"):
        evaluator(given)


def test_random_augmentation(tmp_path):
    data = Samples(images(), noise=1e-6)
    one_of = evaluator(True, data)
    one = refused(tmp_path / "kept", "not the same when they are read twice", one_of)
    other = search(evaluator(False, data), tmp_path / "plain")
    check_same(tmp_path / "kept", tmp_path / "plain", one, other)


def _mixing(samples):
    x, y = default_collate(samples)
    return x + x.mean(0, keepdim=True), y


def _ordered(samples):
    x, y = default_collate(samples)
    return x + torch.arange(len(x), dtype=x.dtype).view(-1, 1, 1, 1), y


@pytest.mark.parametrize(
    ("collate", "reason"),
    [(_mixing, "depend on the batch"), (_ordered, "depend on")],
    ids=["mixing", "ordered"],
)
def test_a_collate_function_that_mixes_samples(tmp_path, collate, reason):
    data = DataLoader(Samples(images()), batch_size=7, collate_fn=collate)
    refused(tmp_path, reason, evaluator(True, data))


def _scaled(samples):
    x, y = default_collate(samples)
    return 2 * x, y


def test_a_collate_function_that_does_not(tmp_path, heads):
    data = DataLoader(Samples(images()), batch_size=7, collate_fn=_scaled)
    one = search(evaluator(True, data), tmp_path / "kept")
    assert heads["samples"] <= 65 + 4 * 7
    other = search(evaluator(False, data), tmp_path / "plain")
    check_same(tmp_path / "kept", tmp_path / "plain", one, other)


def test_a_layer_that_mixes_samples(tmp_path):
    """By its types it has a row for each sample; on real data it shows what it does."""
    models = candidates(centred=True)
    one = refused(tmp_path / "kept", "depends on the batch that it is in", evaluator(True), models)
    other = search(evaluator(False), tmp_path / "plain", models)
    check_same(tmp_path / "kept", tmp_path / "plain", one, other)


def test_nothing_is_frozen(tmp_path):
    torch.manual_seed(0)
    net = Net(4).double().requires_grad_(True)
    space = ModelSpace(net, torch.zeros(2, 1, 8, 8, dtype=torch.float64))
    refused(tmp_path, "nothing but trained layers", evaluator(True), [space.sample(0)] * 3)
    assert not kept(tmp_path)
