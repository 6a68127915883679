"""What is trained: cohorts of models, equal and different, with a batch for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

import retiarii as rt
from _fusion.models import CLASSES, TOKENS, WIDTH, Encoder, Frozen, SmallCNN
from retiarii import spaces
from retiarii.spaces.autoformer import SuperNetwork

BATCH = 32
RATE, MOMENTUM = 0.02, 0.9
FEATURES = 16


@dataclass(frozen=True)
class Cohort:
    """Models to train together.

    Attributes:
        makers: one a model; each call makes it anew, with the same initial weights.
        x: the batch.
        y: its labels.
        rates: each model's learning rate.
        equal: the name of the architecture that all have, or ``None``.
        device: where to train.
    """

    makers: Sequence[Callable[[], nn.Module]]
    x: Tensor
    y: Tensor
    rates: Sequence[float]
    equal: str | None
    device: torch.device

    def build(self, dtype: torch.dtype = torch.float32) -> list[nn.Module]:
        return [make().to(self.device, dtype) for make in self.makers]

    @property
    def seeds(self) -> list[int]:
        return list(range(len(self.makers)))

    def random(self, models: Sequence[nn.Module]) -> bool:
        """Whether any of the models draws random numbers."""
        return any(isinstance(m, nn.Dropout) and m.p > 0 for net in models for m in net.modules())


@dataclass(frozen=True)
class Workload:
    """A family of cohorts.

    Attributes:
        about: in a few words.
        makers: K -> what makes each model.
        shape: of one sample.
        equal: as in `Cohort`.
        several_rates: each model has a learning rate of its own.
    """

    about: str
    makers: Callable[[int], list[Callable[[], nn.Module]]]
    shape: tuple[int, ...]
    equal: str | None = None
    several_rates: bool = False

    def cohort(self, models: int, device: torch.device, batch: int = BATCH) -> Cohort:
        made = torch.Generator().manual_seed(0)
        x = torch.randn(batch, *self.shape, generator=made).to(device)
        y = torch.randint(CLASSES, (batch,), generator=made).to(device)
        rates = [RATE * (1 + i / models if self.several_rates else 1) for i in range(models)]
        return Cohort(self.makers(models), x, y, rates, self.equal, device)


def _seeded(kind: Callable[[], nn.Module], models: int) -> list[Callable[[], nn.Module]]:
    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return kind()

    return [partial(make, i) for i in range(models)]


def _frozen(models: int) -> list[Callable[[], nn.Module]]:
    return [partial(Frozen, i) for i in range(models)]


def _sampled(
    space: Callable[[], rt.ModelSpace], models: int, skip: int = 0
) -> list[Callable[[], nn.Module]]:
    made = space()
    return [partial(made.sample(skip + i).build, skip + i) for i in range(models)]


def different(*families: Callable[[], rt.ModelSpace]) -> Callable[[int], list[Callable[[], nn.Module]]]:
    """Samples of spaces, of each in turn."""

    def makers(models: int) -> list[Callable[[], nn.Module]]:
        count = -(-models // len(families))
        rows = [_sampled(space, count) for space in families]
        return [make for column in zip(*rows, strict=True) for make in column][:models]

    return makers


def nas_bench_201(channels: int, size: int) -> rt.ModelSpace:
    return spaces.nas_bench_201(channels=channels, cells=1, input_size=size)


def darts() -> rt.ModelSpace:
    return spaces.darts(8, 3, CLASSES, 8, nodes=2)


def mobilenet_v3() -> rt.ModelSpace:
    blocks = (
        (3, 16, 16, True, False, 1),
        (3, 32, 24, False, False, 2),
        (5, 48, 24, True, True, 1),
        (5, 64, 32, True, True, 2),
        (3, 64, 32, True, True, 1),
    )
    return spaces.mobilenet_v3(CLASSES, 16, blocks=blocks, features=(64, 64))


def autoformer(size: int = 16) -> rt.ModelSpace:
    widths = SuperNetwork((16, 32), (2, 3), (2, 4), (2.0, 4.0))
    return spaces.autoformer(widths, CLASSES, size, patch=4, head_width=8)


def tabular_mlp() -> rt.ModelSpace:
    return spaces.tabular_mlp(FEATURES, CLASSES, depths=(1, 2, 3, 4), widths=(16, 32, 64))


def tabular_resnet() -> rt.ModelSpace:
    return spaces.tabular_resnet(
        FEATURES, CLASSES, depths=(1, 2, 3), widths=(32, 64), factors=(1, 2)
    )


# Those that the goals are about come first: what time does not suffice for is left out at the end.
WORKLOADS: Mapping[str, Workload] = MappingProxyType(
    {
        "nb201-8": Workload(
            "different NAS-Bench-201 models, 8 channels, 8x8",
            different(partial(nas_bench_201, 8, 8)),
            (3, 8, 8),
        ),
        "nb201-16": Workload(
            "different NAS-Bench-201 models, 16 channels, 16x16",
            different(partial(nas_bench_201, 16, 16)),
            (3, 16, 16),
        ),
        "cnn": Workload("one CNN, 8x8", partial(_seeded, SmallCNN), (3, 8, 8), "cnn"),
        "encoder": Workload(
            "one transformer encoder", partial(_seeded, Encoder), (TOKENS, WIDTH), "encoder"
        ),
        "hpo": Workload(
            "one CNN, a learning rate each", partial(_seeded, SmallCNN), (3, 8, 8), "cnn", True
        ),
        "frozen": Workload("one frozen backbone, a head each", _frozen, (3, 16, 16), "frozen"),
        "mixture": Workload(
            "NAS-Bench-201, DARTS and transformers, 8x8",
            different(partial(nas_bench_201, 8, 8), darts, partial(autoformer, 8)),
            (3, 8, 8),
        ),
        "tabular": Workload(
            "different MLPs and ResNets for tables",
            different(tabular_mlp, tabular_resnet),
            (FEATURES,),
        ),
        "transformers": Workload("different AutoFormer models", different(autoformer), (3, 16, 16)),
        "mobilenet": Workload("different MobileNetV3 models", different(mobilenet_v3), (3, 16, 16)),
        "darts": Workload("different DARTS models, 8x8", different(darts), (3, 8, 8)),
    }
)
