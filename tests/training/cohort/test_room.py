"""A cohort is cut to the memory that is free, like models together."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from retiarii.optimizer.lift import Model
from retiarii.optimizer.memory import estimate
from retiarii.space import ModelSpace
from retiarii.testing.cohorts import Heard, candidates_trials, check_metrics, parts_of
from retiarii.training.cohort import room
from retiarii.training.cohort.member import Member
from retiarii.training.cohort.ordering import Ordering
from retiarii.training.cohort.room import Room, free_memory
from retiarii.training.cohort.session import train_together
from retiarii.training.cohort.trainer import CohortTrainer
from retiarii.training.events import Finished, Noted
from retiarii.training.loop import EpochTrainer
from retiarii.training.optimizers import SGD, Adam
from retiarii.training.supervised import Supervised

EPOCHS = 2


def candidate(net):
    return ModelSpace(net.double(), torch.zeros(2, 16, dtype=torch.float64)).sample(0)


def wide():
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 3))


def deep():
    layers = [nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.LayerNorm(16)) for _ in range(3)]
    return nn.Sequential(*layers, nn.Linear(16, 3))


@pytest.fixture(scope="module")
def nets():
    """Two families, interleaved."""
    torch.set_num_threads(1)
    return [candidate(make()) for _ in range(3) for make in (wide, deep)]


def evaluator(optimizer=None):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 16, generator=generator, dtype=torch.float64)
    data = x, torch.randint(0, 3, (40,), generator=generator)
    return Supervised(
        data, data, loss=nn.CrossEntropyLoss(), device="cpu", epochs=EPOCHS, batch_size=20,
        optimizer=SGD(lr=0.05, momentum=0.9) if optimizer is None else optimizer,
    )  # fmt: skip


def members(nets, **options):
    made = evaluator(**options)
    given = candidates_trials(nets, Heard())
    parts = parts_of(made, given)
    found = []
    for trial, part in zip(given, parts, strict=True):
        found.append(Member(made.record(trial), part.settings, part.graph, part.module))
    return found


@pytest.fixture
def cohorts(monkeypatch):
    """The seeds of those that train together, once for each epoch."""
    seen = []
    for kind, parts in ((CohortTrainer, lambda t: [p.settings.seed for p in t.parts]),
                        (EpochTrainer, lambda _: [])):  # fmt: skip
        original = kind.advance

        def counted(self, original=original, parts=parts):
            seen.append(parts(self))
            return original(self)

        monkeypatch.setattr(kind, "advance", counted)
    return seen


def memory_for(found, count, states=1.0):
    """Free memory that so many of the members fit, and one more does not."""
    models = [Model.of(m.graph, m.module) for m in found]
    least = estimate(models[:count], batch=20, states=states).peak
    most = estimate(models[: count + 1], batch=20, states=states).peak
    return int((least + most) / 2 / 0.85)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize(("optimizer", "states"), [
    (SGD(lr=0.1), 0), (SGD(lr=0.1, momentum=0.9), 1), (Adam(), 2), (Adam(amsgrad=True), 3),
], ids=str)  # fmt: skip
def test_as_many_as_the_estimate_says(nets, monkeypatch, count, optimizer, states):
    found = members(nets, optimizer=optimizer)
    free = memory_for(found, count, states)
    monkeypatch.setattr(room, "free_memory", lambda _: free)
    assert not Room(found).surely_for(found)
    assert Room(found).number(found)[0] == count


def test_what_surely_fits_is_not_looked_at(nets, monkeypatch):
    found = members(nets)
    exact = estimate([Model.of(m.graph, m.module) for m in found], batch=20, states=1.0).peak
    monkeypatch.setattr(room, "fit", None)
    monkeypatch.setattr(room, "free_memory", lambda _: 100 * exact)
    assert Room(found).surely_for(found)
    assert Room(found).number(found)[0] == 6
    monkeypatch.setattr(room, "free_memory", lambda _: None)
    assert Room(found).number(found)[0] == 6
    # The bound is one.
    monkeypatch.setattr(room, "free_memory", lambda _: exact)
    assert not Room(found).surely_for(found)


def test_free_memory_is_what_the_machine_says(monkeypatch, tmp_path):
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:  900 kB\nMemFree:  10 kB\nMemAvailable:     300 kB\n")
    monkeypatch.setattr(room, "_MEMINFO", file)
    assert free_memory(torch.device("cpu")) == 300 * 1024
    monkeypatch.setattr(room, "_MEMINFO", tmp_path / "none")
    assert free_memory(torch.device("cpu")) is None
    assert free_memory(torch.device("meta")) is None


def test_free_memory_of_a_gpu_includes_what_torch_holds_unused(monkeypatch):
    """Patched, as there is no GPU here."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (700, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 200)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 150)
    assert free_memory(torch.device("cuda")) == 750


