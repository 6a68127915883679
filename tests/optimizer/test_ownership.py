"""Who owns what could be shared: all models, or the one that has it."""

from __future__ import annotations

import copy

import torch
from torch import nn

import retiarii as rt
from retiarii.testing.merging import check_merged


def _on_frozen(stem: nn.Linear, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(stem, nn.ReLU(), nn.Linear(8, 3)).double()


def _frozen(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(4, 8).requires_grad_(False)


def test_equal_frozen_layers_run_once() -> None:
    models = [_on_frozen(copy.deepcopy(_frozen(0)), i) for i in range(3)]
    stats = rt.merge(models, torch.zeros(2, 4, dtype=torch.float64), fuse="on").stats
    assert (stats.shared, stats.fused, stats.nodes_after) == (4, 3, 3)


def test_frozen_layers_that_differ_are_fused_and_all_behind_them() -> None:
    models = [_on_frozen(_frozen(i), i) for i in range(3)]
    merged = rt.merge(models, torch.zeros(2, 4, dtype=torch.float64), fuse="on")
    assert (merged.stats.shared, merged.stats.fused, merged.stats.nodes_after) == (0, 9, 3)
    batches = [(torch.randn(5, 4, dtype=torch.float64),) for _ in range(5)]
    check_merged(models, batches)


def test_what_some_models_share_stays_shared() -> None:
    stems = [_frozen(0), _frozen(0), _frozen(1)]
    models = [_on_frozen(stem, i) for i, stem in enumerate(stems)]
    merged = rt.merge(models, torch.zeros(2, 4, dtype=torch.float64), fuse="on")
    assert merged.stats.shared == 2
    batches = [(torch.randn(5, 4, dtype=torch.float64),) for _ in range(5)]
    check_merged(models, batches)
