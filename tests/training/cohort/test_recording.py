"""Steps that are recorded and replayed train what steps that run as they are train."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from retiarii.errors import TrialError
from retiarii.mutators.choice import choice
from retiarii.space import ModelSpace
from retiarii.testing.cohorts import candidates_trials, check_cohort, check_state, parts_of
from retiarii.testing.replay import CallRecorder
from retiarii.training.cohort.hosts import HostWatch
from retiarii.training.cohort.recording import WARM_UP, Done, RecordedSteps
from retiarii.training.cohort.trainer import CohortTrainer
from retiarii.training.optimizers import SGD, Adagrad, Adam, AdamW, RMSprop
from retiarii.training.readers import Batch
from retiarii.training.schedules import Constant, Cosine, OneCycle, ReduceOnPlateau
from retiarii.training.supervised import Supervised

CLASSES = 3
CPU = torch.device("cpu")
BATCHES, EPOCHS = 9, 6  # of 7 samples, but for the last, of 5

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def samples(n, seed=0):
    made = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 4, 4, generator=made, dtype=torch.float64)
    return x, torch.randint(0, CLASSES, (n,), generator=made)


def convnet(channels, act):
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        act,
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * channels, CLASSES),
    )


def perceptron(width):
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(16, width),
        nn.LayerNorm(width),
        nn.GELU(),
        nn.Dropout(0.3),
        nn.Linear(width, CLASSES),
    )


def candidate(net, seed=0):
    torch.manual_seed(seed)
    return ModelSpace(net.double(), torch.zeros(2, 1, 4, 4, dtype=torch.float64)).sample(0)


@pytest.fixture(scope="module")
def nets():
    torch.set_num_threads(1)
    made = [convnet(4, nn.ReLU()), perceptron(8), convnet(4, nn.Tanh()), perceptron(8)]
    made += [convnet(6, nn.ReLU()), perceptron(12)]
    return [candidate(net) for net in made]


def evaluator(loss=None, epochs=EPOCHS, device="cpu", **options):
    options = {"batch_size": 7, "optimizer": SGD(lr=0.05, momentum=0.9), **options}
    return Supervised(
        samples(61), samples(23, 1), loss=loss or nn.CrossEntropyLoss(), epochs=epochs,
        device=device, **options,
    )  # fmt: skip


def recorded(made, trials, within=1e-9):
    """The cohort trained by replays, compared with each model alone; what recorded it."""
    recorder = CallRecorder()
    cohort = check_cohort(made, trials, within, record=lambda _: recorder)
    return cohort, recorder


OPTIMIZERS = [
    SGD(lr=0.05, momentum=0.9, dampening=0.1),
    Adam(lr=0.01, amsgrad=True),
    AdamW(lr=0.003, weight_decay=0.1),
    RMSprop(lr=0.002, momentum=0.5, centered=True),
    Adagrad(lr=0.02, lr_decay=0.1),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_each_optimizer(nets, optimizer):
    """Rates change from step to step, and dropout draws from streams that begin anew."""
    made = evaluator(optimizer=optimizer, schedule=Cosine())
    _, recorder = recorded(made, candidates_trials(nets))
    # Whole batches from the fourth on; the smaller one at the end of an epoch from the fourth on.
    assert recorder.recorded == 2
    assert recorder.warmed == 2 * WARM_UP
    assert recorder.replayed == BATCHES * EPOCHS - 2 * WARM_UP


def test_everything_may_differ(nets):
    choices = {
        "optimizer": OPTIMIZERS,
        "schedule": [Constant(), Cosine(), OneCycle(), ReduceOnPlateau(patience=0, threshold=0.1)],
        "grad_clip": [None, 0.5, 2.0],
        "ema": [None, 0.9],
    }
    made = evaluator(**{name: choice(options, name) for name, options in choices.items()})
    cohort, recorder = recorded(made, candidates_trials(nets, **choices))
    assert recorder.replayed > BATCHES * EPOCHS / 2
    assert recorder.calls > 100
    assert cohort.execution == ("each step is replayed",)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1),
        nn.CrossEntropyLoss(reduction="sum"),
    ],
)
def test_losses(nets, loss):
    recorded(evaluator(loss, optimizer=SGD(lr=0.005)), candidates_trials(nets[:4]))


def test_streams_are_those_that_the_models_draw_from(nets):
    made, trials = evaluator(epochs=2), candidates_trials(nets[:3])
    recorder = CallRecorder()
    cohort = CohortTrainer(parts_of(made, trials), made.task, record=lambda _: recorder)
    cohort.advance()
    own = [id(stream.generator) for stream in cohort.merged.streams]
    assert list(map(id, recorder.generators)) == own
    cohort.merged.seed([1, 2, 3])
    assert [id(stream.generator) for stream in cohort.merged.streams] == own


def test_half_precision_has_a_scale_a_model():
    """An overflow skips one model's step, whichever step it is in."""
    single = [ModelSpace(perceptron(width), torch.zeros(2, 1, 4, 4)).sample(0) for width in (4, 8)]
    made, trials = evaluator(optimizer=SGD(lr=0.01), epochs=3), candidates_trials(single)
    recorder = CallRecorder()

    def cohort_of(record):
        parts = [  # which a user may ask for on a GPU only
            replace(part, settings=replace(part.settings, amp="fp16"))
            for part in parts_of(made, trials)
        ]
        return CohortTrainer(parts, made.task, record=record)

    pair = [cohort_of(lambda _: recorder), cohort_of(lambda _: None)]
    for cohort in pair:
        cohort.stepping._scales.scales[1] = 3e38  # its first gradients overflow
        for _ in range(3):
            cohort.advance()
    assert recorder.replayed > 0
    scales = [cohort.meta(1)["scaler"] for cohort in pair]
    assert scales[0] == scales[1]
    assert scales[0]["scale"] < 3e38
    for index in range(2):
        ours, theirs = pair[0].tensors(index), pair[1].tensors(index)
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor)


