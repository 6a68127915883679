"""Equal models by HFTA (Wang et al., MLSys 2021), from a checkout of UofT-EcoSystem/hfta.

Its users write a model anew with its layers; that is done here for the equal workloads.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _fusion.contestant import Contestant, SkippedError, held_by
from _fusion.models import CLASSES, WIDTH, Encoder, EncoderLayer, Frozen, SmallCNN
from _fusion.stacked_sgd import StackedSGD
from _fusion.workloads import Cohort


def _layer(ops: Any, given: Sequence[nn.Module]) -> nn.Module:
    """Equal layers as one of HFTA's, with their weights."""
    models, first = len(given), given[0]
    made: nn.Module
    if isinstance(first, nn.Conv2d):
        made = ops.Conv2d(
            first.in_channels,
            first.out_channels,
            first.kernel_size,
            first.stride,
            first.padding,
            bias=first.bias is not None,
            B=models,
        )
    elif isinstance(first, nn.BatchNorm2d):
        made = ops.BatchNorm2d(first.num_features, B=models)
    elif isinstance(first, nn.Linear):
        made = ops.Linear(first.in_features, first.out_features, B=models)
    elif isinstance(first, nn.LayerNorm):
        made = ops.LayerNorm(first.normalized_shape, B=models)
        with torch.no_grad():
            for name in ("weight", "bias"):
                getattr(made, name).copy_(torch.stack([getattr(m, name) for m in given]))
        return made
    else:
        return first
    for index, module in enumerate(given):
        made.snatch_parameters(module, index)  # type: ignore[operator]
    return made


class _CNN(nn.Module):
    def __init__(self, ops: Any, models: Sequence[SmallCNN]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(_layer(ops, layers) for layers in zip(*(m.body for m in models), strict=True))
        )
        self.pool = ops.AdaptiveAvgPool2d(1, B=len(models))
        self.head = _layer(ops, [m.head for m in models])

    @staticmethod
    def input(x: Tensor, models: int) -> Tensor:
        return x.unsqueeze(1).expand(-1, models, *x.shape[1:]).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.pool(self.body(x)).flatten(2).transpose(0, 1).contiguous())
        return out


class _Layer(nn.Module):
    def __init__(self, ops: Any, given: Sequence[EncoderLayer]) -> None:
        super().__init__()
        self.attention = ops.MultiheadAttention(WIDTH, given[0].heads, B=len(given))
        names = {
            "linear_q": "query",
            "linear_k": "key",
            "linear_v": "value",
            "linear_o": "out",
        }
        for theirs, ours in names.items():
            setattr(self.attention, theirs, _layer(ops, [getattr(m, ours) for m in given]))
        for name in ("norm1", "norm2", "up", "down"):
            setattr(self, name, _layer(ops, [getattr(m, name) for m in given]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        out: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return out


class _Encoder(nn.Module):
    def __init__(self, ops: Any, models: Sequence[Encoder]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(_Layer(ops, layers) for layers in zip(*(m.layers for m in models), strict=True))
        )
        self.norm = _layer(ops, [m.norm for m in models])
        self.head = _layer(ops, [m.head for m in models])

    @staticmethod
    def input(x: Tensor, models: int) -> Tensor:
        return x.expand(models, *x.shape).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.layers(x)).mean(2))
        return out


class _Frozen(nn.Module):
    """The backbone is no work for HFTA: it runs once, as it is."""

    def __init__(self, ops: Any, models: Sequence[Frozen]) -> None:
        super().__init__()
        self.models = len(models)
        self.backbone = models[0].backbone
        self.head = nn.Sequential(
            *(_layer(ops, layers) for layers in zip(*(m.head for m in models), strict=True))
        )

    @staticmethod
    def input(x: Tensor, models: int) -> Tensor:
        del models
        return x

    def forward(self, x: Tensor) -> Tensor:
        features = self.backbone(x)
        out: Tensor = self.head(features.expand(self.models, *features.shape).contiguous())
        return out


_FUSED: Mapping[str, Callable[[Any, Any], Any]] = MappingProxyType(
    {"cnn": _CNN, "encoder": _Encoder, "frozen": _Frozen}
)


class Hfta(Contestant):
    """A model in HFTA's layers. HFTA has no SGD: its stacks get one that takes rates per model.

    Args:
        cohort: what to train.
        checkout: the folder that holds the package ``hfta``.

    Raises:
        SkippedError: the models differ, or there is no checkout.
    """

    def __init__(self, cohort: Cohort, checkout: Path | None) -> None:
        if cohort.equal is None:
            raise SkippedError("HFTA needs equal models")
        if checkout is None:
            raise SkippedError("no checkout of UofT-EcoSystem/hfta was given (--hfta DIR)")
        if not (checkout / "hfta" / "ops" / "__init__.py").is_file():
            raise SkippedError(f"{checkout} holds no package hfta")
        if str(checkout) not in sys.path:
            sys.path.append(str(checkout))
        ops = importlib.import_module("hfta.ops")
        kind: Any = _FUSED[cohort.equal]
        self._net: nn.Module = kind(ops, cohort.build()).to(cohort.device)
        self._models = len(cohort.makers)
        self._x = kind.input(cohort.x, self._models)
        self._y = cohort.y.repeat(self._models)
        self._learns = [p for p in self._net.parameters() if p.requires_grad]
        self._sgd = StackedSGD(self._learns, cohort.rates)

    def step(self) -> Tensor:
        out = self._net(self._x).reshape(-1, CLASSES)
        each = F.cross_entropy(out, self._y, reduction="none")
        losses = each.view(self._models, -1).mean(1)
        self._sgd.step(torch.autograd.grad(losses.sum(), self._learns))
        return losses.detach()

    def tensors(self) -> Iterable[Tensor]:
        yield from held_by([self._net], [])
        yield from self._sgd.buffers
