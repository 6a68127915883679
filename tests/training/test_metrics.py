from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from retiarii.errors import EvaluatorError
from retiarii.training.metrics import make_metric

CE = nn.CrossEntropyLoss()


def measure(metric, outputs, targets, loss=CE, cuts=(3,), maximize=None):
    meter = make_metric(metric, maximize, loss).meter()
    edges = [0, *cuts, len(targets)]
    for a, b in pairwise(edges):
        meter.update(outputs[a:b], targets[a:b])
    return meter.compute()


@given(st.integers(2, 30), st.data())
def test_batches_do_not_matter(n, data):
    generator = torch.Generator().manual_seed(n)
    cut = data.draw(st.integers(1, n - 1))
    scores = torch.randn(n, 4, generator=generator)
    labels = torch.randint(0, 4, (n,), generator=generator)
    assert measure("accuracy", scores, labels, cuts=(cut,)) == pytest.approx(
        (scores.argmax(1) == labels).double().mean().item()
    )
    values = torch.randn(n, 4, generator=generator)
    for name, wanted in (("mae", (scores - values).abs()), ("mse", (scores - values) ** 2)):
        assert measure(name, scores, values, nn.MSELoss(), (cut,)) == pytest.approx(
            wanted.double().mean().item(), rel=1e-5
        )
    assert measure(
        lambda o, t: (o.argmax(1) == t).double().mean(), scores, labels, CE, (cut,), True
    ) == pytest.approx(measure("accuracy", scores, labels, cuts=(cut,)))


@pytest.mark.parametrize(
    ("outputs", "targets", "loss", "wanted"),
    [
        # binary logits, of shape [n] and [n, 1], and probabilities
        ([0.3, -0.2, 0.1, 0.4], [1, 1, 1, 0], nn.BCEWithLogitsLoss(), 0.5),
        ([[0.3], [-0.2], [0.1], [0.4]], [1.0, 1.0, 1.0, 0.0], nn.BCEWithLogitsLoss(), 0.5),
        ([0.3, 0.2, 0.9, 0.4], [1.0, 0.0, 1.0, 0.0], nn.BCELoss(), 0.75),
        # several labels
        ([[1.0, -1], [1, 1], [-1, 1], [1, 1]], [[1.0, 0], [1, 0], [0, 1], [0, 0]], None, 0.625),
        # soft targets
        ([[1.0, 0], [0, 1], [0, 1], [0, 1]], [[0.9, 0.1], [0.2, 0.8], [1, 0], [1, 0]], CE, 0.5),
        # labels to ignore
        ([[1.0, 0], [0, 1], [0, 1], [0, 1]], [0, 1, 0, -100], CE, 2 / 3),
    ],
)
def test_accuracy_of_other_shapes(outputs, targets, loss, wanted):
    found = measure("accuracy", torch.tensor(outputs), torch.tensor(targets), loss)
    assert found == pytest.approx(wanted)


def test_accuracy_of_pixels_and_of_sequences():
    labels = torch.randint(0, 3, (4, 5, 6))
    scores = nn.functional.one_hot(labels, 3).float()
    assert measure("accuracy", scores, labels) == 1.0
    assert measure("accuracy", scores.movedim(-1, 1), labels) == 1.0


def test_several_outputs_count_equally():
    meter = make_metric("accuracy", None, CE).meter()
    right, wrong = torch.tensor([[1.0, 0]] * 4), torch.tensor([[0, 1.0]] * 4)
    zeros = torch.zeros(4, dtype=torch.int64)
    meter.update((right, wrong), (zeros, zeros))
    assert meter.compute() == 0.5
    with pytest.raises(EvaluatorError, match="returns 2 tensors and the data has 1 targets"):
        meter.update((right, wrong), zeros)


def test_a_column_is_not_broadcast_over_a_row():
    assert measure("mse", torch.zeros(4, 1), torch.ones(4), nn.MSELoss()) == 1.0
    with pytest.raises(EvaluatorError, match="cannot compare"):
        measure("mse", torch.zeros(4, 2), torch.ones(4), nn.MSELoss())


def test_accuracy_of_a_regression_is_refused():
    with pytest.raises(EvaluatorError, match="accuracy needs scores") as caught:
        measure("accuracy", torch.zeros(4, 1), torch.ones(4, 1), nn.MSELoss())
    assert "metric='mse'" in str(caught.value.fix)
    with pytest.raises(EvaluatorError, match="cannot compare"):
        measure("accuracy", torch.zeros(4, 2), torch.ones(4), CE)


class Count:
    higher_is_better = True

    def __init__(self):
        self.n = 100

    def reset(self):
        self.n = 0

    def update(self, outputs, targets):
        self.n += len(targets)

    def compute(self):
        return torch.tensor(self.n)


def test_an_object_is_reset_for_every_pass():
    given = Count()
    metric = make_metric(given, None, CE)
    assert (metric.name, metric.maximize) == ("Count", True)
    for _ in range(2):
        meter = metric.meter()
        meter.update(torch.zeros(3), torch.zeros(3))
        assert meter.compute() == 3.0
    assert given.n == 100


def test_a_callable_gets_all_of_it_once():
    calls = []

    def both(outputs, targets):
        calls.append((outputs["a"].shape, targets[1].shape))
        return 1

    meter = make_metric(both, False, CE).meter()
    for n in (3, 2):
        meter.update({"a": torch.zeros(n, 2)}, (torch.zeros(n), torch.zeros(n)))
    assert meter.compute() == 1.0
    assert calls == [((5, 2), (5,))]


def test_directions():
    assert make_metric("accuracy", None, CE).maximize
    assert not any(make_metric(n, None, CE).maximize for n in ("loss", "mae", "mse"))
    assert make_metric("mse", True, CE).maximize
    assert make_metric(lambda o, t: 0, False, CE).name == "score"


@pytest.mark.parametrize(
    ("metric", "cause", "fix"),
    [
        ("acuracy", "no metric 'acuracy'", "'accuracy'"),
        (3, "no metric", "accuracy, loss, mae, mse"),
        (Count, "no metric", "object with"),
        (lambda o, t: 0, "higher", "maximize=True"),
    ],
)
def test_what_is_no_metric(metric, cause, fix):
    with pytest.raises(EvaluatorError) as caught:
        make_metric(metric, None, CE)
    assert cause in caught.value.cause
    assert fix in str(caught.value.fix)


def test_a_metric_that_returns_no_number():
    with pytest.raises(EvaluatorError, match="metric 'score' is not a number"):
        measure(lambda o, t: "high", torch.zeros(4), torch.zeros(4), maximize=True)