def test_a_model_that_fails_later_leaves_the_others_alone(nets):
    made, trials = evaluator(epochs=4), candidates_trials(nets[:4])
    recorder = CallRecorder()
    cohort = CohortTrainer(parts_of(made, trials), made.task, record=lambda _: recorder)
    alone = [made.trainer(trial) for trial in trials]
    for trainer in alone:
        trainer.advance()
    cohort.advance()
    with torch.no_grad():
        cohort.merged.tensor_of(2, "6.bias").fill_(math.nan)
    for epoch in range(3):
        results = cohort.advance()
        assert isinstance(results[2], TrialError), epoch
        for index in (0, 1, 3):
            alone[index].advance()
    # The steps without it are another kind, with a recording of its own.
    assert recorder.recorded == 2
    for index in (0, 1, 3):
        check_state(cohort, index, alone[index], 1e-9)


def test_the_rest_goes_on_when_some_leave(nets):
    made, trials = evaluator(epochs=4), candidates_trials(nets[:4])
    recorders = []

    def record(_):
        recorders.append(CallRecorder())
        return recorders[-1]

    cohort = CohortTrainer(parts_of(made, trials), made.task, record=record)
    alone = [made.trainer(trial) for trial in trials]
    for _ in range(2):
        cohort.advance()
    rest = cohort.without([1])
    for _ in range(2):
        rest.advance()
    for trainer in alone:
        for _ in range(4):
            trainer.advance()
    assert [r.replayed > 0 for r in recorders] == [True, True]
    for index, number in enumerate((0, 2, 3)):
        check_state(rest, index, alone[number], 1e-9)


# --- what is not recorded -------------------------------------------------------------------------


def own_loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)


class Reading(nn.Module):
    """A number is read back at each call."""

    def forward(self, x):
        return x if x.detach().sum().item() > -1e9 else -x


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"accumulate": 2}, "gathered over several batches"),
        ({"loss": own_loss}, "called once a model"),
    ],
)
def test_what_is_known_before(nets, options, reason):
    cohort, recorder = recorded(evaluator(**options, epochs=2), candidates_trials(nets[:2]))
    assert recorder.warmed == recorder.recorded == 0
    assert reason in " ".join(cohort.execution)


