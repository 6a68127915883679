"""The same models and hyper-parameters, written for Optuna and plain PyTorch.

Nothing of Retiarii is imported here. Each task is a function of an Optuna trial that returns how
to train which model. Parameters are called like our decisions, so that ours can be enqueued.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import optuna
import torch
from digits_data import RATES, WEIGHT_DECAY
from torch import Tensor, nn

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


@dataclass(frozen=True)
class Recipe:
    """What to train, and how.

    Attributes:
        model: builds it.
        lr, momentum, weight_decay: of SGD.
    """

    model: Callable[[], nn.Module]
    lr: float
    momentum: float = 0.9
    weight_decay: float = WEIGHT_DECAY


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


_EDGE: Mapping[str, Callable[[int], nn.Module]] = MappingProxyType(
    {
        "skip_connect": lambda channels: nn.Identity(),  # noqa: ARG005
        "nor_conv_1x1": lambda channels: _conv(channels, channels, 1),
        "nor_conv_3x3": lambda channels: _conv(channels, channels, 3),
        "avg_pool_3x3": lambda channels: nn.AvgPool2d(  # noqa: ARG005
            3, 1, 1, count_include_pad=False
        ),
    }
)


class Cell(nn.Module):
    """Edges of kind ``none`` are left out, and nodes that only they reach, as one would by hand."""

    def __init__(self, channels: int, kinds: Mapping[tuple[int, int], str]) -> None:
        super().__init__()
        into: list[list[tuple[int, nn.Module]]] = [[] for _ in range(4)]
        needed = {3}
        for target in (3, 2, 1):
            for source in range(target):
                kind = kinds[source, target]
                if target in needed and kind != "none":
                    needed.add(source)
        alive = {0}
        for target in (1, 2, 3):
            for source in range(target):
                kind = kinds[source, target]
                if kind != "none" and source in alive and target in needed:
                    into[target].append((source, _EDGE[kind](channels)))
                    alive.add(target)
        self.plan = [[source for source, _ in edges] for edges in into]
        self.edges = nn.ModuleList(nn.ModuleList(m for _, m in edges) for edges in into)

    def forward(self, x: Tensor) -> Tensor:
        nodes: list[Tensor | None] = [x, None, None, None]
        for target in (1, 2, 3):
            total = None
            for source, edge in zip(self.plan[target], self.edges[target], strict=True):
                part = edge(nodes[source])
                total = part if total is None else total + part
            nodes[target] = total
        return torch.zeros_like(x) if nodes[3] is None else nodes[3]


class Reduction(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(channels, 2 * channels, 3, 2), _conv(2 * channels, 2 * channels, 3)
        )
        self.down = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, 2 * channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.body(x) + self.down(x)
        return made


def _cell_net(kinds: Mapping[tuple[int, int], str]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        Cell(8, kinds),
        Reduction(8),
        Cell(16, kinds),
        Reduction(16),
        Cell(32, kinds),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def cells(trial: optuna.Trial) -> Recipe:
    kinds = {(s, t): trial.suggest_categorical(f"edge{s}{t}", OPERATIONS) for s, t in EDGES}
    return Recipe(lambda: _cell_net(kinds), trial.suggest_float("lr", *RATES, log=True))


def _small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def tuning(trial: optuna.Trial) -> Recipe:
    return Recipe(
        _small_cnn,
        trial.suggest_float("lr", *RATES, log=True),
        trial.suggest_float("momentum", 0.0, 0.95),
        trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True),
    )


_BRANCH: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "conv": lambda: nn.Conv2d(16, 16, 3, padding=1),
        "depthwise": lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16),
        "maxpool": lambda: nn.MaxPool2d(3, stride=1, padding=1),
    }
)


class Inception(nn.Module):
    def __init__(self, kinds: list[str]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.branches = nn.ModuleList(_BRANCH[kind]() for kind in kinds)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16 * len(kinds), 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        made: Tensor = self.head(torch.cat([branch(x) for branch in self.branches], 1))
        return made


def inception(trial: optuna.Trial) -> Recipe:
    place = "Inception/mixer"
    count = trial.suggest_categorical(f"{place}/branches", [2, 3, 4, 5])
    kinds = [trial.suggest_categorical(f"{place}/op{i}", tuple(_BRANCH)) for i in range(count)]
    return Recipe(lambda: Inception(kinds), trial.suggest_float("lr", *RATES, log=True))


RECIPES: Mapping[str, Callable[[optuna.Trial], Recipe]] = MappingProxyType(
    {"cells": cells, "tuning": tuning, "inception": inception}
)
CHANNELS: Mapping[str, int] = MappingProxyType({"cells": 3, "tuning": 1, "inception": 1})
