"""AutoFormer: width, depth, heads and MLP ratios of a vision transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from retiarii.mutators.layers import LayerChoice, Repeat
from retiarii.space import ModelSpace


@dataclass(frozen=True, slots=True)
class SuperNetwork:
    """What may be chosen.

    Attributes:
        widths: of the tokens.
        depths: numbers of layers.
        heads: of a layer's attention; each head is 64 wide, whatever the tokens.
        ratios: of a layer's MLP to the tokens' width.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    ratios: tuple[float, ...]

    def size(self) -> int:
        """The number of networks: widths * sum over depths d of (heads * ratios)^d."""
        layer = len(self.heads) * len(self.ratios)
        return len(self.widths) * sum(int(layer**depth) for depth in self.depths)


SUPER_NETWORKS: Mapping[str, SuperNetwork] = MappingProxyType(
    {
        "tiny": SuperNetwork((192, 216, 240), (12, 13, 14), (3, 4), (3.5, 4.0)),
        "small": SuperNetwork((320, 384, 448), (12, 13, 14), (5, 6, 7), (3.0, 3.5, 4.0)),
        "base": SuperNetwork((528, 576, 624), (14, 15, 16), (8, 9, 10), (3.0, 3.5, 4.0)),
    }
)


def decisions_autoformer(
    width: int, heads: Sequence[int], ratios: Sequence[float]
) -> dict[str, Any]:
    """Decisions for a network with these heads and MLP ratios, layer by layer."""
    made: dict[str, Any] = {"width": width, "depth": len(heads)}
    for i, (count, ratio) in enumerate(zip(heads, ratios, strict=True)):
        made[f"layer{i}/heads"], made[f"layer{i}/ratio"] = count, round(100 * ratio)
    return made


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * head_width)
        self.out = nn.Linear(heads * head_width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        parts = self.qkv(self.norm(x)).reshape(batch, tokens, 3, self.heads, self.head_width)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        read = F.scaled_dot_product_attention(query, key, value)
        read = read.transpose(1, 2).reshape(batch, tokens, self.heads * self.head_width)
        made: torch.Tensor = x + self.out(read)
        return made


class _Feed(nn.Module):
    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = x + self.down(F.gelu(self.up(self.norm(x))))
        return made


class _Trunk(nn.Module):
    """The whole network at one width."""

    def __init__(
        self, of: SuperNetwork, width: int, classes: int, size: int, patch: int, head_width: int
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        # Candidates begin with these values: raw parameters have no initialiser to run again.
        source = torch.Generator().manual_seed(0)
        rows = torch.empty(1, (size // patch) ** 2 + 2, width, device="cpu")
        rows.normal_(0.0, 0.02, generator=source)
        self.token = nn.Parameter(rows[:, :1].clone())
        self.positions = nn.Parameter(rows[:, 1:].clone())

        def layer(i: int) -> nn.Module:
            return nn.Sequential(
                LayerChoice(
                    {n: _Attention(width, n, head_width) for n in of.heads},
                    label=f"layer{i}/heads",
                ),
                LayerChoice(
                    {round(100 * r): _Feed(width, r) for r in of.ratios},
                    label=f"layer{i}/ratio",
                ),
            )

        self.layers = Repeat(layer, list(of.depths), label="depth")
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        token = self.token.expand(tokens.shape[0], -1, -1)
        tokens = torch.cat([token, tokens], dim=1) + self.positions
        made: torch.Tensor = self.head(self.norm(self.layers(tokens))[:, 0])
        return made


def autoformer(
    of: str | SuperNetwork = "tiny",
    classes: int = 1000,
    input_size: int = 224,
    *,
    patch: int = 16,
    head_width: int = 64,
) -> ModelSpace:
    """The space of AutoFormer (Chen, Peng, Fu and Ling, ICCV 2021).

    Layers beyond the chosen depth ask nothing; MLP ratios are in percent. As the released code
    has it, the widths of queries, keys and values follow from the number of heads. Relative
    position embeddings are left out.

    Size: `SuperNetwork.size`. Base has 3 * (9^14 + 9^15 + 9^16) = 6.2 * 10^15 networks. The paper
    says "more than 1.7 * 10^16" for all its spaces, which is what 3 * 3 * 9^16 = 9^17
    makes: base, with the choices of layers that are not there.

    Reference: the paper prints ranges of parameters: tiny 4 M to 9 M, small 14 M to 34 M, base
    42 M to 75 M. Ours are 5.3 M to 10.4 M, 13.0 M to 34.7 M and 39.7 M to 76.8 M: the options that
    it prints allow no tiny network of 4 M; why, we do not know.

    Args:
        of: ``"tiny"``, ``"small"``, ``"base"``, or what else may be chosen.
        classes: of the classifier.
        input_size: height and width of the input, ``(n, 3, input_size, input_size)``.
        patch: height and width of a patch.
        head_width: of queries, keys and values.
    """
    given = SUPER_NETWORKS[of] if isinstance(of, str) else of
    with torch.device("meta"):
        trunks = {
            width: _Trunk(given, width, classes, input_size, patch, head_width)
            for width in given.widths
        }
        net = nn.Sequential(LayerChoice(trunks, label="width"))
    return ModelSpace(net, torch.zeros(2, 3, input_size, input_size))
