"""The models of the workloads whose members are equal."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10
TOKENS, WIDTH, HEADS = 16, 32, 4


class SmallCNN(nn.Module):
    """Three convolutions, of which the second halves the image."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential()
        inputs = 3
        for i, (outputs, stride) in enumerate(
            ((channels, 1), (2 * channels, 2), (2 * channels, 1))
        ):
            self.body.add_module(
                f"conv{i}", nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            )
            self.body.add_module(f"norm{i}", nn.BatchNorm2d(outputs))
            self.body.add_module(f"relu{i}", nn.ReLU())
            inputs = outputs
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(inputs, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.body(x)).flatten(1))


class EncoderLayer(nn.Module):
    """Attention and an MLP, each behind a LayerNorm."""

    def __init__(self, width: int = WIDTH, heads: int = HEADS) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        parts = [
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        x = x + self.out(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Encoder(nn.Module):
    """A transformer encoder over tokens ``[B, TOKENS, WIDTH]``."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(layers))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


class Frozen(nn.Module):
    """A backbone that does not learn, the same in every model, and a head of its own."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(-1)
        self.backbone = nn.Sequential(SmallCNN(16).body, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.backbone.requires_grad_(False).eval()
        torch.manual_seed(seed)
        self.head = nn.Sequential(nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))