def test_submodules_that_are_called_as_they_are():
    nets = [candidate(nn.Sequential(nn.Flatten(), Reading(), nn.Linear(16, 3))) for _ in range(2)]
    cohort, recorder = recorded(evaluator(epochs=2), candidates_trials(nets))
    assert recorder.warmed == 0
    assert "called as it is" in " ".join(cohort.execution)


class Masked(nn.Module):
    """How much is written depends on the data."""

    def forward(self, x):
        y = x * 1
        y[y > 0] = x.mean(0)[:1]
        return y


def test_what_a_step_shows(nets):
    odd = candidate(nn.Sequential(nn.Flatten(), Masked(), nn.Linear(16, 3)))
    cohort, recorder = recorded(evaluator(epochs=2), candidates_trials([nets[0], odd]))
    assert (recorder.warmed, recorder.recorded) == (WARM_UP, 0)
    assert "by a mask waits for the device" in " ".join(cohort.execution)


def collated(rows):
    return torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])


def test_labels_are_looked_at_before_a_replay(nets):
    """As they come: on a GPU a wrong one would end the process."""
    x, y = samples(61)
    y = y.clone()
    y[40] = CLASSES  # in the sixth batch
    data = torch.utils.data.DataLoader(
        list(zip(x, y, strict=True)), batch_size=7, collate_fn=collated
    )
    made = Supervised(
        data, samples(23, 1), loss=nn.CrossEntropyLoss(), optimizer=SGD(lr=0.05), epochs=1,
        device="cpu", shuffle=False,
    )  # fmt: skip
    recorder = CallRecorder()
    trials = candidates_trials(nets[:2])
    cohort = CohortTrainer(parts_of(made, trials), made.task, record=lambda _: recorder)
    results = cohort.advance()
    assert recorder.replayed == 5 - WARM_UP
    assert all("label 3 is out of range" in str(result) for result in results)


# --- the parts ------------------------------------------------------------------------------------


def batch_of(value):
    return Batch({"x": torch.full((2,), float(value))}, torch.zeros(2), 2, None)


def test_a_step_that_reads_a_number_of_the_host_is_found_out():
    """The recorder that stands for CUDA graphs repeats what was, as they do."""
    total, factor = torch.zeros(2), [1.0]

    def step(batch):
        total.add_(batch.inputs["x"] * factor[0])
        return Done(total.clone(), frozenset(), {})

    steps = RecordedSteps(CPU, CallRecorder(), step, list)
    for value in range(6):
        losses = steps(batch_of(value), None).losses
    assert losses.tolist() == [15.0, 15.0]
    factor[0] = 100.0
    assert steps(batch_of(1), None).losses.tolist() == [16.0, 16.0]


def test_losses_of_one_replay_are_not_those_of_the_next():
    def step(batch):
        return Done(batch.inputs["x"] * 2, frozenset(), {})

    steps = RecordedSteps(CPU, CallRecorder(), step, list)
    found = [steps(batch_of(value), None).losses for value in range(8)]
    assert [losses[0].item() for losses in found] == [2.0 * value for value in range(8)]
    assert steps.recorded == 1


def test_only_so_many_kinds_are_recorded():
    recorder = CallRecorder()
    steps = RecordedSteps(CPU, recorder, lambda b: Done(b.targets + 1, frozenset(), {}), list)
    for key in range(6):
        for _ in range(WARM_UP + 2):
            steps(batch_of(key), key)
    assert recorder.recorded == 4


class Failing(CallRecorder):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def record(self, run, generators):
        del run, generators
        raise self.error


def test_what_cannot_be_recorded_goes_on_as_it_is():
    total = torch.zeros(2)

    def step(batch):
        total.add_(batch.inputs["x"])
        return Done(total.clone(), frozenset(), {})

    steps = RecordedSteps(CPU, Failing(RuntimeError("not permitted")), step, list)
    for value in range(6):
        losses = steps(batch_of(value), None).losses
    assert losses.tolist() == [15.0, 15.0]
    assert steps.refused == "RuntimeError: not permitted"
    full = RecordedSteps(CPU, Failing(torch.OutOfMemoryError("full")), step, list)
    for value in range(WARM_UP):
        full(batch_of(value), None)
    with pytest.raises(torch.OutOfMemoryError):
        full(batch_of(0), None)


