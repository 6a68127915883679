"""ProxylessNAS: kernel, expansion and depth of a MobileNetV2-like network, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import nn

from retiarii.mutators.layers import LayerChoice
from retiarii.space import ModelSpace
from retiarii.spaces.blocks import conv_norm, inverted_residual, pooled_head

# (channels, blocks, stride of the first block); the Mobile, GPU and CPU networks' widths.
STAGES = ((32, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1))

# "k3e6": kernel 3, expansion 6. Blocks in order; the widths are those of `STAGES`.
PROXYLESS_MOBILE: Mapping[str, str] = MappingProxyType(
    {
        f"block{i}": kind
        for i, kind in enumerate(
            [
                "k5e3",
                "k3e3",
                "zero",
                "zero",
                "k7e3",
                "k3e3",
                "k5e3",
                "k5e3",
                "k7e6",
                "k5e3",
                "k5e3",
                "k5e3",
                "k5e6",
                "k5e3",
                "k5e3",
                "k5e3",
                "k7e6",
                "k7e6",
                "k7e3",
                "k7e3",
                "k7e6",
            ]
        )
    }
)


def proxylessnas(
    classes: int = 1000,
    input_size: int = 224,
    *,
    stem: int = 32,
    first: int = 16,
    stages: Sequence[tuple[int, int, int]] = STAGES,
    features: int = 1280,
    kernels: Sequence[int] = (3, 5, 7),
    expansions: Sequence[int] = (3, 6),
) -> ModelSpace:
    """The space of ProxylessNAS (Cai, Zhu and Han, ICLR 2019).

    A network of 21 searchable blocks. Each is an inverted residual with one of three kernels and
    two expansions; one that keeps its shape may also be ``"zero"``, which leaves its shortcut
    alone and so takes the block out.

    Size: the paper counts seven operations a block; 7^21 = 5.6 * 10^17. Six of the blocks change
    their shape and cannot be left out: exactly 6^6 * 7^15 = 2.2 * 10^17.

    Reference: Proxyless-Mobile (`PROXYLESS_MOBILE`), 4.1 M parameters and 320 M multiply-adds as
    published. Ours has 4,080,512 parameters, those of the released model.

    Args:
        classes: of the classifier.
        input_size: height and width of the input, ``(n, 3, input_size, input_size)``.
        stem: channels of the first convolution.
        first: channels of the first block, which is fixed.
        stages: (channels, blocks, stride of the first) of each.
        features: channels before the classifier.
        kernels: to choose from.
        expansions: to choose from.
    """
    with torch.device("meta"):
        layers: list[nn.Module] = [
            conv_norm(3, stem, 3, 2, activation=nn.ReLU6),
            inverted_residual(stem, first, 3, stem),
        ]
        channels, number = first, 0
        for outputs, blocks, stride in stages:
            for i in range(blocks):
                step = stride if i == 0 else 1
                options: dict[str, nn.Module] = {
                    f"k{k}e{e}": inverted_residual(channels, outputs, k, e * channels, step)
                    for k in kernels
                    for e in expansions
                }
                if step == 1 and channels == outputs:
                    options["zero"] = nn.Identity()
                layers.append(LayerChoice(options, label=f"block{number}"))
                channels, number = outputs, number + 1
        layers += [conv_norm(channels, features, activation=nn.ReLU6)]
        net = nn.Sequential(*layers, *pooled_head(features, classes))
    return ModelSpace(net, torch.zeros(2, 3, input_size, input_size))
