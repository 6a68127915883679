"""Losses of stacked outputs against the same loss called for each model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from retiarii.errors import EvaluatorError
from retiarii.training.cohort.loss_rows import ROWS
from retiarii.training.cohort.losses import stacked_loss
from retiarii.training.losses import Loss

G, B, C = 4, 6, 5


def numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def labels(*shape, ignored=None):
    found = torch.randint(0, C, shape, generator=torch.Generator().manual_seed(1))
    if ignored is not None:
        found.view(-1)[::3] = ignored
    return found


def probabilities(*shape, dim=-1):
    return numbers(*shape, seed=2).softmax(dim)


def signs(*shape):
    return numbers(*shape, seed=3).sign()


WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.1, 3.0], dtype=torch.float64)
LABELS, IMAGES = (G, B, C), (G, B, C, 3, 2)

# (loss without its reduction, the outputs' shape, how they are made of numbers, the targets)
CASES = [
    (lambda **k: nn.CrossEntropyLoss(**k), LABELS, None, labels(B)),
    (lambda **k: nn.CrossEntropyLoss(**k), LABELS, None, labels(B).int()),
    (lambda **k: nn.CrossEntropyLoss(weight=WEIGHT, **k), LABELS, None, labels(B)),
    (lambda **k: nn.CrossEntropyLoss(weight=WEIGHT, **k), LABELS, None, labels(B, ignored=-100)),
    (
        lambda **k: nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1, ignore_index=2, **k),
        LABELS,
        None,
        labels(B),
    ),
    (lambda **k: nn.CrossEntropyLoss(label_smoothing=0.2, **k), LABELS, None, labels(B)),
    (
        lambda **k: nn.CrossEntropyLoss(label_smoothing=0.2, weight=WEIGHT, **k),
        IMAGES,
        None,
        labels(B, 3, 2, ignored=-100),
    ),
    (
        lambda **k: nn.CrossEntropyLoss(ignore_index=7, **k),
        IMAGES,
        None,
        labels(B, 3, 2, ignored=7),
    ),
    (lambda **k: nn.CrossEntropyLoss(**k), LABELS, None, probabilities(B, C)),
    (
        lambda **k: nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1, **k),
        IMAGES,
        None,
        probabilities(B, C, 3, 2, dim=1),
    ),
    (lambda **k: nn.NLLLoss(**k), LABELS, lambda x: x.log_softmax(2), labels(B)),
    (
        lambda **k: nn.NLLLoss(weight=WEIGHT, ignore_index=1, **k),
        IMAGES,
        lambda x: x.log_softmax(2),
        labels(B, 3, 2),
    ),
    (lambda **k: nn.MSELoss(**k), (G, B, 3), None, numbers(B, 3, seed=5)),
    (lambda **k: nn.MSELoss(**k), (G, B), None, labels(B)),
    (lambda **k: nn.L1Loss(**k), (G, B, 2, 2), None, numbers(B, 2, 2, seed=5)),
    (lambda **k: nn.SmoothL1Loss(beta=0.5, **k), (G, B, 3), None, numbers(B, 3, seed=5)),
    (lambda **k: nn.HuberLoss(delta=0.7, **k), (G, B, 3), None, numbers(B, 3, seed=5)),
    (lambda **k: nn.BCELoss(**k), (G, B), torch.sigmoid, probabilities(B)),
    (
        lambda **k: nn.BCELoss(weight=numbers(B, 1, seed=7).abs(), **k),
        (G, B, 3),
        torch.sigmoid,
        probabilities(B, 3),
    ),
    (lambda **k: nn.BCEWithLogitsLoss(**k), (G, B, 3), None, probabilities(B, 3)),
    (
        lambda **k: nn.BCEWithLogitsLoss(pos_weight=WEIGHT, weight=WEIGHT.flip(0), **k),
        LABELS,
        None,
        labels(B, C) % 2,
    ),
    (lambda **k: nn.KLDivLoss(**k), LABELS, lambda x: x.log_softmax(2), probabilities(B, C)),
    (
        lambda **k: nn.KLDivLoss(log_target=True, **k),
        LABELS,
        lambda x: x.log_softmax(2),
        probabilities(B, C).log(),
    ),
    (lambda **k: nn.PoissonNLLLoss(full=True, **k), (G, B, 3), None, labels(B, 3).double()),
    (
        lambda **k: nn.PoissonNLLLoss(log_input=False, eps=1e-3, **k),
        (G, B),
        torch.exp,
        labels(B).double(),
    ),
    (lambda **k: nn.SoftMarginLoss(**k), (G, B, 3), None, signs(B, 3)),
    (lambda **k: nn.HingeEmbeddingLoss(margin=0.5, **k), (G, B), None, signs(B)),
    (lambda **k: nn.MultiLabelSoftMarginLoss(weight=WEIGHT, **k), LABELS, None, labels(B, C) % 2),
    (
        lambda **k: nn.MultiLabelMarginLoss(**k),
        LABELS,
        None,
        torch.tensor([[3, 0, -1, 1, 2], [1, -1, 2, 3, 4]]).repeat(B // 2, 1),
    ),
    (lambda **k: nn.MultiMarginLoss(p=2, margin=0.4, weight=WEIGHT, **k), LABELS, None, labels(B)),
]

quiet = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")


def one_by_one(loss, outputs, targets):
    leaf = outputs.clone().requires_grad_()
    loss = Loss(loss)
    values = torch.stack([loss(leaf[g], targets) for g in range(len(outputs))])
    return values, torch.autograd.grad((values * torch.arange(1.0, len(outputs) + 1)).sum(), leaf)[
        0
    ]


def together(loss, outputs, targets, own=False):
    leaf = outputs.clone().requires_grad_()
    values = stacked_loss(loss, leaf, targets, own)
    assert values.shape == (len(outputs),)
    return values, torch.autograd.grad((values * torch.arange(1.0, len(outputs) + 1)).sum(), leaf)[
        0
    ]


@quiet
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda c: repr(c[0]()))
def test_a_loss_of_torch(case, reduction, own):
    make, shape, change, targets = case
    outputs = numbers(*shape, seed=11)
    outputs = change(outputs) if change else outputs
    loss = make(reduction=reduction)
    expected, gradient = one_by_one(loss, outputs, targets)
    given = targets.expand(G, *targets.shape) if own else targets
    values, ours = together(loss, outputs, given, own)
    torch.testing.assert_close(values, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(ours, gradient, rtol=1e-13, atol=1e-13)
    assert gradient.abs().sum() > 0


def test_targets_of_each_models_own():
    outputs = numbers(G, B, C)
    targets = torch.stack([labels(B).roll(g) for g in range(G)])
    targets[1, 0] = -100
    values = stacked_loss(nn.CrossEntropyLoss(weight=WEIGHT), outputs, targets, own_targets=True)
    loss = nn.CrossEntropyLoss(weight=WEIGHT)
    expected = torch.stack([loss(o, t) for o, t in zip(outputs, targets, strict=True)])
    torch.testing.assert_close(values, expected)
    assert values.unique().numel() == G


def test_the_mean_over_the_batch_alone():
    outputs, targets = numbers(G, B, C).log_softmax(2), probabilities(B, C)
    loss = nn.KLDivLoss(reduction="batchmean")
    expected, gradient = one_by_one(loss, outputs, targets)
    values, ours = together(loss, outputs, targets)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(ours, gradient)


@quiet
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("case", CASES, ids=lambda c: repr(c[0]()))
def test_what_is_not_finite_reaches_no_other_model(case, bad):
    make, shape, change, targets = case
    outputs = numbers(*shape, seed=11)
    outputs = change(outputs) if change else outputs
    sick = outputs.clone()
    sick[2].view(-1)[0] = bad
    sick[2].view(-1)[-1] = bad
    values, gradient = together(make(), outputs, targets)
    ours, theirs = together(make(), sick, targets)
    others = [0, 1, 3]
    assert torch.equal(values[others], ours[others])
    assert torch.equal(gradient[others], theirs[others])
    if bad != bad:
        assert not ours[2].isfinite() or isinstance(
            make(), nn.MultiMarginLoss | nn.MultiLabelMarginLoss
        )


def test_what_is_no_probability_costs_only_its_own_model():
    """torch raises on a CPU, and ends the program on a GPU."""
    outputs = numbers(G, B).sigmoid()
    outputs[1, 0] = 1.5
    targets = probabilities(B)
    values, gradient = together(nn.BCELoss(), outputs, targets)
    assert values[1].isnan()
    assert gradient.isfinite().all()
    for g in (0, 2, 3):
        torch.testing.assert_close(values[g], nn.BCELoss()(outputs[g], targets))


def test_all_targets_ignored_is_nan_as_alone():
    targets = torch.full((B,), -100)
    assert stacked_loss(nn.CrossEntropyLoss(), numbers(G, B, C), targets).isnan().all()
    assert nn.CrossEntropyLoss()(numbers(B, C), targets).isnan()


class Halved(nn.CrossEntropyLoss):
    def forward(self, input, target):
        return super().forward(input, target) / 2


@pytest.mark.parametrize(
    "loss",
    [Halved(), lambda o, t: (o.logsumexp(1) - o.gather(1, t[:, None])[:, 0]).mean()],
    ids=["subclass", "function"],
)
def test_a_users_own_is_called_for_each_model(loss):
    outputs, targets = numbers(G, B, C), labels(B)
    expected, gradient = one_by_one(loss, outputs, targets)
    values, ours = together(loss, outputs, targets)
    assert torch.equal(values, expected)
    assert torch.equal(ours, gradient)


def test_several_outputs():
    outputs = {"a": numbers(G, B, C), "b": (numbers(G, B, C, seed=3),)}
    targets = {"a": labels(B), "b": (labels(B).flip(0),)}
    values = stacked_loss(nn.CrossEntropyLoss(), outputs, targets)
    loss = Loss(nn.CrossEntropyLoss())
    expected = [loss({"a": outputs["a"][g], "b": (outputs["b"][0][g],)}, targets) for g in range(G)]
    torch.testing.assert_close(values, torch.stack(expected))

    def own(out, target):
        return (out["a"] - out["b"][0]).square().mean() + target["a"].sum()

    values = stacked_loss(own, outputs, targets)
    assert torch.equal(values[1], own({"a": outputs["a"][1], "b": (outputs["b"][0][1],)}, targets))


def test_a_model_without_a_batch_dimension_goes_by_itself():
    values = stacked_loss(nn.CrossEntropyLoss(), numbers(G, C), torch.tensor(2))
    expected = [nn.CrossEntropyLoss()(numbers(G, C)[g], torch.tensor(2)) for g in range(G)]
    torch.testing.assert_close(values, torch.stack(expected))
    values = stacked_loss(nn.MSELoss(), numbers(G), numbers(1)[0])
    torch.testing.assert_close(values, (numbers(G) - numbers(1)[0]).square())


def test_shapes_that_do_not_fit_are_refused_as_alone():
    with pytest.raises(EvaluatorError, match=r"have shape \(6, 1\) and the targets \(6,\)"):
        stacked_loss(nn.MSELoss(), numbers(G, B, 1), numbers(B))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 7),
    st.integers(1, 4),
    st.lists(st.integers(1, 3), max_size=2),
    st.floats(0, 1),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["mean", "sum"]),
)
def test_cross_entropy_of_any_shape(g, b, c, rest, smoothing, weighted, ignored, reduction):
    generator = torch.Generator().manual_seed(g * 100 + b)
    outputs = numbers(g, b, c, *rest, seed=b)
    targets = torch.randint(0, c, (b, *rest), generator=generator)
    if ignored and b > 1:
        targets[0] = -100
    loss = nn.CrossEntropyLoss(
        weight=WEIGHT[:c] if weighted else None, label_smoothing=smoothing, reduction=reduction
    )
    expected, gradient = one_by_one(loss, outputs, targets)
    values, ours = together(loss, outputs, targets)
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours, gradient, rtol=1e-12, atol=1e-12)


def test_every_row_is_tried():
    assert {type(make()) for make, *_ in CASES} == set(ROWS)
