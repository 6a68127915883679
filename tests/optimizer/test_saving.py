"""A merged model's ``state_dict`` holds all that changes, buffers of opaque parts included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import retiarii as rt


class Counting(nn.Module):
    """Counts samples in training; writing a buffer makes it opaque."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += x.shape[0]
        made: Tensor = self.linear(x)
        return made


def _merged(seed: int) -> rt.MergedModel:
    torch.manual_seed(seed)
    plain = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    return rt.merge([Counting(), plain, Counting()], torch.zeros(2, 4))


def test_a_state_goes_to_another_merged_model() -> None:
    first, second = _merged(0), _merged(1)
    for _ in range(3):
        first(torch.randn(5, 4))
    second.load_state_dict(first.state_dict())
    for model in range(3):
        ours, theirs = first.state_dict_of(model), second.state_dict_of(model)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert second.state_dict_of(2)["seen"] == 15
    second(torch.randn(5, 4))
    assert second.state_dict_of(0)["seen"] == 20
    assert first.state_dict_of(0)["seen"] == 15


def test_entries_that_do_not_fit_are_told() -> None:
    merged = _merged(0)
    state = {k: v for k, v in merged.state_dict().items() if k != "opaque.2.seen"}
    state["opaque.7.seen"] = torch.zeros(())
    with pytest.raises(RuntimeError, match=r'(?s)Missing.*"opaque.2.seen".*Unexp.*"opaque.7.seen"'):
        merged.load_state_dict(state)
    found = merged.load_state_dict(state, strict=False)
    assert found == (["opaque.2.seen"], ["opaque.7.seen"])


def test_printing_says_what_merging_did() -> None:
    merged = _merged(0)
    assert str(merged.stats) in repr(merged)
