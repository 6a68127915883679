from __future__ import annotations

import pytest
import torch
from torch import nn

from retiarii.errors import EvaluatorError
from retiarii.mutators.choice import choice, loguniform, uniform
from retiarii.training.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

CASES = [
    (SGD(lr=0.1), torch.optim.SGD, {"lr": 0.1}),
    (
        SGD(lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
    ),
    (
        SGD(lr=0.1, momentum=0.9, dampening=0.3, maximize=True),
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "maximize": True},
    ),
    (Adam(), torch.optim.Adam, {}),
    (
        Adam(lr=0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1, amsgrad=True),
        torch.optim.Adam,
        {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1, "amsgrad": True},
    ),
    (AdamW(), torch.optim.AdamW, {}),
    (AdamW(lr=0.1, weight_decay=0.2), torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.2}),
    (RMSprop(), torch.optim.RMSprop, {}),
    (
        RMSprop(lr=0.01, alpha=0.9, momentum=0.5, centered=True),
        torch.optim.RMSprop,
        {"lr": 0.01, "alpha": 0.9, "momentum": 0.5, "centered": True},
    ),
    (Adagrad(), torch.optim.Adagrad, {}),
    (
        Adagrad(lr=0.1, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.5, eps=1e-6),
        torch.optim.Adagrad,
        {
            "lr": 0.1,
            "lr_decay": 0.1,
            "weight_decay": 0.1,
            "initial_accumulator_value": 0.5,
            "eps": 1e-6,
        },
    ),
]


@pytest.mark.parametrize(("ours", "theirs", "options"), CASES, ids=lambda v: repr(v)[:30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_builds_what_torch_has(ours, theirs, options, dtype):
    torch.manual_seed(0)
    start = torch.randn(5, dtype=dtype)
    a, b = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    # torch's own default for SGD's lr is the same.
    left, right = ours.build([a]), theirs([b], foreach=True, **options)
    for _ in range(4):
        for p, opt in ((a, left), (b, right)):
            opt.zero_grad()
            (p.sin() * p).sum().backward()
            opt.step()
    assert torch.equal(a, b)
    assert not torch.equal(a, start)


def test_every_field_is_one_of_torchs():
    import dataclasses
    import inspect

    for kind in (SGD, Adam, AdamW, RMSprop, Adagrad):
        known = inspect.signature(kind.TORCH).parameters
        for field in dataclasses.fields(kind):
            assert known[field.name].default == field.default, (kind, field.name)
    assert set(Optimizer.__subclasses__()) == {SGD, Adam, AdamW, RMSprop, Adagrad}


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: SGD(lr=0), "lr"),
        (lambda: SGD(lr=-0.1), "lr"),
        (lambda: SGD(lr=float("nan")), "lr"),
        (lambda: SGD(lr=float("inf")), "lr"),
        (lambda: SGD(lr="0.1"), "lr"),
        (lambda: SGD(lr=None), "lr"),
        (lambda: SGD(lr=True), "lr"),
        (lambda: SGD(lr=uniform(-1, 1)), "lr"),
        (lambda: SGD(lr=choice([0.1, 0])), "lr"),
        (lambda: SGD(momentum=1), "momentum"),
        (lambda: SGD(momentum=-0.1), "momentum"),
        (lambda: SGD(momentum=uniform(0.5, 1.5)), "momentum"),
        (lambda: SGD(dampening=2), "dampening"),
        (lambda: SGD(weight_decay=-1), "weight_decay"),
        (lambda: SGD(nesterov="yes"), "nesterov"),
        (lambda: SGD(nesterov=True), "nesterov"),
        (lambda: SGD(nesterov=True, momentum=choice([0, 0.9])), "nesterov"),
        (lambda: SGD(nesterov=True, momentum=0.9, dampening=0.1), "nesterov"),
        (lambda: Adam(betas=(0.9, 1.0)), "betas"),
        (lambda: Adam(betas=0.9), "betas"),
        (lambda: Adam(betas=(0.9,)), "betas"),
        (lambda: Adam(betas=(uniform(0.5, 1.0), 0.9)), "betas"),
        (lambda: Adam(eps=-1), "eps"),
        (lambda: AdamW(amsgrad=1), "amsgrad"),
        (lambda: RMSprop(alpha=1.1), "alpha"),
        (lambda: Adagrad(lr_decay=-0.1), "lr_decay"),
        (lambda: Adagrad(initial_accumulator_value=-1), "initial_accumulator_value"),
    ],
)
def test_a_bad_range_names_the_field_and_what_it_must_be(make, name):
    with pytest.raises(EvaluatorError) as caught:
        make()
    assert name in caught.value.cause
    assert caught.value.fix
    assert name in str(caught.value.where)


def test_a_choice_that_could_break_a_rule_shows_the_value():
    with pytest.raises(EvaluatorError, match=r"lr is uniform\(-1, 1\), which can become -1"):
        SGD(lr=uniform(-1, 1))


def test_labels_and_values():
    optimizer = Adam(
        lr=loguniform(1e-4, 1e-1),
        betas=(uniform(0.8, 0.95), 0.999),
        weight_decay=choice([0.0, 0.1], label="decay"),
    )
    assert list(optimizer.descriptions()) == ["lr", "betas.0", "decay"]
    plain = optimizer.resolved({"lr": 0.01, "betas.0": 0.9, "decay": 0.1})
    assert plain == Adam(lr=0.01, betas=(0.9, 0.999), weight_decay=0.1)
    built = optimizer.build([nn.Parameter(torch.ones(1))], {"lr": 0.01, "betas.0": 0.9, "decay": 0})
    assert built.param_groups[0]["betas"] == (0.9, 0.999)


def test_a_missing_value_is_named():
    with pytest.raises(EvaluatorError, match="no value was chosen for hyper-parameter 'lr'"):
        SGD(lr=uniform(0.1, 1)).build([nn.Parameter(torch.ones(1))])


def test_one_label_two_choices_is_refused():
    with pytest.raises(EvaluatorError, match="names two different choices"):
        SGD(lr=uniform(0.1, 1, label="a"), momentum=uniform(0.1, 0.5, label="a")).descriptions()
    shared = uniform(0.1, 0.5, label="a")
    assert list(SGD(lr=shared, momentum=shared).descriptions()) == ["a"]


def test_describe_is_json():
    import json

    assert json.loads(json.dumps(SGD(lr=loguniform(1e-3, 1e-1), momentum=0.9).describe())) == {
        "kind": "SGD",
        "lr": "loguniform(0.001, 0.1)",
        "momentum": 0.9,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
        "maximize": False,
    }
