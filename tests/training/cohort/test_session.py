"""Trials that are given together end as they would have ended one by one."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from retiarii.mutators.choice import choice
from retiarii.optimizer.choose import Choice
from retiarii.space import ModelSpace
from retiarii.testing.cohorts import Heard, candidates_trials, check_metrics, distance
from retiarii.training.checkpoint import WEIGHTS, load_weights
from retiarii.training.cohort.trainer import CohortTrainer
from retiarii.training.events import Failed, Finished, Reported, Started
from retiarii.training.loop import EpochTrainer
from retiarii.training.optimizers import SGD, Adam
from retiarii.training.supervised import Supervised
from retiarii.training.trial import Trial

EPOCHS = 4
EXACT = 1e-9


def images(n=61, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 4, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (n,), generator=generator)


def convnet(channels, layers=1):
    found = []
    for i in range(layers):
        found += [
            nn.Conv2d(channels if i else 1, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*found, nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * channels, 3))


def candidate(net):
    return ModelSpace(net.double(), torch.zeros(2, 1, 4, 4, dtype=torch.float64)).sample(0)


@pytest.fixture(scope="module")
def nets():
    torch.set_num_threads(1)
    return [candidate(convnet(4)), candidate(convnet(4, 2)), candidate(convnet(6)),
            candidate(convnet(4, 3)), candidate(convnet(6, 2))]  # fmt: skip


def evaluator(**options):
    options = {
        "epochs": EPOCHS,
        "batch_size": 9,
        "optimizer": SGD(lr=0.05, momentum=0.9),
        **options,
    }
    return Supervised(
        images(), images(17, seed=1), loss=nn.CrossEntropyLoss(), device="cpu",
        schedule="cosine", **options,
    )  # fmt: skip


def trials(nets, channel, root=None, **hyperparameters):
    made = candidates_trials(nets, channel, **hyperparameters)
    for trial in made:
        trial.directory = None if root is None else root / str(trial.number)
    return made


@pytest.fixture
def epochs(monkeypatch):
    """How many models each trained epoch had, in order."""
    sizes = []
    for kind, size in ((CohortTrainer, lambda t: len(t.parts)), (EpochTrainer, lambda _: 1)):
        original = kind.advance

        def counted(self, original=original, size=size):
            sizes.append(size(self))
            return original(self)

        monkeypatch.setattr(kind, "advance", counted)
    return sizes


def one_by_one(made, nets, root=None, stop_after=(), **hyperparameters):
    heard = Heard(dict(stop_after))
    for trial in trials(nets, heard, root, **hyperparameters):
        made.run_alone(trial)
    return heard


def check_same(ours, theirs, count, roots=None, within=EXACT):
    """The same events, but for rounding and their order among trials; the same files."""
    for number in range(count):
        a, b = ours.outcome(number), theirs.outcome(number)
        assert type(a) is type(b), (a, b)
        if isinstance(a, Failed):
            assert a.message == b.message
            continue
        assert a.stopped == b.stopped
        check_metrics({"score": a.score, **a.metrics}, {"score": b.score, **b.metrics}, within)
        assert len(ours.history(number)) == len(theirs.history(number))
        for left, right in zip(ours.history(number), theirs.history(number), strict=True):
            check_metrics(left, right, within)
        if roots is not None:
            left, right = (load_weights(root / str(number)) for root in roots)
            assert left.keys() == right.keys()
            assert all(distance(left[k], right[k]) <= within for k in left)


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}, {"checkpoint": False}], ids=str)
def test_a_cohort_and_one_by_one(nets, tmp_path, epochs, options):
    made, heard = evaluator(**options), Heard()
    made.run(trials(nets, heard, tmp_path / "together"))
    assert epochs == [5] * EPOCHS
    (note,) = heard.notes
    before, after = map(int, re.fullmatch(r"cohort of 5: (\d+) calls as (\d+)\b.*", note).groups())
    assert after < before
    roots = (tmp_path / "together", tmp_path / "apart")
    check_same(heard, one_by_one(made, nets, roots[1], ()), 5, roots)
    files = {path.name for path in (roots[0] / "0").iterdir()}
    assert files == {path.name for path in (roots[1] / "0").iterdir()}
    assert [type(e) for e in heard.of(1)] == [Started, *[Reported] * EPOCHS, Finished]


def test_without_a_directory(nets, epochs):
    made, heard = evaluator(), Heard()
    made.run(trials(nets, heard))
    assert epochs == [5] * EPOCHS
    check_same(heard, one_by_one(made, nets), 5)


def test_fewer_epochs_and_an_early_stop(nets, tmp_path, epochs):
    """They leave, the others are merged anew, and the last one goes on alone."""
    wanted = [2, 4, 3, 4, 4]
    made = evaluator(epochs=choice([2, 3, 4], "epochs"), optimizer=Adam(lr=0.01))
    heard = Heard({4: 1, 3: 3})
    made.run(trials(nets, heard, tmp_path / "together", epochs=wanted))
    assert epochs == [5, 4, 3, 1]
    roots = (tmp_path / "together", tmp_path / "apart")
    apart = one_by_one(made, nets, roots[1], {4: 1, 3: 3}, epochs=wanted)
    check_same(heard, apart, 5, roots)
    assert [heard.outcome(n).stopped for n in range(5)] == [False, False, False, True, True]


def test_trials_that_see_other_batches_train_apart(nets, epochs):
    sizes = [9, 8, 9, 8, 7]
    made, heard = evaluator(batch_size=choice([7, 8, 9], "batch_size"), epochs=2), Heard()
    made.run(trials(nets, heard, batch_size=sizes))
    assert epochs == [2, 2, 2, 2, 1, 1]
    check_same(heard, one_by_one(made, nets, batch_size=sizes), 5)


def test_an_order_for_each_trial(nets, epochs):
    made, heard = evaluator(shuffle="trial", epochs=1), Heard()
    made.run(trials(nets, heard))
    assert epochs == [1] * 5
    check_same(heard, one_by_one(made, nets), 5)


class Unbuildable:
    def __init__(self, graph):
        self.graph = graph

    def build(self, seed):
        raise ValueError("no such model")


class Graphless:
    """A candidate whose graph is not known."""

    def __init__(self, inner):
        self.build = inner.build


def test_a_model_that_cannot_be_built_fails_alone(nets, epochs):
    made, heard = evaluator(epochs=1), Heard()
    made.run(trials([nets[0], Unbuildable(nets[1].graph), nets[2]], heard))
    assert epochs == [2]
    assert heard.outcome(1).message.startswith("ValueError: no such model")
    assert "test_session.py" in heard.outcome(1).traceback
    check_same(heard, one_by_one(made, [nets[0], Unbuildable(None), nets[2]]), 3)


def test_a_model_without_a_graph_trains_alone(nets, epochs):
    made, heard = evaluator(epochs=1), Heard()
    made.run(trials([nets[0], Graphless(nets[1]), nets[2]], heard))
    assert sorted(epochs) == [1, 2]
    check_same(heard, one_by_one(made, nets[:3]), 3)


def hooked(net):
    found = candidate(net)

    class Hooked:
        graph = found.graph

        def build(self, seed):
            module = found.build(seed)
            next(iter(module.children())).register_forward_hook(lambda _m, _i, out: out * 2)
            return module

    return Hooked()


def test_a_model_with_a_hook_is_what_it_is_alone(nets, epochs):
    made, heard = evaluator(epochs=1), Heard()
    given = [nets[0], hooked(convnet(4)), nets[2]]
    made.run(trials(given, heard))
    assert sorted(epochs) == [1, 2]
    check_same(heard, one_by_one(made, given), 3)


def test_a_model_that_fails_leaves(nets, tmp_path, epochs):
    rates = [0.05, 1e200, 0.02, 0.05, 0.03]
    made, heard = evaluator(optimizer=SGD(lr=choice(rates, "lr"))), Heard()
    made.run(trials(nets, heard, tmp_path / "together", lr=rates))
    assert epochs == [5, 4, 4, 4]
    apart = one_by_one(made, nets, tmp_path / "apart", lr=rates)
    check_same(heard, apart, 5)
    assert heard.outcome(1).message.startswith("the loss became")


# --- going on -------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """Stands for the end of the process."""


class Breaking(Heard):
    """Breaks off when a trial reports an epoch."""

    def send(self, event):
        if isinstance(event, Reported) and (event.number, event.step) == self.at:
            raise Interrupted
        super().send(event)


@pytest.mark.parametrize("at", [(0, 1), (2, 2), (4, 3), (3, 4)])
@pytest.mark.parametrize("how", ["together", "alone"])
def test_cut_off_in_the_middle_of_an_epochs_checkpoints(nets, tmp_path, epochs, at, how):
    """Some trials are an epoch ahead of the others when it goes on."""
    made, cut = evaluator(ema=0.9, accumulate=2), Breaking()
    cut.at = at
    root = tmp_path / "together"
    with pytest.raises(Interrupted):
        made.run(trials(nets, cut, root))
    done = len(epochs)
    heard = Heard()
    if how == "together":
        made.run(trials(nets, heard, root))
        again = Counter(epochs[done:])
        # Nothing is trained twice: those that are behind train one epoch, then all the rest.
        assert sum(size * n for size, n in again.items()) == 5 * (EPOCHS - done) + 4 - at[0]
    else:
        for trial in trials(nets, heard, root):
            made.run_alone(trial)
    apart = one_by_one(made, nets, tmp_path / "apart")
    check_same(heard, apart, 5, (root, tmp_path / "apart"))


def test_trials_cut_off_alone_go_on_in_a_cohort(nets, tmp_path, epochs):
    made, root = evaluator(), tmp_path / "together"
    for number, at in ((0, 1), (1, 3), (3, 4)):
        cut = Breaking()
        cut.at = (number, at)
        with pytest.raises(Interrupted):
            made.run_alone(trials(nets, cut, root)[number])
    made.run_alone(trials(nets, Heard(), root)[2])
    epochs.clear()
    heard = Heard()
    made.run(trials(nets, heard, root))
    # 0 has one epoch, 1 has three, 2 is done, 3 has only to be ended, 4 has none.
    assert epochs == [1, 2, 2, 3]
    check_same(heard, one_by_one(made, nets, tmp_path / "apart"), 5, (root, tmp_path / "apart"))


# --- trouble that is no trial's own ---------------------------------------------------------------


@pytest.fixture
def trouble(monkeypatch):
    """Makes cohorts of more than ``most`` raise after their first epoch in this process."""

    def make(error, most, epoch=1):
        original = CohortTrainer.advance

        def advance(self):
            if len(self.parts) > most and self.epoch >= epoch:
                raise error
            return original(self)

        monkeypatch.setattr(CohortTrainer, "advance", advance)

    return make


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
], ids=["cuda", "cpu"])  # fmt: skip
@pytest.mark.parametrize("kept", [True, False])
def test_out_of_memory_halves_the_cohort(nets, tmp_path, epochs, trouble, error, kept):
    trouble(error, most=2)
    made, heard = evaluator(checkpoint=kept), Heard()
    made.run(trials(nets, heard, tmp_path / "together"))
    # 5 and 3 do not fit; what was trained before stays trained where there are checkpoints.
    assert sum(epochs) == 5 * EPOCHS + (0 if kept else 5 + 3)
    sizes = [note.split("; ")[1] for note in heard.notes if "memory" in note]
    assert sizes == ["going on with 3 at a time", "going on with 2 at a time"]
    roots = (tmp_path / "together", tmp_path / "apart")
    check_same(heard, one_by_one(made, nets, roots[1]), 5, roots)
    # What was found out is remembered.
    later = Heard()
    epochs.clear()
    made.run(trials(nets, later))
    assert max(epochs) == 2
    assert not [note for note in later.notes if "memory" in note]


def test_any_other_trouble_is_said_once_and_loses_no_trial(nets, tmp_path, epochs, trouble):
    trouble(RuntimeError("a mistake in the merged program"), most=1)
    made, heard = evaluator(), Heard()
    made.run(trials(nets, heard, tmp_path / "together"))
    assert epochs == [5] + [1] * (5 * (EPOCHS - 1))
    (note,) = [note for note in heard.notes if "one by one" in note]
    assert note == (
        "a cohort of 5 is trained one by one: RuntimeError: a mistake in the merged program"
    )
    roots = (tmp_path / "together", tmp_path / "apart")
    check_same(heard, one_by_one(made, nets, roots[1]), 5, roots)


def test_a_directory_that_cannot_be_written_fails_its_own_trial(nets, tmp_path, epochs):
    made, heard = evaluator(epochs=2), Heard()
    given = trials(nets[:3], heard, tmp_path)
    (tmp_path / "1").write_text("a file in the place of the directory")
    made.run(given)
    assert isinstance(heard.outcome(1), Failed)
    assert "cannot write" in heard.outcome(1).message
    assert isinstance(heard.outcome(0), Finished)
    assert (tmp_path / "2" / WEIGHTS).is_file()
    assert epochs == [3, 2]


def test_callers_random_numbers_are_left_alone(nets):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    evaluator(epochs=1).run(trials(nets[:2], Heard()))
    assert torch.equal(torch.rand(3), expected)


def test_one_trial_is_no_cohort(nets, epochs):
    heard = Heard()
    evaluator(epochs=1).run(trials(nets[:1], heard))
    evaluator(epochs=1).run([])
    assert (epochs, heard.notes) == ([1], [])
    assert isinstance(heard.outcome(0), Finished)


def test_where_nothing_is_fused_trials_train_one_by_one(nets, tmp_path, epochs, monkeypatch):
    alone, together = Heard(), Heard()
    for i in range(3):
        evaluator().run(trials(nets[:3], alone)[i : i + 1])
    del epochs[:]
    unfused = Choice(False, "nothing is fused: it would not pay")
    monkeypatch.setattr("retiarii.optimizer.compile.choose", lambda *_: unfused)
    evaluator().run(trials(nets[:3], together, tmp_path))
    assert epochs == [1] * 3 * EPOCHS
    (note,) = together.notes
    assert note.endswith("nothing is fused: it would not pay: trained one by one")
    for i in range(3):
        one, other = together.outcome(i), alone.outcome(i)
        assert isinstance(one, Finished)
        assert one.metrics == other.metrics


class Pairs(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


def test_where_nothing_is_fused_a_dataset_is_read_once_all_the_same(nets, epochs, monkeypatch):
    unfused = Choice(False, "nothing is fused: it would not pay")
    monkeypatch.setattr("retiarii.optimizer.compile.choose", lambda *_: unfused)
    heard = Heard()
    x, y = images()
    made = Supervised(
        Pairs(x, y), (x[:9], y[:9]), loss=nn.CrossEntropyLoss(), optimizer=SGD(lr=0.05),
        epochs=1, batch_size=9, device="cpu",
    )  # fmt: skip
    made.run(trials(nets[:3], heard))
    assert epochs == [3]


def test_a_trial_says_which_model_it_lacks():
    heard = Heard()
    evaluator(epochs=1).run([Trial(n, n, channel=heard) for n in range(2)])
    assert "Supervised trains models" in heard.outcome(1).message
