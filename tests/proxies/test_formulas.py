"""Each proxy on models that are small enough to compute by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retiarii.errors import ObjectiveError
from retiarii.proxies.base import Sample
from retiarii.proxies.naswot import agreement
from retiarii.proxies.passes import run
from retiarii.proxies.registry import REGISTERED, make_proxy


def linear(*rows: list[float], bias: list[float] | None = None) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=bias is not None)
    layer.weight.data = torch.tensor(rows)
    if bias is not None:
        layer.bias.data = torch.tensor(bias)
    return layer


def sample(*rows: list[float], targets: Any = None, loss: Any = None) -> Sample:
    return Sample((torch.tensor(rows, dtype=torch.float64),), {}, targets, loss)


def score(name: str, model: nn.Module, given: Sample, seed: int = 0) -> float:
    (found,) = run(make_proxy(name), [model], given, seed)
    return found


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - targets) ** 2).mean() / 2


def test_synflow_is_the_flow_once_for_each_layer_of_weights() -> None:
    # |W2| |W1| 1 = [3 4] . [1 + 2, 0.5 + 0] = 9 + 2 = 11; every path passes both layers
    model = nn.Sequential(linear([1.0, -2.0], [-0.5, 0.0]), nn.ReLU(), linear([3.0, -4.0]))
    assert score("synflow", model, sample([9.0, 9.0], [7.0, 1.0])) == pytest.approx(22.0)


def test_synflow_takes_no_biases_and_norms_for_weights() -> None:
    # the flow is |w| + |b| = 2 + 5, of which d/dw takes w * 1 alone
    model = nn.Sequential(linear([-2.0], bias=[-5.0]), nn.BatchNorm1d(1))
    expected = 2.0 / math.sqrt(1 + 1e-5)
    assert score("synflow", model, sample([1.0], [1.0])) == pytest.approx(expected)


@pytest.mark.parametrize(("name", "expected"), [("snip", 4.0 + 3.0), ("grad_norm", 5.0)])
def test_what_a_loss_says_of_weights(name: str, expected: float) -> None:
    # f = w.x = 1 * 1 + 1 * -0.75 = 0.25 ... L = (f - t)^2 / 2, dL/dw = (f - t) x
    model = linear([1.0, -1.0])
    given = sample([4.0, 3.0], targets=torch.zeros(1, 1, dtype=torch.float64), loss=half_square)
    # f = 4 - 3 = 1, so that the gradient is [4, 3], and w * gradient = [4, -3]
    assert score(name, model, given) == pytest.approx(expected)


def test_grad_norm_adds_layers_up() -> None:
    # f = b a x with a = 2, b = 3, x = 1, t = 5: f - t = 1; dL/da = 3, dL/db = 2
    model = nn.Sequential(linear([2.0]), linear([3.0]))
    given = sample([1.0], targets=torch.full((1, 1), 5.0, dtype=torch.float64), loss=half_square)
    assert score("grad_norm", model, given) == pytest.approx(3.0 + 2.0)
    assert score("snip", nn.Sequential(linear([2.0]), linear([3.0])), given) == pytest.approx(12.0)


def test_naswot() -> None:
    # codes 10, 01 -> they agree in no bit: K = 2 I, log det = 2 log 2
    model = nn.Sequential(linear([1.0], [-1.0]), nn.ReLU())
    assert score("naswot", model, sample([3.0], [-3.0])) == pytest.approx(2 * math.log(2))
    # codes 11, 10: K = [[2, 1], [1, 2]]
    one = nn.Sequential(linear([1.0], [1.0], bias=[0.0, 2.0]), nn.ReLU())
    assert score("naswot", one, sample([3.0], [-1.0])) == pytest.approx(math.log(3))


def test_naswot_of_samples_that_look_alike() -> None:
    assert agreement((torch.tensor([[1.0, -1.0], [2.0, -5.0]]),)) == -math.inf
    assert agreement(()) == -math.inf


def test_jacob_cov() -> None:
    # f = relu(x1) + relu(-x2): rows of the Jacobian are [1, 0] and [0, -1]. Centred, they are
    # [.5, -.5] and [.5, -.5]: their correlation is 1, and its eigenvalues 0 and 2.
    model = nn.Sequential(linear([1.0, 0.0], [0.0, -1.0]), nn.ReLU(), linear([1.0, 1.0]))
    given = sample([1.0, 1.0], [-1.0, -1.0])
    k = 1e-5
    expected = -sum(math.log(v + k) + 1 / (v + k) for v in (0.0, 2.0))
    assert score("jacob_cov", model, given) == pytest.approx(expected, rel=1e-6)


def test_jacob_cov_of_samples_that_differ_is_higher() -> None:
    # rows [1, 0] and [0, 1]: correlation -1, and the same eigenvalues; a third input frees them
    same = linear([1.0, 2.0, 3.0])
    assert score("jacob_cov", same, sample([1.0] * 3, [2.0] * 3)) < -1e4
    layers = (linear([1.0, 2.0, 4.0], [-4.0, -1.0, 1.0]), nn.ReLU(), linear([1.0, 1.0]))
    free = score("jacob_cov", nn.Sequential(*layers), sample([1.0] * 3, [-1.0] * 3))
    row = torch.corrcoef(torch.tensor([[1.0, 2.0, 4.0], [-4.0, -1.0, 1.0]], dtype=torch.float64))
    values = [1 - float(row[0, 1]), 1 + float(row[0, 1])]
    assert free == pytest.approx(-sum(math.log(v + 1e-5) + 1 / (v + 1e-5) for v in values))


def test_zen_of_a_linear_model_is_the_log_of_how_it_stretches() -> None:
    # f(x + a e) - f(x) = a W e, whatever x is
    model = linear([7.0, 7.0], [7.0, 7.0])
    given = sample([0.0, 0.0], [0.0, 0.0], [0.0, 0.0])
    found = score("zen", model, given, seed=3)
    weight = model.weight.detach()  # what the proxy has drawn
    assert not torch.equal(weight, torch.full((2, 2), 7.0, dtype=torch.float64))
    from retiarii.proxies.zen import _drawer

    noise = _drawer(3, "noise")(given.args[0])
    expected = (0.01 * noise @ weight.T).norm(dim=1).mean().log()
    assert found == pytest.approx(float(expected))


def test_zen_makes_up_for_batch_norm() -> None:
    """A BatchNorm divides the features by s, and the score multiplies by it: nothing changes."""
    given = sample(*([0.0, 0.0],) * 4096)
    plain = score("zen", nn.Sequential(nn.Linear(2, 1, bias=False)), given)
    norm = nn.BatchNorm1d(1)
    assert score("zen", nn.Sequential(nn.Linear(2, 1, bias=False), norm), given) == pytest.approx(
        plain, rel=1e-2
    )


def test_zen_looks_at_what_is_pooled() -> None:
    conv = nn.Conv2d(1, 1, 1, bias=False)
    given = Sample((torch.zeros(4, 1, 3, 3, dtype=torch.float64),), {})
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 5))
    pooled = score("zen", nn.Sequential(conv, *head), given)
    assert pooled == pytest.approx(
        score("zen", nn.Sequential(nn.Conv2d(1, 1, 1, bias=False)), given)
    )


def test_jacob_cov_needs_one_input_of_numbers() -> None:
    words = Sample((torch.zeros(2, 3, dtype=torch.int64),), {})
    with pytest.raises(ObjectiveError, match="whole numbers"):
        run(make_proxy("jacob_cov"), [nn.Embedding(5, 2)], words, 0)


def test_unknown_proxy() -> None:
    with pytest.raises(ObjectiveError, match="synflow"):
        make_proxy("synflo")
    assert set(REGISTERED) == {"synflow", "naswot", "snip", "grad_norm", "jacob_cov", "zen"}
