from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from retiarii.errors import EvaluatorError
from retiarii.mutators.choice import choice, loguniform, randint, uniform
from retiarii.training.checkpoint import load_weights
from retiarii.training.optimizers import SGD, Adam, AdamW
from retiarii.training.schedules import Cosine, ReduceOnPlateau, StepDecay
from retiarii.training.supervised import Supervised


def supervised(toys, train=None, val=None, **options):
    options = {
        "loss": nn.CrossEntropyLoss(),
        "optimizer": SGD(lr=0.1, momentum=0.9),
        "epochs": 2,
        "batch_size": 8,
        "device": "cpu",
        **options,
    }
    return Supervised(train or toys.images(), val or toys.images(19, seed=1), **options)


def evaluate(toys, evaluator, make=None, **trial):
    made, log = toys.trial(make or toys.convnet, **trial)
    evaluator.run([made])
    return log


class Slowly(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


# --- what is computed ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_equals_a_plain_loop_of_torch(toys, tmp_path, dtype):
    """Written out by hand: same batches, dropout off, every number equal."""

    def make():
        model = toys.convnet(dtype)
        model[5].p = 0.0
        return model

    x, y = toys.images(36)
    evaluator = supervised(
        toys, (x, y), schedule=Cosine(), grad_clip=0.5, epochs=3, metric="accuracy"
    )
    log = evaluate(toys, evaluator, make, directory=tmp_path)

    from retiarii.seeding import derive

    torch.manual_seed(11)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3 * 5)
    vx, vy = toys.images(19, seed=1)
    for epoch in range(3):
        model.train()
        generator = torch.Generator().manual_seed(derive(5, "order", epoch))
        total = 0.0
        for index in torch.randperm(36, generator=generator).split(8):
            rate = optimizer.param_groups[0]["lr"]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[index].to(dtype)), y[index])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
            total += loss.item() * len(index)
        model.eval()
        with torch.no_grad():
            out = model(vx.to(dtype))
        got = log.reports[epoch].metrics
        assert got["train_loss"] == pytest.approx(total / 36, rel=1e-5)
        assert got["val_loss"] == pytest.approx(F.cross_entropy(out, vy).item(), rel=1e-5)
        assert got["accuracy"] == pytest.approx((out.argmax(1) == vy).double().mean().item())
        assert got["lr"] == pytest.approx(rate)
    exact = {torch.float32: 1e-4, torch.float64: 1e-10}[dtype]
    saved = load_weights(tmp_path)
    for name, value in model.state_dict().items():
        assert saved[name].dtype == value.dtype
        assert torch.allclose(saved[name], value, rtol=exact, atol=exact), name
    assert log.finished.score == log.reports[-1].metrics["accuracy"]
    assert log.finished.metrics == log.reports[-1].metrics


def plain_mlp(dtype=torch.float64):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulated_batches_are_one_large_batch(toys, tmp_path, reduction):
    """Steps, rates and the short rest at the end of an epoch as well."""
    options = {
        "loss": nn.CrossEntropyLoss(reduction=reduction),
        "schedule": Cosine(),
        "grad_clip": 0.3,
        "epochs": 3,
        "optimizer": SGD(lr=0.05, momentum=0.9),
    }
    small = supervised(toys, batch_size=4, accumulate=3, **options)
    large = supervised(toys, batch_size=12, **options)
    logs = [
        evaluate(toys, e, plain_mlp, directory=tmp_path / name)
        for name, e in (("small", small), ("large", large))
    ]
    for a, b in zip(*(log.reports for log in logs), strict=True):
        assert a.metrics["val_loss"] == pytest.approx(b.metrics["val_loss"], rel=1e-10)
        assert a.metrics["lr"] == pytest.approx(b.metrics["lr"], rel=1e-12)
    small, large = (load_weights(tmp_path / name) for name in ("small", "large"))
    assert all(torch.allclose(small[k], large[k], rtol=1e-10) for k in large)
    once = evaluate(toys, supervised(toys, batch_size=4, **options), plain_mlp)
    assert once.reports[-1].metrics["val_loss"] != pytest.approx(
        logs[0].reports[-1].metrics["val_loss"], rel=1e-6
    )


