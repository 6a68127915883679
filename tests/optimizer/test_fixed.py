"""Models that hold for one batch size or one mode only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from retiarii.errors import MergeError
from retiarii.ir.parse import parse
from retiarii.optimizer.merge import merge


class OneSize(nn.Module):
    """Its weight has a row for each sample, so no other batch size runs."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.rows


def test_another_batch_size_is_refused() -> None:
    merged = merge([OneSize(), nn.Linear(4, 4)], torch.randn(3, 4))
    assert len(merged(torch.randn(3, 4))) == 2
    with pytest.raises(MergeError, match="3 only"):
        merged(torch.randn(5, 4))


def test_another_mode_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    exported = torch.export.export(
        model, (torch.zeros(3, 4),), dynamic_shapes=({0: torch.export.Dim("b", min=2)},)
    )
    graph = parse(exported, torch.zeros(3, 4))
    assert graph.context.fixed == {"training"}
    merged = merge([graph], torch.zeros(3, 4))
    assert merged(torch.randn(5, 4))[0].shape == (5, 4)
    merged.eval()
    with pytest.raises(MergeError, match="training mode only"):
        merged(torch.randn(5, 4))


class Halved(nn.Module):
    """Its Python reads how long the inputs are."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self.times = nn.Parameter(torch.tensor(times))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : x.shape[1] // 2] * self.times


class Summed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)


def test_another_size_that_a_model_reads_is_refused() -> None:
    merged = merge([Summed(), Halved(2.0), Halved(3.0)], torch.randn(3, 8))
    x = torch.randn(5, 8)
    torch.testing.assert_close(merged(x)[2], x[:, :4] * 3)
    with pytest.raises(MergeError, match=r"'x' has size 6 in dimension 1.*for 8") as raised:
        merged(torch.randn(5, 6))
    assert "test_fixed.py" in str(raised.value)
    rest = merged.without([1, 2])
    assert rest(torch.randn(5, 6))[0].shape == (5,)


def test_models_that_read_no_size_run_at_any() -> None:
    merged = merge([Summed(), nn.ReLU()], torch.randn(3, 8))
    assert merged(torch.randn(5, 6))[1].shape == (5, 6)