def test_like_models_come_together(nets):
    found = members(nets)
    order = Ordering(found).alike_first(found)
    assert [found.index(member) for member in order] == [0, 2, 4, 1, 3, 5]
    # Also of those that are left.
    order = Ordering(found).alike_first(found[3:])
    assert [found.index(member) for member in order] == [3, 5, 4]


def test_two_families_are_cut_into_one_of_each(nets, cohorts, monkeypatch):
    alone = Heard()
    for trial in candidates_trials(nets, alone):
        evaluator().run_alone(trial)
    del cohorts[:]
    found = members(nets)
    free = memory_for([found[i] for i in (0, 2, 4, 1)], 3)
    monkeypatch.setattr(room, "free_memory", lambda _: free)
    heard = Heard()
    evaluator().run(candidates_trials(nets, heard))
    seeds = [member.settings.seed for member in found]
    assert cohorts[:EPOCHS] == [[seeds[i] for i in (0, 2, 4)]] * EPOCHS
    assert [seed for cohort in cohorts[EPOCHS:] for seed in cohort][:3] == seeds[1::2]
    notes = [e for e in heard.events if isinstance(e, Noted) and e.fits is not None]
    assert notes[0].fits == 3
    assert notes[0].text.startswith("3 of 6 trials are trained together")
    for number in range(6):
        ours, theirs = heard.outcome(number), alone.outcome(number)
        assert isinstance(ours, Finished)
        assert isinstance(theirs, Finished)
        check_metrics(dict(ours.metrics), dict(theirs.metrics), 1e-9)


def test_what_did_not_fit_before_is_cut_the_same(nets, cohorts):
    heard, made = Heard(), evaluator()
    train_together(made, candidates_trials(nets, heard), largest=3)
    seeds = [member.settings.seed for member in members(nets)]
    assert cohorts == [seeds[0::2]] * EPOCHS + [seeds[1::2]] * EPOCHS
    assert not [e for e in heard.events if isinstance(e, Noted) and e.fits is not None]


class Last(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.rnn = nn.LSTM(16, 32, num_layers=layers, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0][:, -1]


@pytest.mark.parametrize(("make", "shape"), [
    (wide, (16,)), (deep, (16,)), (lambda: Last(1), (30, 16)), (lambda: Last(3), (30, 16)),
    (lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), (64, 32)),
    (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU()), (3, 16, 16)),
], ids=["wide", "deep", "lstm", "three lstms", "attention", "convolutions"])  # fmt: skip
def test_the_bound_is_one(make, shape, monkeypatch):
    net = ModelSpace(make(), torch.zeros(2, *shape)).sample(0)
    found = members([net, net])
    peak = estimate([Model.of(m.graph, m.module) for m in found], batch=20, states=1.0).peak
    monkeypatch.setattr(room, "free_memory", lambda _: peak / 0.85)
    assert not Room(found).surely_for(found)
    monkeypatch.setattr(room, "free_memory", lambda _: 20 * peak)
    assert Room(found).surely_for(found)
