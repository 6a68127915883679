"""NAS-Bench-Macro: identity or one of two inverted residuals in each of eight layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from retiarii.mutators.layers import LayerChoice
from retiarii.space import ModelSpace
from retiarii.spaces.blocks import conv_norm, inverted_residual, pooled_head

OPERATIONS = ("identity", "k3e3", "k5e6")
STAGES = ((64, 2), (128, 3), (256, 3))


def decisions_macro(layers: str) -> Mapping[str, str]:
    """Decisions for a network written with a digit a layer, as in the published table."""
    return {f"layer{i}": OPERATIONS[int(digit)] for i, digit in enumerate(layers)}


def nas_bench_macro(
    classes: int = 10,
    input_size: int = 32,
    *,
    stem: int = 32,
    stages: Sequence[tuple[int, int]] = STAGES,
    features: int = 1280,
) -> ModelSpace:
    """The space of NAS-Bench-Macro (Su et al., CVPR 2021).

    Where a layer changes the shape, ``"identity"`` is a 1x1 convolution.

    Size: 3^8 = 6,561, as published.

    Reference: parameters and multiply-adds of all networks are in the published table; ours are
    equal to the last digit.

    Args:
        classes: of the classifier.
        input_size: height and width of the input, ``(n, 3, input_size, input_size)``.
        stem: channels of the first convolution.
        stages: (channels, layers) of each; the first layer halves height and width.
        features: channels before the classifier.
    """
    with torch.device("meta"):
        layers: list[nn.Module] = [conv_norm(3, stem, 3, activation=nn.ReLU6)]
        channels, number = stem, 0
        for outputs, count in stages:
            for i in range(count):
                stride = 2 if i == 0 else 1
                options = {
                    "identity": nn.Identity()
                    if stride == 1
                    else conv_norm(channels, outputs, 1, stride, activation=None),
                    "k3e3": inverted_residual(channels, outputs, 3, 3 * channels, stride),
                    "k5e6": inverted_residual(channels, outputs, 5, 6 * channels, stride),
                }
                layers.append(LayerChoice(options, label=f"layer{number}"))
                channels, number = outputs, number + 1
        layers.append(conv_norm(channels, features, activation=nn.ReLU6))
        net = nn.Sequential(*layers, *pooled_head(features, classes))
    return ModelSpace(net, torch.zeros(2, 3, input_size, input_size))
