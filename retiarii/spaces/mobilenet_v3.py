"""MobileNetV3-Large and what its search could change: kernels and squeeze-and-excitation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from retiarii.mutators.layers import LayerChoice
from retiarii.space import ModelSpace
from retiarii.spaces.blocks import conv_norm, inverted_residual, rounded

# kernel, hidden channels, channels, squeeze-and-excitation, h-swish, stride: Table 1 of the paper.
LARGE = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)

Row = tuple[int, int, int, bool, bool, int]

MOBILENET_V3_LARGE = {
    f"block{i}": f"k{kernel}{'_se' if excite else ''}"
    for i, (kernel, _, _, excite, _, _) in enumerate(LARGE)
}


def mobilenet_v3(
    classes: int = 1000,
    input_size: int = 224,
    *,
    blocks: Sequence[Row] = LARGE,
    kernels: Sequence[int] = (3, 5),
    features: tuple[int, int] = (960, 1280),
) -> ModelSpace:
    """Variations of MobileNetV3-Large (Howard et al., ICCV 2019).

    Each of its 15 blocks keeps its widths, and chooses its kernel and whether it has
    squeeze-and-excitation, as in the space of MnasNet (Tan et al., CVPR 2019) that it was found in.

    Size: (2 * 2)^15 = 1.07 * 10^9. The paper prints no size: this is ours.

    Reference: MobileNetV3-Large (`MOBILENET_V3_LARGE`), 5.4 M parameters and 219 M multiply-adds as
    published; ours has 5,483,032 and 217 M, those of the common implementations.

    Args:
        classes: of the classifier.
        input_size: height and width of the input, ``(n, 3, input_size, input_size)``.
        blocks: (kernel, hidden channels, channels, squeeze-and-excitation, h-swish, stride) of
            the published network; kernel and squeeze-and-excitation are what is chosen anew.
        kernels: to choose from.
        features: channels of the last two layers.
    """
    with torch.device("meta"):
        layers: list[nn.Module] = [conv_norm(3, 16, 3, 2, activation=nn.Hardswish)]
        channels = 16
        for number, (_, hidden, outputs, _, swish, stride) in enumerate(blocks):
            options = {
                f"k{kernel}{'_se' if excite else ''}": inverted_residual(
                    channels,
                    outputs,
                    kernel,
                    hidden,
                    stride,
                    squeezed=rounded(hidden // 4) if excite else 0,
                    activation=nn.Hardswish if swish else nn.ReLU,
                )
                for kernel in kernels
                for excite in (False, True)
            }
            layers.append(LayerChoice(options, label=f"block{number}"))
            channels = outputs
        layers += [
            conv_norm(channels, features[0], activation=nn.Hardswish),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(features[0], features[1]),
            nn.Hardswish(),
            nn.Linear(features[1], classes),
        ]
        net = nn.Sequential(*layers)
    return ModelSpace(net, torch.zeros(2, 3, input_size, input_size))
