"""A cohort trains each model as it would be trained alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from retiarii.errors import EvaluatorError, TrialError
from retiarii.mutators.choice import choice
from retiarii.space import ModelSpace
from retiarii.testing.cohorts import (
    candidates_trials,
    check_cohort,
    check_metrics,
    check_state,
    parts_of,
)
from retiarii.training.cohort.part import Part
from retiarii.training.cohort.trainer import CohortTrainer
from retiarii.training.optimizers import SGD, Adagrad, Adam, AdamW, RMSprop
from retiarii.training.readers import Batch
from retiarii.training.schedules import Constant, Cosine, OneCycle, ReduceOnPlateau, StepDecay
from retiarii.training.supervised import Supervised

CLASSES = 3


def images(n=61, seed=0, classes=CLASSES):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 4, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, classes, (n,), generator=generator)


# No bias in front of a BatchNorm: its gradient is rounding noise, which Adam makes steps of.


def convnet(channels, depth, classes=CLASSES):
    layers = []
    for i in range(depth):
        before = channels if i else 1
        layers += [
            nn.Conv2d(before, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
    head = [
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(4 * channels, classes),
    ]
    return nn.Sequential(*layers, *head)


def perceptron(width, classes=CLASSES):
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(16, width),
        nn.LayerNorm(width),
        nn.GELU(),
        nn.Dropout(0.2),
        nn.Linear(width, classes),
    )


class Transformer(nn.Module):
    def __init__(self, width, heads, layers):
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 2 * width, dropout=0.1, batch_first=True, bias=False
            )
            for _ in range(layers)
        )
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        h = self.embed(x.flatten(1, 2))
        for layer in self.layers:
            h = layer(h)
        return self.head(h.mean(1))


def candidate(net, seed=0):
    torch.manual_seed(seed)
    example = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    return ModelSpace(net.double(), example).sample(0)


@pytest.fixture(scope="module")
def mixture():
    torch.set_num_threads(1)
    nets = [
        convnet(4, 1),
        convnet(4, 3),
        perceptron(8),
        Transformer(8, 2, 1),
        convnet(6, 2),
        convnet(4, 3),
        perceptron(12),
        Transformer(8, 2, 2),
    ]
    return [candidate(net) for net in nets]


def evaluator(loss=None, epochs=6, **options):
    options = {"batch_size": 7, "optimizer": SGD(lr=0.05, momentum=0.9), **options}
    return Supervised(
        images(), images(23, seed=1), loss=loss or nn.CrossEntropyLoss(), epochs=epochs,
        device="cpu", **options,
    )  # fmt: skip


OPTIMIZERS = [
    SGD(lr=0.05, momentum=0.9),
    SGD(lr=0.1, weight_decay=1e-2),
    Adam(lr=0.01),
    AdamW(lr=0.003, betas=(0.8, 0.99)),
    RMSprop(lr=0.002, momentum=0.5),
    SGD(lr=0.02, momentum=0.5, nesterov=True, weight_decay=1e-3),
    Adagrad(lr=0.02),
    Adam(lr=0.002, amsgrad=True, weight_decay=1e-2),
]


def test_everything_may_differ(mixture):
    """54 steps of every optimizer, schedule, clipping, average and accumulation at once."""
    choices = {
        "optimizer": OPTIMIZERS,
        "schedule": [Constant(), Cosine(), OneCycle(), StepDecay(every=2), ReduceOnPlateau()],
        "grad_clip": [None, 0.5, 2.0],
        "ema": [None, 0.9, None],
        "accumulate": [1, 2, 1, 3],
    }
    made = evaluator(**{name: choice(options, name) for name, options in choices.items()})
    cohort = check_cohort(made, candidates_trials(mixture, **choices))
    assert cohort.stats.fused > 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_one_optimizer_for_all(mixture, optimizer):
    check_cohort(evaluator(optimizer=optimizer, schedule="cosine"), candidates_trials(mixture[:5]))


def test_equal_models_with_different_rates(mixture):
    rates = [0.3, 0.1, 0.03, 0.01]
    made = evaluator(optimizer=SGD(lr=choice(rates, "lr"), momentum=0.9), grad_clip=1.0)
    check_cohort(made, candidates_trials([mixture[1]] * 4, lr=rates))


def test_the_rate_falls_on_a_plateau_of_each(mixture):
    made = evaluator(schedule=ReduceOnPlateau(factor=0.5, patience=0, threshold=0.05), epochs=8)
    cohort = check_cohort(made, candidates_trials(mixture[:5]))
    multipliers = {cohort.meta(i)["schedule"]["multiplier"] for i in range(5)}
    assert len(multipliers) > 1


def test_a_loop_of_ones_own(mixture):
    """Steps on batches that somebody else makes; evaluation in between does not matter."""
    made, trials = evaluator(optimizer=SGD(lr=0.1, momentum=0.5)), candidates_trials(mixture[:3])
    parts = parts_of(made, trials)
    alone = [copy.deepcopy(part.module) for part in parts]
    cohort = CohortTrainer(parts, made.task)
    cohort.merged.seed([7, 8, 9])
    x, y = images()
    losses = []
    for start in (0, 20, 40):
        cohort.merged.eval()
        batch = Batch(x[start : start + 20], y[start : start + 20], 20, None)
        losses.append(cohort.train_step(batch))
    for index, model in enumerate(alone):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
        torch.manual_seed(7 + index)
        for step, start in enumerate((0, 20, 40)):
            optimizer.zero_grad()
            outputs = model.train()(x[start : start + 20])
            loss = nn.functional.cross_entropy(outputs, y[start : start + 20])
            loss.backward()
            optimizer.step()
            torch.testing.assert_close(losses[step][index], loss.detach(), rtol=1e-9, atol=0)
        for name, value in model.state_dict().items():
            ours = cohort.tensors(index)[f"model.{name}"]
            torch.testing.assert_close(ours, value, rtol=1e-9, atol=1e-12)
        assert cohort.meta(index)["step"] == 3


def test_a_model_that_fails_in_a_loop_of_ones_own(mixture):
    made, trials = evaluator(), candidates_trials(mixture[:3])
    cohort = CohortTrainer(parts_of(made, trials), made.task)
    x, y = images()
    with torch.no_grad():
        cohort.merged.tensor_of(1, "0.weight").fill_(math.nan)
    losses = cohort.train_step(Batch(x[:9], y[:9], 9, None))
    assert torch.isfinite(losses).tolist() == [True, False, True]
    assert list(cohort.failed) == [1]
    assert cohort.train_step(Batch(x[:9], y[:9], 9, None))[1] == 0


def own_loss(outputs, targets):
    noise = torch.rand(len(outputs), 1, dtype=outputs.dtype)
    return nn.functional.cross_entropy(outputs * (1 + noise), targets)


class Counting(nn.Module):
    """A loss with a state: each trial has its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, outputs, targets):
        self.seen += 1
        return nn.functional.cross_entropy(outputs, targets) * (1 + self.seen / 10)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1),
        nn.CrossEntropyLoss(reduction="sum"),
        own_loss,
        Counting(),
    ],
    ids=["weighted", "summed", "function", "stateful"],
)
def test_losses(mixture, loss):
    made = evaluator(loss, accumulate=2, optimizer=SGD(lr=0.005), epochs=3)
    check_cohort(made, candidates_trials(mixture[:5]))


