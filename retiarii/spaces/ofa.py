"""Once-for-all: elastic kernel, width and depth of a MobileNetV3."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from retiarii.mutators.layers import LayerChoice, Repeat
from retiarii.space import ModelSpace
from retiarii.spaces.blocks import conv_norm, inverted_residual, rounded

# (channels, stride of the first block, squeeze-and-excitation, h-swish)
STAGES = (
    (24, 2, False, False),
    (40, 2, True, False),
    (80, 2, False, True),
    (112, 1, True, True),
    (160, 2, True, True),
)


def ofa_mobilenet_v3(
    classes: int = 1000,
    input_size: int = 224,
    *,
    width: float = 1.0,
    stages: Sequence[tuple[int, int, bool, bool]] = STAGES,
    depths: Sequence[int] = (2, 3, 4),
    kernels: Sequence[int] = (3, 5, 7),
    expansions: Sequence[int] = (3, 4, 6),
    features: Sequence[int] = (960, 1280),
) -> ModelSpace:
    """The space of once-for-all networks (Cai et al., ICLR 2020), on MobileNetV3.

    Five stages of two to four blocks, each block with one of three kernels and three expansions.
    Blocks beyond the chosen depth ask nothing.

    Size: ((3*3)^2 + (3*3)^3 + (3*3)^4)^5 = 7371^5 = 2.2 * 10^19, "about 2 * 10^19" as published
    (for one input resolution).

    Reference: the paper prints none with its decisions. Our largest network at width 1.0 has
    7,664,760 parameters. Weights are not shared: each candidate is trained for itself.

    Args:
        classes: of the classifier.
        input_size: height and width of the input, ``(n, 3, input_size, input_size)``.
        width: multiplies channels; the paper uses 1.0 and 1.2.
        stages: (channels, stride of the first block, squeeze-and-excitation, h-swish) of each.
        depths: blocks of a stage, to choose from.
        kernels: to choose from.
        expansions: to choose from.
        features: channels of the last two layers.
    """
    scaled = [rounded(features[0] * width), rounded(features[1] * width)]
    stem = rounded(16 * width)
    with torch.device("meta"):
        layers: list[nn.Module] = [
            conv_norm(3, stem, 3, 2, activation=nn.Hardswish),
            inverted_residual(stem, stem, 3, stem, activation=nn.ReLU),
        ]
        channels = stem
        for number, (outputs, stride, excite, swish) in enumerate(stages):
            outputs = rounded(outputs * width)

            def block(
                i: int,
                inputs: int = channels,
                outputs: int = outputs,
                stride: int = stride,
                excite: bool = excite,
                swish: bool = swish,
                number: int = number,
            ) -> nn.Module:
                inputs, step = (inputs, stride) if i == 0 else (outputs, 1)
                options = {}
                for kernel in kernels:
                    for expansion in expansions:
                        hidden = rounded(inputs * expansion)
                        options[f"k{kernel}e{expansion}"] = inverted_residual(
                            inputs,
                            outputs,
                            kernel,
                            hidden,
                            step,
                            squeezed=rounded(hidden // 4) if excite else 0,
                            activation=nn.Hardswish if swish else nn.ReLU,
                        )
                return LayerChoice(options, label=f"stage{number}/block{i}")

            layers.append(Repeat(block, list(depths), label=f"stage{number}/depth"))
            channels = outputs
        layers += [
            conv_norm(channels, scaled[0], activation=nn.Hardswish),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(scaled[0], scaled[1], 1, bias=False),
            nn.Hardswish(),
            nn.Flatten(),
            nn.Linear(scaled[1], classes),
        ]
        net = nn.Sequential(*layers)
    return ModelSpace(net, torch.zeros(2, 3, input_size, input_size))
