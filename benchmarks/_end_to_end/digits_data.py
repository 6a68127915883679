"""scikit-learn's handwritten digits, and how long every contestant trains on them."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor

BATCH = 64
WEIGHT_DECAY = 5e-4
RATES = (0.005, 0.5)


def epochs() -> int:
    """As the benchmark was asked for."""
    return int(os.environ.get("END_TO_END_EPOCHS", "10"))


class Digits(NamedTuple):
    """Images ``[N, C, 8, 8]`` from 0 to 1, and labels ``[N]``: 1,200 to train on, 597 to score."""

    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor


def digits(channels: int = 1) -> Digits:
    """The data, the same for all; with three channels, these are equal."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    x = x.expand(-1, channels, 8, 8).contiguous()
    y = torch.tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, val = order[:1200], order[1200:]
    return Digits(x[train], y[train], x[val], y[val])
