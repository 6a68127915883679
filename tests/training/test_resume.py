"""Training that is cut off and goes on equals training that was never broken, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

import retiarii
from retiarii.training.checkpoint import FINISHED, WEIGHTS, load_weights
from retiarii.training.optimizers import SGD, Adagrad, Adam, AdamW, RMSprop
from retiarii.training.schedules import ReduceOnPlateau
from retiarii.training.supervised import Supervised

EPOCHS = 4


def evaluator(toys, optimizer=None, **options):
    options = {"schedule": "one-cycle", **options}
    return Supervised(
        toys.images(),
        toys.images(19, seed=1),
        loss=nn.CrossEntropyLoss(),
        optimizer=optimizer or AdamW(lr=0.01),
        epochs=EPOCHS,
        batch_size=8,
        device="cpu",
        **options,
    )


def run(toys, directory, made=None, make=None, **log):
    trial, log = toys.trial(make or toys.convnet, directory=directory, log=toys.Log(**log))
    try:
        (made or evaluator(toys)).run([trial])
    except toys.Interrupted:
        assert trial.outcome is None
    return log


def same_weights(a, b):
    a, b = load_weights(a), load_weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Stateful(nn.Module):
    """Tied weights, and a buffer outside of the state_dict that changes in training."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.weight = self.a.weight
        self.head = nn.Linear(16, 3)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.seen += 1
        h = self.b(torch.tanh(self.a(x.flatten(1))))
        return self.head(h * (1 + self.seen / 100))


@pytest.mark.parametrize("broken_at", range(1, EPOCHS + 1))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_interrupted_trial(toys, tmp_path, broken_at, dtype):
    def make():
        return toys.convnet(dtype)

    whole = run(toys, tmp_path / "whole", make=make)
    first = run(toys, tmp_path / "cut", make=make, break_at=broken_at)
    assert [r.step for r in first.reports] == list(range(1, broken_at))
    torch.manual_seed(broken_at)
    second = run(toys, tmp_path / "cut", make=make)
    assert second.reports == whole.reports
    assert second.finished == whole.finished
    assert same_weights(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(lr=0.1),
        SGD(lr=0.1, momentum=0.9),
        Adam(amsgrad=True),
        RMSprop(centered=True),
        Adagrad(lr_decay=0.1),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"amp": "bf16"},
        {"grad_clip": 0.1},
        {"ema": 0.5, "accumulate": 2},
        {"schedule": ReduceOnPlateau(factor=0.5, patience=0, threshold=0.5)},
    ],
    ids=str,
)
def test_every_optimizer_and_a_model_with_state(toys, tmp_path, optimizer, options):
    made = evaluator(toys, optimizer, **options)
    whole = run(toys, tmp_path / "whole", made, Stateful)
    run(toys, tmp_path / "cut", made, Stateful, break_at=2)
    second = run(toys, tmp_path / "cut", made, Stateful)
    assert second.reports == whole.reports
    assert same_weights(tmp_path / "whole", tmp_path / "cut")


def test_epochs_that_are_saved_are_not_trained_again(toys, tmp_path):
    calls = []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = toys.convnet()

        def forward(self, x):
            calls.append(self.training)
            return self.net(x)

    run(toys, tmp_path, make=Counting, break_at=3)
    steps = calls.count(True)
    calls.clear()
    run(toys, tmp_path, make=Counting)
    assert calls.count(True) == steps // 3


def test_a_truncated_newest_checkpoint(toys, tmp_path):
    whole = run(toys, tmp_path / "whole")
    run(toys, tmp_path / "cut", break_at=3)
    newest = tmp_path / "cut" / "checkpoint-00003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    second = run(toys, tmp_path / "cut")
    assert second.reports == whole.reports
    assert same_weights(tmp_path / "whole", tmp_path / "cut")


def test_all_checkpoints_lost_begins_anew(toys, tmp_path):
    whole = run(toys, tmp_path / "whole")
    run(toys, tmp_path / "cut", break_at=3)
    for path in (tmp_path / "cut").iterdir():
        path.write_bytes(b"")
    assert run(toys, tmp_path / "cut").reports == whole.reports


def test_a_finished_trial_answers_at_once(toys, tmp_path):
    whole = run(toys, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [FINISHED, WEIGHTS]

    def never():
        raise AssertionError("trained twice")

    again = run(toys, tmp_path, make=never)
    assert again.reports == whole.reports
    assert again.finished == whole.finished


def test_a_stopped_trial_stays_stopped(toys, tmp_path):
    first = run(toys, tmp_path, stop_at=2)
    again = run(toys, tmp_path)
    assert first.finished.stopped
    assert again.finished == first.finished
    assert [r.step for r in again.reports] == [1, 2]


def test_another_trials_checkpoint_is_not_taken(toys, tmp_path):
    run(toys, tmp_path / "a", break_at=3)
    trial, log = toys.trial(directory=tmp_path / "a", seed=12)
    evaluator(toys).run([trial])
    fresh, other = toys.trial(directory=tmp_path / "b", seed=12)
    evaluator(toys).run([fresh])
    assert log.reports == other.reports


def test_without_checkpoints_only_the_weights_are_kept(toys, tmp_path):
    run(toys, tmp_path, evaluator(toys, checkpoint=False))
    assert [p.name for p in tmp_path.iterdir()] == [WEIGHTS]


def test_a_directory_that_cannot_be_written_fails_the_trial(toys, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    log = run(toys, blocked / "trial")
    assert "cannot write checkpoint-00001.safetensors" in log.failed.message


def test_state_that_no_checkpoint_can_hold(toys, tmp_path):
    class Extra(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = toys.convnet()

        def forward(self, x):
            return self.net(x)

        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, state):
            pass

    log = run(toys, tmp_path, make=Extra)
    assert "holds a dict under '_extra_state'" in log.failed.message
    assert "checkpoint=False" in log.failed.message


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from torch import nn
    from retiarii.training.events import Reported
    from retiarii.training.optimizers import AdamW
    from retiarii.training.supervised import Supervised
    from retiarii.training.trial import Trial

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    data = (torch.randn(40, 6, generator=generator), torch.arange(40) % 3)

    class Candidate:
        decisions = {}
        def build(self, seed):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5),
                                 nn.Linear(8, 3))

    class Channel:
        def send(self, event):
            if isinstance(event, Reported):
                print(event.to_json())
                sys.stdout.flush()
                if event.step == int(sys.argv[2]):
                    os.kill(os.getpid(), signal.SIGKILL)
        def stop_requested(self, number):
            return False

    evaluator = Supervised(data, data, loss=nn.CrossEntropyLoss(), optimizer=AdamW(lr=0.01),
                           epochs=4, batch_size=8, device="cpu")
    evaluator.run([Trial(0, 7, candidate=Candidate(), directory=Path(sys.argv[1]),
                         channel=Channel())])
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_kill_9(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(KILLED))

    def start(directory, kill_at):
        command = [sys.executable, str(script), str(directory), str(kill_at)]
        where = {**os.environ, "PYTHONPATH": str(Path(retiarii.__file__).parents[1])}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=where)

    whole, killed = start(tmp_path / "whole", 0), start(tmp_path / "cut", 2)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    rest = start(tmp_path / "cut", 0)
    assert (whole.returncode, rest.returncode) == (0, 0), whole.stderr + rest.stderr
    assert killed.stdout.splitlines() == whole.stdout.splitlines()[:2]
    assert rest.stdout == whole.stdout
    assert same_weights(tmp_path / "whole", tmp_path / "cut")