def test_averaged_weights_are_scored_and_stored(toys, tmp_path):
    """Against torch's AveragedModel in a loop by hand; running statistics are the model's own."""

    def make():
        model = toys.convnet(torch.float64)
        model[5].p = 0.0
        return model

    x, y = toys.images(36)
    made = supervised(toys, (x, y), ema=0.8, shuffle=False, metric="loss", epochs=3)
    log = evaluate(toys, made, make, directory=tmp_path)
    torch.manual_seed(11)
    model = make()
    swa = torch.optim.swa_utils
    averaged = swa.AveragedModel(model, multi_avg_fn=swa.get_ema_multi_avg_fn(0.8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    vx, vy = toys.images(19, seed=1)
    for epoch in range(3):
        model.train()
        for xs, ys in zip(x.double().split(8), y.split(8), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(xs), ys).backward()
            optimizer.step()
            averaged.update_parameters(model)
        # AveragedModel copies buffers at its updates.
        averaged.eval()
        with torch.no_grad():
            expected = F.cross_entropy(averaged(vx.double()), vy).item()
        assert log.reports[epoch].metrics["val_loss"] == pytest.approx(expected, rel=1e-9)
    saved = load_weights(tmp_path)
    for name, value in averaged.module.state_dict().items():
        assert torch.allclose(saved[name], value, rtol=1e-9), name
    assert not torch.allclose(saved["6.weight"], model.state_dict()["6.weight"], rtol=1e-3)


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_a_plateau_schedule_follows_the_metric(toys, metric):
    schedule = ReduceOnPlateau(factor=0.5, patience=0, threshold=0.02)
    made = supervised(toys, schedule=schedule, metric=metric, epochs=8)
    reports = evaluate(toys, made).reports
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max" if metric == "accuracy" else "min", 0.5, 0, 0.02
    )
    for report in reports:
        assert report.metrics["lr"] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        theirs.step(report.metrics["accuracy" if metric == "accuracy" else "val_loss"])
    assert len({r.metrics["lr"] for r in reports}) > 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_fast_path_equals_the_data_loaders(toys, tmp_path, dtype):
    x, y = toys.images()
    ways = [
        (x, y),
        Slowly(x, y),
        [(x[i], y[i]) for i in range(len(x))],
        DataLoader(Slowly(x, y), batch_size=8, shuffle=True, num_workers=1),
        DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True),
    ]
    found = []
    for number, way in enumerate(ways):
        directory = tmp_path / str(number)
        log = evaluate(
            toys, supervised(toys, way), lambda: toys.convnet(dtype), directory=directory
        )
        found.append(([r.metrics for r in log.reports], load_weights(directory)))
    for metrics, weights in found[1:]:
        assert metrics == found[0][0]
        assert all(torch.equal(weights[k], v) for k, v in found[0][1].items())


def test_seeds(toys):
    class Seen(nn.Module):
        def __init__(self, log):
            super().__init__()
            self.linear = nn.Linear(16, 3)
            self.log = log

        def forward(self, x):
            if self.training:
                self.log.append((x.sum().item(), torch.rand(()).item()))
            return self.linear(x.flatten(1))

    def run(shuffle="search", **trial):
        log = []
        evaluate(toys, supervised(toys, shuffle=shuffle), lambda: Seen(log), **trial)
        return [a for a, _ in log], [b for _, b in log]

    base = run()
    assert run() == base
    other_trial, other_search = run(seed=12), run(search_seed=6)
    assert other_trial[0] == base[0]
    assert other_trial[1] != base[1]
    assert other_search[0] != base[0]
    assert other_search[1] == base[1]
    own = run("trial")
    assert own[0] != run("trial", seed=12)[0]
    assert own == run("trial", search_seed=6)
    kept = run(False)[0]
    assert kept[:5] == kept[5:]
    assert base[0][:5] != base[0][5:]


def test_the_callers_random_streams_are_untouched(toys, tmp_path):
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    evaluator = supervised(toys, Slowly(*toys.images()))
    evaluator.validate(toys.Space(toys.convnet))
    evaluate(toys, evaluator, directory=tmp_path)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])