def spread(outputs, targets):
    """A metric that draws from the trial's own random numbers."""
    return float((outputs.argmax(1) == targets).double().mean() + torch.rand(()))


@pytest.mark.parametrize("options", [
    {"metric": "loss"},
    {"metric": spread, "maximize": True},
    {"shuffle": False},
], ids=["loss", "function", "in order"])  # fmt: skip
def test_metrics_and_orders(mixture, options):
    check_cohort(evaluator(epochs=2, **options), candidates_trials(mixture[:5]))


def test_a_regression_in_mixed_precision_is_near(mixture):
    made = evaluator(epochs=2, amp="bf16", optimizer=SGD(lr=0.01))
    check_cohort(made, candidates_trials(mixture[:3]), within=0.1)


def collated(rows):
    return torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])


def test_data_from_a_loader(mixture):
    x, y = images()
    data = torch.utils.data.DataLoader(
        list(zip(x, y, strict=True)), batch_size=9, shuffle=True, collate_fn=collated
    )
    made = Supervised(
        data,
        images(23, seed=1),
        loss=nn.CrossEntropyLoss(),
        optimizer=SGD(lr=0.05),
        epochs=3,
        device="cpu",
    )
    check_cohort(made, candidates_trials(mixture[:5]))


# --- what a loss does not depend on ---------------------------------------------------------------


