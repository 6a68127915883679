"""FBNet: nine blocks to choose from in each of 22 layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import nn

from retiarii.mutators.layers import LayerChoice
from retiarii.space import ModelSpace
from retiarii.spaces.blocks import conv_norm, inverted_residual, pooled_head

# (channels, layers, stride of the first)
STAGES = (
    (16, 1, 1),
    (24, 4, 2),
    (32, 4, 2),
    (64, 4, 2),
    (112, 4, 1),
    (184, 4, 2),
    (352, 1, 1),
)

# kernel, expansion, groups of the 1x1 convolutions
BLOCKS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "k3_e1": (3, 1, 1),
        "k3_e1_g2": (3, 1, 2),
        "k3_e3": (3, 3, 1),
        "k3_e6": (3, 6, 1),
        "k5_e1": (5, 1, 1),
        "k5_e1_g2": (5, 1, 2),
        "k5_e3": (5, 3, 1),
        "k5_e6": (5, 6, 1),
    }
)


def _named(kinds: str) -> Mapping[str, str]:
    return MappingProxyType({f"layer{i}": kind for i, kind in enumerate(kinds.split())})


FBNET_A = _named(
    "skip k3_e3 k3_e1 skip skip k5_e6 k3_e3 k5_e1 k3_e3 k5_e6 k5_e3 k5_e1_g2 k5_e6 "
    "k3_e6 k5_e1_g2 k5_e1 k3_e1_g2 k5_e6 k5_e6 k5_e3 k5_e6 k5_e6"
)
FBNET_B = _named(
    "k3_e1 k3_e6 k5_e1 k3_e1 k3_e1 k5_e6 k5_e3 k3_e6 k5_e6 k5_e6 k5_e1 skip k5_e3 "
    "k5_e6 k3_e1 k5_e1 k5_e3 k5_e6 k5_e1 k5_e6 k5_e6 k3_e6"
)
FBNET_C = _named(
    "k3_e1 k3_e6 skip k3_e1 k3_e1 k5_e6 k5_e3 k5_e6 k3_e6 k5_e6 k5_e3 k5_e6 k5_e6 "
    "k5_e6 k5_e6 k5_e6 k5_e3 k5_e6 k5_e6 k5_e6 k5_e6 k3_e6"
)


def fbnet(
    classes: int = 1000,
    input_size: int = 224,
    *,
    stem: int = 16,
    stages: Sequence[tuple[int, int, int]] = STAGES,
    features: int = 1984,
) -> ModelSpace:
    """The space of FBNet (Wu et al., CVPR 2019).

    Each layer is one of eight inverted residuals (kernel 3 or 5; expansion 1, 1 with grouped 1x1
    convolutions, 3 or 6) or ``"skip"``: the identity, or a 1x1 convolution where shapes differ.

    Size: 9^22, "about 10^21" as published; exactly that.

    Reference, as published: FBNet-A 4.3 M parameters and 249 M multiply-adds, FBNet-B 4.5 M and
    295 M, FBNet-C 5.5 M and 375 M. Ours are of the cells in the released code, which came after
    the paper: 4.9 M and 248 M, 4.8 M and 297 M, 5.57 M and 385 M. Multiply-adds are within 3 %,
    C's parameters within 2 %; those of A and B are not the paper's (with 1,504 features before
    the classifier, A has 4.27 M).

    Args:
        classes: of the classifier.
        input_size: height and width of the input, ``(n, 3, input_size, input_size)``.
        stem: channels of the first convolution.
        stages: (channels, layers, stride of the first) of each.
        features: channels before the classifier.
    """
    with torch.device("meta"):
        layers: list[nn.Module] = [conv_norm(3, stem, 3, 2)]
        channels, number = stem, 0
        for outputs, count, stride in stages:
            for i in range(count):
                step = stride if i == 0 else 1
                options = {
                    name: inverted_residual(
                        channels,
                        outputs,
                        kernel,
                        expansion * channels,
                        step,
                        groups=groups,
                        activation=nn.ReLU,
                        expand=True,
                    )
                    for name, (kernel, expansion, groups) in BLOCKS.items()
                }
                options["skip"] = (
                    nn.Identity()
                    if step == 1 and channels == outputs
                    else conv_norm(channels, outputs, 1, step)
                )
                layers.append(LayerChoice(options, label=f"layer{number}"))
                channels, number = outputs, number + 1
        layers.append(conv_norm(channels, features))
        net = nn.Sequential(*layers, *pooled_head(features, classes))
    return ModelSpace(net, torch.zeros(2, 3, input_size, input_size))
