"""Random models from a list of numbers: whatever the list, shapes fit, so hypothesis can shrink it.

A model takes images ``[B, 3, 6, 6]`` and tokens ``[B, 5]`` (integers below 7). Each step of its
recipe reads values that are there and adds one; the last value of each kind reaches the output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TOKENS: Final = 7
SIZE: Final = 6
WIDTH: Final = 4
MOST: Final = 8  # more channels than this are not doubled


@dataclass(frozen=True)
class Step:
    """One step of a recipe; numbers are taken modulo what there is to choose from.

    Attributes:
        op: a key of `OPS`.
        first: which value it reads.
        second: which other value, where it reads two.
        option: a setting of the op: kernel size, bias, rate ...
        tie: whether it calls the latest layer of the same kind and shapes again.
    """

    op: str
    first: int = 0
    second: int = 0
    option: int = 0
    tie: bool = False


@dataclass(frozen=True)
class Recipe:
    """A random model.

    Attributes:
        steps: in order.
        frozen: how many layers, from the first, take no gradient.
        output: which structure is returned.
        shared_seed: layers of frozen prefixes get their weights from here: equal in all models.
    """

    steps: tuple[Step, ...]
    frozen: int = 0
    output: str = "tensor"
    shared_seed: int = 3


class RandomNet(nn.Module):
    """The model of a recipe; its trainable weights are a function of ``seed``."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.layers = nn.ModuleList()
        self.scales = nn.ParameterList()
        self.register_buffer("shift", torch.linspace(-0.1, 0.1, 3).view(3, 1, 1) * (1 + seed % 3))
        # For each step: which values, which layer. Worked out once, on shapes.
        self._program: list[tuple[str, int, int, int | None, int]] = []
        with torch.random.fork_rng(devices=[]):
            self._build(seed)
        self.double()

    # --- making -------------------------------------------------------------------------------

    def _build(self, seed: int) -> None:
        images: list[tuple[int, int]] = [(3, SIZE)]  # (channels, size)
        made: dict[Any, int] = {}
        for step in self.recipe.steps:
            first = step.first % len(images)
            channels, size = images[first]
            alike = [i for i, shape in enumerate(images) if shape == (channels, size)]
            second = alike[step.second % len(alike)]
            make, out = OPS[step.op](channels, size, step.option)
            layer: int | None = None
            if make is not None:
                key = (step.op, channels, size, step.option)
                if not (step.tie and key in made):
                    frozen = len(self.layers) < self.recipe.frozen
                    torch.manual_seed(
                        self.recipe.shared_seed + len(self.layers)
                        if frozen
                        else 1000 * seed + len(self.layers)
                    )
                    part = make().requires_grad_(not frozen)
                    made[key] = len(self.layers)
                    self.layers.append(part)
                layer = made[key]
            images.append(out)
            self._program.append((step.op, first, second, layer, step.option))
        torch.manual_seed(1000 * seed + 999)
        self.scales.append(nn.Parameter(torch.rand(())))
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.head = nn.Linear(images[-1][0] + WIDTH, 3)

    # --- running ------------------------------------------------------------------------------

    def forward(self, image: Tensor, tokens: Tensor) -> Any:
        """An output of the recipe's structure."""
        values = [image]
        for op, first, second, layer, option in self._program:
            part = None if layer is None else self.layers[layer]
            values.append(self._run(op, part, values[first], values[second], option))
        pooled = values[-1].mean((2, 3))
        words = self.embedding(tokens).mean(1)
        scores = self.head(torch.cat([pooled, words], 1)) * self.scales[0]
        if self.recipe.output == "dict":
            return {"scores": scores, "pooled": pooled, "best": scores.argmax(1)}
        if self.recipe.output == "tuple":
            return scores, (values[-1], words)
        return scores

    def _run(self, op: str, part: nn.Module | None, a: Tensor, b: Tensor, option: int) -> Tensor:
        if part is not None:
            made: Tensor = part(a)
            return made
        simple: Mapping[str, Callable[[], Tensor]] = {
            "add": lambda: a + b,
            "sub": lambda: a - b,
            "mul": lambda: a * b.tanh(),
            "cat": lambda: torch.cat([a, b], 1) if a.shape[1] <= MOST else a + b,
            "act": lambda: (torch.relu, torch.tanh, F.gelu, torch.sigmoid)[option % 4](a),
            "inplace": lambda: F.relu(a * 1.5, inplace=True),
            "maxpool": lambda: F.max_pool2d(a, 3, 1, 1),
            "avgpool": lambda: F.avg_pool2d(a, 3, 1, 1, count_include_pad=False),
            "zero": lambda: a * 0.0,
            "scale": lambda: a * self.scales[0] + self.get_buffer("shift").mean(),
            "dead": lambda: a,
            "detach": lambda: a.detach() + a,
            "no_grad": lambda: _quietly(a) + b,
            "split": lambda: torch.cat([p.flip(3) for p in a.chunk(2, 1)], 1),
        }
        return simple[op]()