class TwoHeads(nn.Module):
    """Two outputs; ``aside`` feeds the second alone (the first if flipped), ``idle`` nothing."""

    def __init__(self, width, flipped=False):
        super().__init__()
        self.flipped = flipped
        self.body = nn.Linear(16, width)
        self.head = nn.Linear(width, CLASSES)
        self.aside = nn.Linear(width, CLASSES)
        self.idle = nn.Linear(width, CLASSES)

    def forward(self, x):
        h = torch.tanh(self.body(x.flatten(1)))
        head, aside = self.head(h), self.aside(h)
        return (aside, head) if self.flipped else (head, aside)


def first_alone(outputs, targets):
    return nn.functional.cross_entropy(outputs[0], targets)


def both(outputs, targets):
    return sum(nn.functional.cross_entropy(o, targets) for o in outputs)


def first_right(outputs, targets):
    return (outputs[0].argmax(1) == targets).double().mean()


@pytest.mark.parametrize("loss", [first_alone, both])
def test_what_has_no_gradient_alone_is_left_alone(loss):
    """Heads of one shape share a stack; those with a gradient must not move the others."""
    made = evaluator(
        loss, optimizer=SGD(lr=0.1, weight_decay=0.1, momentum=0.9), epochs=2,
        metric=first_right, maximize=True,
    )  # fmt: skip
    nets = [TwoHeads(4), TwoHeads(4, flipped=True), TwoHeads(6)]
    trials = candidates_trials([candidate(net) for net in nets])
    cohort = check_cohort(made, trials)
    for index, used in enumerate(("head", "aside", "head")):
        before, after = parts_of(made, trials)[index].module.state_dict(), cohort.tensors(index)
        for name in ("head", "aside", "idle"):
            moved = not torch.equal(after[f"model.{name}.weight"], before[f"{name}.weight"])
            assert moved is (name == used or (name != "idle" and loss is both)), (index, name)