@pytest.mark.parametrize("rest", [0, 1, 5])
def test_a_last_smaller_batch_and_batch_norm(toys, rest):
    evaluator = supervised(toys, toys.images(16 + rest))
    assert evaluate(toys, evaluator).finished.metrics["train_loss"] > 0


def test_a_model_that_writes_to_its_input_sees_the_same_data_each_epoch(toys):
    def make():
        return nn.Sequential(nn.ReLU(inplace=True), toys.convnet())

    def clean():
        return nn.Sequential(nn.ReLU(), toys.convnet())

    a, b = (evaluate(toys, supervised(toys, epochs=3), m) for m in (make, clean))
    assert a.finished == b.finished


class Two(nn.Module):
    """Takes two inputs and returns two outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 2)

    def forward(self, left, right):
        return {"labels": self.a(left + right), "numbers": self.b(right)}


class Pair(nn.Module):
    """Takes its inputs as one argument."""

    def __init__(self):
        super().__init__()
        self.two = Two()

    def forward(self, batch):
        left, right = batch.values() if isinstance(batch, dict) else batch
        return self.two(left, right)


@pytest.mark.parametrize("make", [Two, Pair])
@pytest.mark.parametrize("as_dict", [False, True])
def test_many_inputs_and_outputs(toys, make, as_dict):
    left, right = torch.randn(20, 3), torch.randn(20, 3)
    inputs = {"left": left, "right": right} if as_dict else (left, right)
    targets = {"labels": torch.randint(0, 4, (20,)), "numbers": torch.randn(20, 2)}

    def loss(outputs, targets):
        numbers = F.mse_loss(outputs["numbers"], targets["numbers"])
        return F.cross_entropy(outputs["labels"], targets["labels"]) + numbers

    def score(outputs, targets):
        return (outputs["labels"].argmax(1) == targets["labels"]).double().mean()

    evaluator = supervised(
        toys, (inputs, targets), (inputs, targets), loss=loss, metric=score, maximize=True
    )
    assert evaluator.metric == "score"
    evaluator.validate(toys.Space(make))
    log = evaluate(toys, evaluator, make)
    assert 0 <= log.finished.score <= 1
    slow = [
        ((left[i], right[i]) if not as_dict else {"left": left[i], "right": right[i]},
         {k: v[i] for k, v in targets.items()})
        for i in range(20)
    ]  # fmt: skip
    again = supervised(toys, slow, slow, loss=loss, metric=score, maximize=True)
    assert evaluate(toys, again, make).finished == log.finished


@pytest.mark.parametrize("metric", ["loss", "mae", "mse"])
def test_regression(toys, metric):
    x = np.random.default_rng(0).normal(size=(40, 3))
    y = x @ np.array([[1.0], [2.0], [-1.0]])
    evaluator = supervised(
        toys, (x, y), (x, y), loss=nn.MSELoss(), metric=metric, epochs=30, optimizer=Adam(lr=0.1)
    )
    assert not evaluator.maximize
    evaluator.validate(toys.Space(lambda: nn.Linear(3, 1)))
    log = evaluate(toys, evaluator, lambda: nn.Linear(3, 1))
    assert log.finished.score < 0.1
    assert log.finished.metrics[metric] == log.finished.score


def test_bf16(toys):
    log = evaluate(toys, supervised(toys, amp="bf16"))
    plain = evaluate(toys, supervised(toys))
    assert log.finished.metrics["val_loss"] == pytest.approx(
        plain.finished.metrics["val_loss"], rel=0.1
    )
    assert log.finished.metrics["val_loss"] != plain.finished.metrics["val_loss"]


def test_a_summed_loss_is_reported_by_sample(toys):
    mean = evaluate(toys, supervised(toys, optimizer=SGD(lr=1e-12)))
    summed = supervised(toys, loss=nn.CrossEntropyLoss(reduction="sum"), optimizer=SGD(lr=1e-12))
    assert evaluate(toys, summed).finished.metrics["val_loss"] == pytest.approx(
        mean.finished.metrics["val_loss"], rel=1e-6
    )


def test_frozen_parameters_stay(toys, tmp_path):
    def make():
        model = toys.convnet()
        model[0].requires_grad_(False)
        return model

    evaluate(toys, supervised(toys), make, directory=tmp_path)
    torch.manual_seed(11)
    before = toys.convnet()
    saved = load_weights(tmp_path)
    assert torch.equal(saved["0.weight"], before[0].weight)
    assert not torch.equal(saved["6.weight"], before[6].weight)


# --- hyper-parameters ---------------------------------------------------------------------------


def test_hyperparameters_and_their_use(toys):
    evaluator = supervised(
        toys,
        optimizer=AdamW(lr=loguniform(1e-4, 1e-1), betas=(uniform(0.8, 0.9), 0.99)),
        schedule=StepDecay(every=1, gamma=uniform(0.1, 1)),
        batch_size=choice([4, 8], label="size"),
        epochs=randint(1, 3),
        grad_clip=choice([None, 1.0]),
        accumulate=choice([1, 2]),
        ema=choice([None, 0.9]),
    )
    labels = ["lr", "betas.0", "schedule.gamma", "size", "epochs", "grad_clip"]
    labels += ["accumulate", "ema"]
    assert sorted(evaluator.hyperparameters()) == sorted(labels)
    values = {"lr": 0.01, "betas.0": 0.85, "schedule.gamma": 0.5, "size": 4, "epochs": 3}
    trial, log = toys.trial()
    trial.hyperparameters = {**values, "grad_clip": None, "accumulate": 2, "ema": 0.9}
    settings = evaluator.settings(trial)
    assert settings.optimizer == AdamW(lr=0.01, betas=(0.85, 0.99))
    assert (settings.batch_size, settings.epochs, settings.grad_clip) == (4, 3, None)
    assert (settings.accumulate, settings.ema) == (2, 0.9)
    evaluator.run([trial])
    assert [r.metrics["lr"] for r in log.reports] == pytest.approx([0.01, 0.005, 0.0025])


def test_an_optimizer_may_be_a_choice(toys):
    evaluator = supervised(
        toys, optimizer=choice([SGD(lr=0.1), Adam()]), schedule=choice([None, "cosine"])
    )
    assert sorted(evaluator.hyperparameters()) == ["optimizer", "schedule"]
    trial, _ = toys.trial(optimizer=Adam(), schedule="cosine")
    assert evaluator.settings(trial).optimizer == Adam()
    assert evaluator.settings(trial).schedule == Cosine()
    with pytest.raises(EvaluatorError, match="an option that holds choices itself"):
        supervised(toys, optimizer=choice([SGD(lr=loguniform(0.1, 1)), Adam()]))


def test_one_label_for_two_choices_is_refused(toys):
    with pytest.raises(EvaluatorError, match="label 'lr' names two different choices"):
        supervised(toys, optimizer=SGD(lr=uniform(0.1, 1)), epochs=choice([1, 2], label="lr"))


def test_a_missing_hyperparameter_fails_the_trial(toys):
    evaluator = supervised(toys, optimizer=SGD(lr=uniform(0.1, 1)))
    assert "hyper-parameter 'lr'" in evaluate(toys, evaluator).failed.message


# --- failures of one trial ----------------------------------------------------------------------


def test_a_loss_that_becomes_nan_fails_only_its_trial(toys):
    evaluator = supervised(toys, optimizer=SGD(lr=choice([0.1, 1e30])), epochs=2)
    trials = [toys.trial(number=i, lr=lr) for i, lr in enumerate([0.1, 1e30, 0.1])]
    evaluator.run([t for t, _ in trials])
    message = trials[1][1].failed.message
    assert "the loss became" in message
    assert "epoch 1, step" in message
    assert "fix: lower the learning rate" in message
    assert trials[0][1].finished.score == trials[2][1].finished.score


def test_weights_that_become_nan_in_the_last_step_are_found(toys):
    evaluator = supervised(toys, optimizer=SGD(lr=1e38), batch_size=64, epochs=1)
    message = evaluate(toys, evaluator, lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    assert "after epoch 1" in message.failed.message


def raising(what):
    def fail(outputs, targets):
        raise ZeroDivisionError(what)

    return fail


@pytest.mark.parametrize(
    "options",
    [{"loss": raising("mine")}, {"metric": raising("mine"), "maximize": True}],
    ids=["loss", "metric"],
)
def test_an_exception_in_a_users_code_keeps_its_traceback(toys, options):
    log = evaluate(toys, supervised(toys, **options))
    cause, place = log.failed.message.splitlines()
    assert cause == "ZeroDivisionError: mine"
    assert place.startswith(f"  at: {__file__}:")
    assert "in fail" in log.failed.traceback


def test_a_model_without_parameters(toys):
    log = evaluate(toys, supervised(toys), lambda: nn.Flatten())
    assert "no parameter to train" in log.failed.message


def test_a_loss_without_a_gradient(toys):
    log = evaluate(toys, supervised(toys, loss=lambda o, t: F.cross_entropy(o.detach(), t)))
    assert "does not depend on the model's parameters" in log.failed.message


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("where", ["train_data", "val_data"])
def test_labels_out_of_range_name_label_and_classes(toys, slow, where):
    x, y = toys.images(30)
    y[29] = 3
    data = Slowly(x, y) if slow else (x, y)
    evaluator = supervised(toys, **{where.removesuffix("_data"): data})
    message = evaluate(toys, evaluator).failed.message
    assert "label 3 is out of range: the model has 3 outputs" in message
    assert where in message
    if not slow:
        with pytest.raises(EvaluatorError, match="label 3 is out of range"):
            evaluator.validate(toys.Space(toys.convnet))


def test_a_trial_without_a_model(toys):
    trial, log = toys.trial(None)
    supervised(toys).run([trial])
    assert "this space has none" in log.failed.message


def test_a_model_that_cannot_be_built_fails_alone(toys):
    def broken():
        raise RuntimeError("no such layer")

    bad, good = toys.trial(broken), toys.trial()
    supervised(toys).run([bad[0], good[0]])
    assert bad[1].failed.message.startswith("RuntimeError: no such layer\n  at: ")
    assert good[1].finished


# --- mistakes found at once ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "cause", "place"),
    [
        ({"loss": nn.CrossEntropyLoss}, "class CrossEntropyLoss", "loss"),
        ({"optimizer": SGD}, "class SGD", "optimizer"),
        ({"optimizer": torch.optim.SGD}, "torch.optim", "optimizer"),
        ({"optimizer": "sgd"}, "'sgd'", "optimizer"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.ones(1))])}, "of torch", "optimizer"),
        ({"epochs": 0}, "epochs is 0", "epochs"),
        ({"epochs": 2.5}, "epochs is 2.5", "epochs"),
        ({"epochs": randint(0, 3)}, "which can become 0", "epochs"),
        ({"batch_size": -1}, "batch_size is -1", "batch_size"),
        ({"batch_size": choice([0, 8])}, "which can become 0", "batch_size"),
        ({"batch_size": uniform(1, 8)}, "which can become 1.0", "batch_size"),
        ({"grad_clip": 0}, "grad_clip is 0", "grad_clip"),
        ({"accumulate": 0}, "accumulate is 0", "accumulate"),
        ({"accumulate": choice([1, 0.5])}, "which can become 0.5", "accumulate"),
        ({"ema": 1.0}, "ema is 1.0", "ema"),
        ({"ema": True}, "ema is True", "ema"),
        ({"metric": "acuracy"}, "no metric 'acuracy'", "metric"),
        ({"schedule": "cosin"}, "no schedule 'cosin'", "schedule"),
        ({"device": "gpu"}, "no device 'gpu'", "device"),
        ({"device": 3.5}, "no device", "device"),
        ({"amp": "float16"}, "amp is 'float16'", "amp"),
        ({"shuffle": "serach"}, "shuffle is 'serach'", "shuffle"),
        ({"shuffle": True}, "shuffle is True", "shuffle"),
        ({"train": (torch.zeros(0, 2), torch.zeros(0))}, "train_data is empty", "train_data"),
        ({"val": [1, 2]}, "a sample of val_data is a int", "val_data"),
    ],
)
def test_arguments_that_cannot_work(toys, options, cause, place):
    with pytest.raises(EvaluatorError) as caught:
        supervised(toys, **options)
    assert cause in caught.value.cause
    assert f"({place}=" in str(caught.value.where)
    assert caught.value.fix


def test_a_batch_size_to_choose_and_a_loader(toys):
    loader = DataLoader(TensorDataset(*toys.images()), batch_size=4)
    with pytest.raises(EvaluatorError, match="a DataLoader with a batch size"):
        supervised(toys, loader, batch_size=choice([4, 8]))


def test_devices_that_are_not_there(toys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for options in ({"device": "cuda"}, {"device": "cuda:1"}, {"amp": "fp16"}):
        evaluator = supervised(toys, **options)
        with pytest.raises(EvaluatorError) as caught:
            evaluator.validate(None)
        assert caught.value.fix
        assert evaluate(toys, evaluator).failed.message == str(caught.value)
    assert supervised(toys, device=None).settings(toys.trial()[0]).device.type == "cpu"


@pytest.mark.parametrize(
    ("make", "options", "cause"),
    [
        (lambda: nn.Linear(5, 3), {}, "the model cannot run on a batch of train_data"),
        (None, {"val": (torch.zeros(4, 2, 4, 4), torch.zeros(4))}, "on a batch of val_data"),
        (None, {"loss": nn.MSELoss(), "metric": "mse"}, "needs them equal"),
        (None, {"loss": raising("mine")}, "ZeroDivisionError: mine"),
        (None, {"loss": lambda o, t: F.cross_entropy(o, t).item()}, "not a tensor"),
        (None, {"metric": "mse"}, "mse cannot compare"),
    ],
)
def test_validate_finds_what_no_model_can_do(toys, make, options, cause):
    evaluator = supervised(toys, **options)
    with pytest.raises(EvaluatorError) as caught:
        evaluator.validate(toys.Space(make or toys.convnet))
    assert cause in caught.value.cause
    assert caught.value.fix


def test_validate_passes_what_is_fine_and_leaves_single_models_alone(toys):
    supervised(toys).validate(toys.Space(toys.convnet))
    makes = iter([lambda: nn.Linear(5, 3), toys.convnet])
    supervised(toys).validate(toys.Space(lambda: next(makes)()))


def test_validate_a_space_without_models(toys):
    class Nothing:
        model = None

    with pytest.raises(EvaluatorError, match="this space has none"):
        supervised(toys).validate(Nothing())


def test_early_stopping(toys, tmp_path):
    log = evaluate(toys, supervised(toys, epochs=5), log=toys.Log(stop_at=2), directory=tmp_path)
    assert [r.step for r in log.reports] == [1, 2]
    assert log.finished.stopped
    assert log.finished.metrics == log.reports[-1].metrics
    assert load_weights(tmp_path)


# --- identity -----------------------------------------------------------------------------------


def test_describe_is_json_that_tells_evaluators_apart(toys):
    x, y = toys.images()
    changed = x.clone()
    changed[0] += 1
    kinds = [
        supervised(toys),
        supervised(toys, (changed, y)),
        supervised(toys, toys.images(36)),
        supervised(toys, loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
        supervised(toys, optimizer=SGD(lr=0.2, momentum=0.9)),
        supervised(toys, optimizer=SGD(lr=loguniform(0.1, 1), momentum=0.9)),
        supervised(toys, optimizer=SGD(lr=loguniform(0.1, 2), momentum=0.9)),
        supervised(toys, schedule="cosine"),
        supervised(toys, batch_size=4),
        supervised(toys, epochs=3),
        supervised(toys, metric="loss"),
        supervised(toys, shuffle="trial"),
        supervised(toys, amp="bf16"),
        supervised(toys, grad_clip=1.0),
        supervised(toys, accumulate=2),
        supervised(toys, ema=0.9),
    ]
    texts = [json.dumps(k.describe(), sort_keys=True) for k in kinds]
    assert len(set(texts)) == len(texts)
    assert texts[0] == json.dumps(supervised(toys).describe(), sort_keys=True)
    assert texts[0] == json.dumps(supervised(toys, (x.numpy(), y)).describe(), sort_keys=True)
    assert " at 0x" not in "".join(texts)
    assert not math.isnan(len(texts))