def test_an_error_that_recording_makes_is_no_models():
    runs = []

    def step(batch):
        runs.append(1)
        failed = {} if len(runs) != WARM_UP + 1 else {0: RuntimeError("while capturing")}
        return Done(batch.targets + 1, frozenset(), failed)

    steps = RecordedSteps(CPU, CallRecorder(), step, list)
    for value in range(6):
        assert not steps(batch_of(value), None).failed
    assert steps.refused == "RuntimeError: while capturing"


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: x[x > 0], "by a mask"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x + torch.tensor([1.0, 2.0]), "host's numbers"),
        (lambda x: x.repeat_interleave(torch.ones(2, dtype=torch.int64)), "repeat_interleave"),
        (lambda x: (x * 2).sum().backward(), None),
        (lambda x: x[torch.zeros_like(x, dtype=torch.int64)], None),
        (lambda x: torch.where(x > 0, x, 0.0), None),
    ],
)
def test_what_ties_a_step_to_the_host(call, found):
    x = torch.ones(2, requires_grad=True)
    with HostWatch(CPU) as watch:
        call(x)
    assert (watch.found is None) if found is None else (found in str(watch.found))


# --- on a GPU -------------------------------------------------------------------------------------


@needs_cuda
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_cuda_graphs_train_what_models_alone_train(nets, optimizer):
    """Dropout included: the graph draws from the models' own streams, seeded anew each epoch."""
    made = evaluator(optimizer=optimizer, schedule=Cosine(), device="cuda", grad_clip=1.0)
    cohort = check_cohort(made, candidates_trials(nets), 1e-8)
    assert cohort._recorded is not None
    assert cohort._recorded.recorded == 2
    assert cohort.execution == ("each step is a CUDA graph",)


@needs_cuda
@pytest.mark.parametrize("amp", [None, "bf16", "fp16"])
def test_cuda_graphs_are_eager_steps(nets, amp):
    made = evaluator(device="cuda", epochs=4, amp=amp, ema=0.9)
    trials = candidates_trials(nets)
    graphs = CohortTrainer(parts_of(made, trials), made.task)
    eager = CohortTrainer(parts_of(made, trials), made.task, record=lambda _: None)
    for _ in range(4):
        ours, theirs = graphs.advance(), eager.advance()
        for one, other in zip(ours, theirs, strict=True):
            assert one["train_loss"] == pytest.approx(
                other["train_loss"], rel=1e-6 if amp else 1e-9
            )
    assert graphs._recorded is not None
    assert graphs._recorded.recorded == 2
    for index in range(len(trials)):
        for name, tensor in eager.tensors(index).items():
            torch.testing.assert_close(graphs.tensors(index)[name], tensor, rtol=1e-5, atol=1e-6)


@needs_cuda
def test_cuda_graphs_keep_models_apart(nets):
    made, trials = evaluator(device="cuda", epochs=2), candidates_trials(nets[:4])
    well = CohortTrainer(parts_of(made, trials), made.task)
    parts = parts_of(made, trials)
    with torch.no_grad():
        next(parts[2].module.parameters()).fill_(math.nan)
    sick = CohortTrainer(parts, made.task)
    for _ in range(2):
        well.advance()
        results = sick.advance()
    assert isinstance(results[2], TrialError)
    for index in (0, 1, 3):
        for name, tensor in well.tensors(index).items():
            torch.testing.assert_close(sick.tensors(index)[name], tensor, rtol=1e-9, atol=1e-12)


@needs_cuda
def test_what_a_graph_cannot_hold_runs_as_it_is(nets):
    odd = candidate(nn.Sequential(nn.Flatten(), Masked(), nn.Linear(16, 3)))
    made = evaluator(device="cuda", epochs=2)
    cohort = check_cohort(made, candidates_trials([nets[0], odd]), 1e-8)
    assert "waits for the device" in " ".join(cohort.execution)