class Cut(nn.Module):
    """``head`` is of the shape of :class:`Plain`'s, but no gradient gets to it."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(16, 4)
        self.head = nn.Linear(4, CLASSES)
        self.last = nn.Linear(CLASSES, CLASSES)

    def forward(self, x):
        h = torch.tanh(self.body(x.flatten(1)))
        return self.last(torch.tanh(self.head(h)).detach()) + h[:, :CLASSES]


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(16, 4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        return torch.tanh(self.head(torch.tanh(self.body(x.flatten(1)))))


@pytest.mark.parametrize("optimizer", [SGD(lr=0.1, weight_decay=0.1), AdamW(weight_decay=0.1)])
def test_one_of_a_stack_has_no_gradient(optimizer):
    made = evaluator(optimizer=optimizer, epochs=2, ema=0.9)
    trials = candidates_trials([candidate(net) for net in (Plain(), Cut(), Plain())])
    cohort = check_cohort(made, trials)
    before, after = parts_of(made, trials)[1].module.state_dict(), cohort.tensors(1)
    assert torch.equal(after["model.head.weight"], before["head.weight"])


def independent(outputs, targets):
    return nn.functional.cross_entropy(outputs.detach(), targets)


def test_a_loss_without_a_gradient_fails_as_alone(mixture):
    made, trials = evaluator(independent), candidates_trials(mixture[:3])
    results = CohortTrainer(parts_of(made, trials), made.task).advance()
    with pytest.raises(EvaluatorError) as alone:
        made.trainer(trials[0]).advance()
    assert [str(result) for result in results] == [str(alone.value)] * 3


# --- one model's trouble --------------------------------------------------------------------------


def poisoned(made, trials, index, value=math.nan):
    """The parts, the weights of one of them being ``value``."""
    parts = parts_of(made, trials)
    with torch.no_grad():
        for parameter in parts[index].module.parameters():
            parameter.fill_(value)
    return parts


@pytest.mark.parametrize("options", [
    {},
    {"grad_clip": 0.5, "ema": 0.9},
    {"optimizer": Adam(lr=0.01), "accumulate": 2},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("index", [1, 4])
def test_a_model_of_nan_changes_no_bit_of_the_others(mixture, options, index):
    made = evaluator(epochs=2, **options)
    chosen = [mixture[1], mixture[5], mixture[0], mixture[2], mixture[5], mixture[3]]
    trials = candidates_trials(chosen)
    well = CohortTrainer(parts_of(made, trials), made.task)
    sick = CohortTrainer(poisoned(made, trials, index), made.task)
    for _ in range(2):
        healthy, ill = well.advance(), sick.advance()
        for i in range(len(trials)):
            assert (healthy[i] == ill[i]) is (i != index)
    error = ill[index]
    assert isinstance(error, TrialError)
    assert error.cause == "the loss became nan at epoch 1, step 1"
    for i in set(range(len(trials))) - {index}:
        ours, theirs = sick.tensors(i), well.tensors(i)
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs), i


def test_a_model_that_diverges_on_the_way_fails_as_alone(mixture):
    """At its own step, with the same words; the others are as without it."""
    rates = [0.05, 1e200, 0.05, 0.02]
    made = evaluator(optimizer=SGD(lr=choice(rates, "lr"), momentum=0.5), epochs=3)
    trials = candidates_trials([mixture[1], mixture[2], mixture[5], mixture[0]], lr=rates)
    cohort = CohortTrainer(parts_of(made, trials), made.task)
    alone = [made.trainer(trial) for trial in trials]
    with pytest.raises(TrialError) as expected:
        [alone[1].advance() for _ in range(3)]
    for _ in range(3):
        results = cohort.advance()
        for i in (0, 2, 3):
            check_metrics(results[i], alone[i].advance(), 1e-9)
    assert str(results[1]) == str(expected.value)
    assert "step 1" not in results[1].cause
    for i in (0, 2, 3):
        check_state(cohort, i, alone[i], 1e-9)


def test_labels_that_one_model_has_no_output_for(mixture):
    few = candidate(perceptron(8, classes=2))
    made, trials = evaluator(epochs=2), candidates_trials([mixture[0], few, mixture[2]])
    cohort = CohortTrainer(parts_of(made, trials), made.task)
    alone = [made.trainer(trial) for trial in trials]
    with pytest.raises(EvaluatorError) as expected:
        alone[1].advance()
    for _ in range(2):
        results = cohort.advance()
        assert str(results[1]) == str(expected.value)
        for i in (0, 2):
            check_metrics(results[i], alone[i].advance(), 1e-9)


def picky(outputs, targets):
    if outputs.shape[1] == CLASSES + 1:
        raise ValueError("four is too many")
    return (outputs.argmax(1) == targets).double().mean()


def picky_loss(outputs, targets):
    if outputs.shape[1] == CLASSES + 1:
        raise ValueError("four is too many")
    return nn.functional.cross_entropy(outputs, targets)


@pytest.mark.parametrize("options", [{"loss": picky_loss}, {"metric": picky, "maximize": True}])
def test_a_users_code_that_fails_for_one_model(mixture, options):
    trials = candidates_trials([mixture[0], candidate(perceptron(8, classes=4)), mixture[2]])
    made = evaluator(epochs=1, **options)
    results = CohortTrainer(parts_of(made, trials), made.task).advance()
    assert isinstance(results[1], ValueError)
    for i in (0, 2):
        check_metrics(results[i], made.trainer(trials[i]).advance(), 1e-9)


def test_when_all_have_failed_nothing_more_is_trained(mixture):
    made, trials = evaluator(), candidates_trials(mixture[:2])
    parts = poisoned(made, trials, 0)
    with torch.no_grad():
        parts[1].module.get_parameter("0.weight").fill_(math.inf)
    cohort = CohortTrainer(parts, made.task)
    assert all(isinstance(result, TrialError) for result in cohort.advance())
    assert cohort.meta(0)["step"] == 0


# --- going on elsewhere ---------------------------------------------------------------------------


def test_from_a_cohort_to_alone_and_to_another_cohort(mixture):
    """A model trains two epochs in one cohort, two in another, and two alone."""
    choices = {"optimizer": OPTIMIZERS, "ema": [0.9, None], "accumulate": [2, 1, 1]}
    made = evaluator(schedule=ReduceOnPlateau(patience=0), epochs=6, **{
        name: choice(options, name) for name, options in choices.items()
    })  # fmt: skip
    trials = candidates_trials(mixture, **choices)
    unbroken = [made.trainer(trial) for trial in trials]
    parts = parts_of(made, trials)
    first = CohortTrainer(parts, made.task)
    for _ in range(2):
        first.advance()
    members = [6, 2, 1, 4]
    second = CohortTrainer(
        [Part(parts[i].graph, parts[i].module, parts[i].settings, first.checkpoint(i))
         for i in members],
        made.task,
    )  # fmt: skip
    assert second.epoch == 2
    for _ in range(2):
        second.advance()
    for place, index in enumerate(members):
        alone = made.trainer(trials[index])
        alone.restore(second.checkpoint(place))
        for _ in range(4):
            unbroken[index].advance()
        for _ in range(2):
            check_metrics(alone.advance(), unbroken[index].advance(), 1e-9)


def test_some_leave_and_the_rest_goes_on(mixture):
    """With optimizer states, averages and schedules, and without merging from the beginning."""
    choices = {"optimizer": OPTIMIZERS, "ema": [0.9, None], "accumulate": [2, 1, 1]}
    made = evaluator(schedule=ReduceOnPlateau(patience=0), epochs=6, **{
        name: choice(options, name) for name, options in choices.items()
    })  # fmt: skip
    trials = candidates_trials(mixture, **choices)
    alone = [made.trainer(trial) for trial in trials]
    cohort, numbers = CohortTrainer(parts_of(made, trials), made.task), list(range(8))
    for gone in ([], [0, 3], [], [5], [1, 2]):
        if gone:
            cohort = cohort.without(gone)
            numbers = [n for i, n in enumerate(numbers) if i not in gone]
        for result, number in zip(cohort.advance(), numbers, strict=True):
            check_metrics(result, alone[number].advance(), 1e-9)
    for place, number in enumerate(numbers):
        check_state(cohort, place, alone[number], 1e-9)


def test_from_alone_into_a_cohort(mixture):
    made, trials = evaluator(optimizer=Adam(lr=0.01), ema=0.9), candidates_trials(mixture[:5])
    alone = [made.trainer(trial) for trial in trials]
    for trainer in alone:
        trainer.advance()
    parts = [
        Part(part.graph, part.module, part.settings, _checkpoint(trainer))
        for part, trainer in zip(parts_of(made, trials), alone, strict=True)
    ]
    cohort = CohortTrainer(parts, made.task)
    for _ in range(2):
        for result, trainer in zip(cohort.advance(), alone, strict=True):
            check_metrics(result, trainer.advance(), 1e-9)
    for index, trainer in enumerate(alone):
        check_state(cohort, index, trainer, 1e-9)


def _checkpoint(trainer):
    from retiarii.training.checkpoint import Checkpoint

    tensors = {name: tensor.clone() for name, tensor in trainer.tensors().items()}
    return Checkpoint(trainer.epoch, tensors, trainer.meta())


class Stateful(nn.Module):
    """Tied weights, and a buffer outside of the state_dict that changes in training."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.weight = self.a.weight
        self.head = nn.Linear(16, CLASSES)
        self.more = nn.Linear(CLASSES, width)
        self.last = nn.Linear(width, CLASSES)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.seen += 1
        h = self.b(torch.tanh(self.a(x.flatten(1))))
        return self.last(torch.relu(self.more(self.head(h * (1 + self.seen / 100)))))


def test_models_with_tied_weights_and_other_state(mixture):
    made = evaluator(ema=0.5, epochs=4)
    nets = [candidate(Stateful(4)), mixture[2], candidate(Stateful(4)), candidate(Stateful(6))]
    check_cohort(made, candidates_trials(nets))


def test_a_partly_frozen_model_and_its_equals(mixture):
    frozen = convnet(4, 3)
    for layer in frozen[:3]:
        layer.requires_grad_(False)
    frozen = [candidate(frozen), candidate(frozen)]
    check_cohort(evaluator(epochs=3, ema=0.9), candidates_trials([mixture[1], *frozen]))