def _quietly(a: Tensor) -> Tensor:
    with torch.no_grad():
        return a.softmax(1)


class Attention(nn.Module):
    """Self-attention over the places of an image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.norm(x.flatten(2).transpose(1, 2))
        q, k, v = self.qkv(flat).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + mixed.transpose(1, 2).reshape(x.shape)


class Unused(nn.Module):
    """A layer whose result nobody reads, and one that is never called."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dead = nn.Conv2d(channels, 2, 1)
        self.never = nn.Linear(2, 2)
        self.live = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.dead(x)
        made: Tensor = self.live(x)
        return made


Shape = tuple[int, int]
Maker = Callable[[int, int, int], tuple[Callable[[], nn.Module] | None, Shape]]


def _conv(c: int, s: int, option: int) -> tuple[Callable[[], nn.Module], Shape]:
    kernel, bias = (1, 3)[option % 2], bool(option // 2 % 2)
    return lambda: nn.Conv2d(c, WIDTH, kernel, padding=kernel // 2, bias=bias), (WIDTH, s)


def _strided(c: int, s: int, _option: int) -> tuple[Callable[[], nn.Module], Shape]:
    if s < 3:
        return nn.Identity, (c, s)
    return lambda: nn.Conv2d(c, WIDTH, 3, 2, 1), (WIDTH, (s + 1) // 2)


def _plain(c: int, s: int, _option: int) -> tuple[None, Shape]:
    return None, (c, s)


def _cat(c: int, s: int, _option: int) -> tuple[None, Shape]:
    return None, (2 * c if c <= MOST else c, s)


def _layer(make: Callable[[int], nn.Module]) -> Maker:
    return lambda c, s, _: (lambda: make(c), (c, s))


def _with_option(make: Callable[[int, int], nn.Module]) -> Maker:
    return lambda c, s, option: (lambda: make(c, option), (c, s))


def _of_size(make: Callable[[int, int], nn.Module]) -> Maker:
    return lambda c, s, _: (lambda: make(c, s), (c, s))


OPS: Final[Mapping[str, Maker]] = MappingProxyType(
    {
        "conv": _conv,
        "strided": _strided,
        "cat": _cat,
        "depthwise": _layer(lambda c: nn.Conv2d(c, c, 3, padding=1, groups=c)),
        "block": _layer(lambda c: nn.Sequential(nn.ReLU(), nn.Conv2d(c, c, 1), nn.BatchNorm2d(c))),
        "groupnorm": _layer(lambda c: nn.GroupNorm(1, c)),
        "dropout": _layer(lambda _: nn.Dropout(0.3)),
        "dropout2d": _layer(lambda _: nn.Dropout2d(0.3)),
        "attention": _layer(Attention),
        "unused": _layer(Unused),
        "bn": _with_option(lambda c, o: nn.BatchNorm2d(c, affine=o % 3 != 2)),
        "prelu": _with_option(lambda c, o: nn.PReLU(c if o % 2 else 1)),
        "layernorm": _of_size(lambda c, s: nn.LayerNorm([c, s, s])),
        "rows": _of_size(lambda _, s: nn.Linear(s, s)),
        **dict.fromkeys(
            (
                *("add", "sub", "mul", "act", "inplace", "maxpool", "avgpool", "zero"),
                *("scale", "dead", "detach", "no_grad", "split"),
            ),
            _plain,
        ),
    }
)


def batches(sizes: Sequence[int], seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """The arguments of a step for each batch size."""
    made = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(n, 3, SIZE, SIZE, generator=made, dtype=torch.float64),
            torch.randint(TOKENS, (n, 5), generator=made),
        )
        for n in sizes
    ]
