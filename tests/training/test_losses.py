from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from retiarii.errors import EvaluatorError
from retiarii.training.fingerprint import describe_loss
from retiarii.training.losses import Loss, check_loss

CPU = torch.device("cpu")


def test_it_is_the_users_loss():
    out, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert torch.equal(Loss(nn.CrossEntropyLoss())(out, y), F.cross_entropy(out, y))
    assert torch.equal(Loss(F.cross_entropy)(out, y), F.cross_entropy(out, y))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_labels_of_any_integer_type(dtype):
    out, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert torch.equal(Loss(nn.CrossEntropyLoss())(out, y.to(dtype)), F.cross_entropy(out, y))


def test_class_weights_follow_the_models_type():
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))
    placed = Loss(loss).on(CPU, torch.float64)
    assert placed(torch.randn(3, 2, dtype=torch.float64), torch.tensor([0, 1, 1])).dtype == (
        torch.float64
    )
    assert loss.weight.dtype == torch.float32


def test_whole_numbers_fit_a_regression_and_a_binary_loss():
    out = torch.randn(4)
    y = torch.tensor([0, 1, 1, 0])
    assert torch.equal(Loss(nn.MSELoss())(out, y), F.mse_loss(out, y.float()))
    bce = Loss(nn.BCEWithLogitsLoss())
    assert torch.equal(bce(out, y), F.binary_cross_entropy_with_logits(out, y.float()))


@pytest.mark.parametrize("kind", [nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.BCEWithLogitsLoss])
def test_shapes_are_never_broadcast(kind):
    with pytest.raises(EvaluatorError, match=r"\(4, 1\) and the targets \(4,\)") as caught:
        Loss(kind())(torch.zeros(4, 1), torch.zeros(4))
    assert "unsqueeze" in str(caught.value.fix)


def test_several_outputs_are_summed():
    outputs = {"a": torch.randn(4, 3), "b": torch.randn(4, 5)}
    targets = {"b": torch.tensor([0, 4, 1, 1]), "a": torch.tensor([2, 1, 0, 0])}
    wanted = sum(F.cross_entropy(outputs[k], targets[k]) for k in "ab")
    assert torch.allclose(Loss(nn.CrossEntropyLoss())(outputs, targets), wanted)
    with pytest.raises(EvaluatorError, match="returns 2 tensors and the data has 1 targets"):
        Loss(nn.CrossEntropyLoss())(outputs, targets["a"])


@pytest.mark.parametrize(
    "fn", [lambda o, t: 0.5, lambda o, t: o, lambda o, t: None], ids=["float", "vector", "none"]
)
def test_what_is_not_a_scalar_tensor(fn):
    with pytest.raises(EvaluatorError, match="the loss is not a"):
        Loss(fn)(torch.zeros(4), torch.zeros(4))


@pytest.mark.parametrize(("bad", "shown"), [(3, 3), (-1, -1), (12, 12)])
def test_labels_out_of_range(bad, shown):
    labels = torch.tensor([0, 1, bad, 2])
    with pytest.raises(EvaluatorError) as caught:
        Loss(nn.CrossEntropyLoss()).check_labels(torch.zeros(2, 3), labels, "train_data")
    assert f"label {shown} is out of range: the model has 3 outputs" in caught.value.cause
    assert "0 to 2" in caught.value.cause
    assert caught.value.where == "train_data"


def test_labels_that_are_fine():
    out = torch.zeros(2, 3)
    check = Loss(nn.CrossEntropyLoss()).check_labels
    check(out, torch.tensor([0, 2, -100]), "train_data")
    check(out, torch.rand(2, 3), "train_data")
    check(out, torch.tensor([], dtype=torch.int64), "train_data")
    Loss(nn.CrossEntropyLoss(ignore_index=9)).check_labels(out, torch.tensor([9]), "train_data")
    Loss(F.cross_entropy).check_labels(out, torch.tensor([7]), "train_data")
    check(torch.zeros(2, 4, 5, 5), torch.full((2, 5, 5), 3), "train_data")


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        (nn.CrossEntropyLoss, "is the class CrossEntropyLoss"),
        ("cross_entropy", "cannot be called"),
        (None, "cannot be called"),
        (nn.MSELoss(reduction="none"), "reduction='none'"),
    ],
)
def test_what_is_no_loss(given, cause):
    with pytest.raises(EvaluatorError, match="loss") as caught:
        check_loss(given)
    assert cause in caught.value.cause


def test_describe_tells_settings_and_weights_apart():
    kinds = [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0])),
        nn.MSELoss(),
        F.cross_entropy,
    ]
    described = [describe_loss(k) for k in kinds]
    assert all(a != b for i, a in enumerate(described) for b in described[:i])
    assert describe_loss(nn.CrossEntropyLoss()) == described[0]
