"""Models that take their inputs alike, whatever else their ``forward`` would take."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from retiarii.errors import MergeError
from retiarii.ir.parse import parse
from retiarii.optimizer.merge import merge as merge_where_it_pays

merge = partial(merge_where_it_pays, fuse="on")
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Masked(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2).double()
        self.scale = scale

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.layer(x if mask is None else x * mask) * self.scale


class Flagged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2).double()

    def forward(self, x: Tensor, flag: bool = True) -> Tensor:
        return self.layer(x if flag else -x)


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2)).double()


@pytest.mark.parametrize("first", [0, 1, 2])
def test_an_optional_input_that_is_not_given(first: int) -> None:
    models = [Masked(), plain(), Flagged()]
    models = models[first:] + models[:first]
    merged = merge(models, X)
    for ours, model in zip(merged(X), models, strict=True):
        torch.testing.assert_close(ours, model(X), rtol=1e-12, atol=1e-12)
    with pytest.raises(MergeError, match="cannot be called so"):
        merged(X, X)


def test_what_all_have_may_be_named() -> None:
    merged = merge([Masked(), Masked(2.0)], X)
    merged(X, mask=None)
    with pytest.raises(MergeError, match="lowered with None"):
        merged(X, mask=X)


def test_what_models_were_lowered_with_differently_may_not() -> None:
    models = [Flagged(), Flagged()]
    graphs = [parse(models[0], (X, True)), parse(models[1], (X, False))]
    merged = merge(graphs)
    with pytest.raises(MergeError, match="cannot be called so"):
        merged(X, flag=True)
    own = [graph.to_module() for graph in graphs]
    for ours, model in zip(merged(X), own, strict=True):
        torch.testing.assert_close(ours, model(X), rtol=1e-12, atol=1e-12)


def test_an_input_that_is_given_to_some_only() -> None:
    with pytest.raises(MergeError, match="take different inputs"):
        merge([parse(Masked(), (X, X)), parse(plain(), X)])


def test_layers_that_are_frozen_after_merging_are_so_alone() -> None:
    models = [plain() for _ in range(3)]
    models[1][0].bias.requires_grad_(False)
    merged = merge([copy.deepcopy(model) for model in models], X)
    weights = [p for p in merged.parameters() if p.ndim == 3]
    for weight in weights:
        weight.requires_grad_(False)
    for index, model in enumerate(merged.unmerge()):
        assert not model[0].weight.requires_grad
        assert model[0].bias.requires_grad is (index != 1)
    for weight in weights:
        weight.requires_grad_(True)
    assert merged.module_of(0)[0].weight.requires_grad
