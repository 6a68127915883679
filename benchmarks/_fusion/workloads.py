"""What is trained: cohorts of models, equal and different, with a batch for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
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


Maker = Callable[[], nn.Module]
Space = Callable[[], rt.ModelSpace]


@dataclass(frozen=True)
class Cohort:
    """Models to train together.

    Attributes:
        makers: one a model; each call makes it anew, with the same initial weights.
        candidates: what the models are built from, by their numbers as seeds; none for modules.
        x: the batch.
        y: its labels.
        rates: each model's learning rate.
        equal: the name of the architecture that all have, or ``None``.
        device: where to train.
    """

    makers: Sequence[Maker]
    candidates: Sequence[rt.Candidate]
    x: Tensor
    y: Tensor
    rates: Sequence[float]
    equal: str | None
    device: torch.device

    def build(self, dtype: torch.dtype = torch.float32) -> list[nn.Module]:
        """The models, each with its initial weights."""
        return [make().to(self.device, dtype) for make in self.makers]

    @property
    def seeds(self) -> list[int]:
        """The models' numbers: of initial weights, and of dropout."""
        return list(range(len(self.makers)))

    @cached_property
    def random(self) -> bool:
        """Whether any of the models draws random numbers."""
        layers = [m for make in self.makers for m in make().modules()]
        return any(isinstance(m, nn.Dropout) and m.p > 0 for m in layers)


@dataclass(frozen=True)
class Workload:
    """A family of cohorts.

    Attributes:
        about: in a few words.
        shape: of one sample.
        spaces: that models are sampled from, of each in turn; or
        maker: seed -> a module.
        equal: as in `Cohort`.
        several_rates: each model has a learning rate of its own.
    """

    about: str
    shape: tuple[int, ...]
    spaces: tuple[Space, ...] = ()
    maker: Callable[[int], nn.Module] | None = None
    equal: str | None = None
    several_rates: bool = False

    def cohort(self, models: int, device: torch.device, batch: int = BATCH) -> Cohort:
        """Its first ``models`` models, with a batch of random data."""
        made = torch.Generator().manual_seed(0)
        x = torch.randn(batch, *self.shape, generator=made).to(device)
        y = torch.randint(CLASSES, (batch,), generator=made).to(device)
        rates = [RATE * (1 + i / models if self.several_rates else 1) for i in range(models)]
        candidates = samples(self.spaces, models) if self.spaces else []
        if self.maker is not None:
            makers: list[Maker] = [partial(self.maker, i) for i in range(models)]
        else:
            makers = [partial(candidate.build, i) for i, candidate in enumerate(candidates)]
        return Cohort(makers, candidates, x, y, rates, self.equal, device)


def samples(families: Sequence[Space], models: int) -> list[rt.Candidate]:
    """Different models of these spaces, of each in turn."""
    made = [space() for space in families]
    return [made[i % len(made)].sample(i) for i in range(models)]


def _cnn(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return SmallCNN()


def _encoder(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Encoder()


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
            (3, 8, 8),
            (partial(nas_bench_201, 8, 8),),
        ),
        "nb201-16": Workload(
            "different NAS-Bench-201 models, 16 channels, 16x16",
            (3, 16, 16),
            (partial(nas_bench_201, 16, 16),),
        ),
        "cnn": Workload("one CNN, 8x8", (3, 8, 8), maker=_cnn, equal="cnn"),
        "encoder": Workload(
            "one transformer encoder", (TOKENS, WIDTH), maker=_encoder, equal="encoder"
        ),
        "hpo": Workload(
            "one CNN, 8x8, a learning rate each", (3, 8, 8), (), _cnn, "cnn", several_rates=True
        ),
        "frozen": Workload(
            "one frozen backbone, a head each", (3, 16, 16), maker=Frozen, equal="frozen"
        ),
        "mixture": Workload(
            "NAS-Bench-201, DARTS and transformers, 8x8",
            (3, 8, 8),
            (partial(nas_bench_201, 8, 8), darts, partial(autoformer, 8)),
        ),
        "tabular": Workload(
            "different MLPs and ResNets for tables", (FEATURES,), (tabular_mlp, tabular_resnet)
        ),
        "transformers": Workload("different AutoFormer models, 16x16", (3, 16, 16), (autoformer,)),
        "mobilenet": Workload("different MobileNetV3 models, 16x16", (3, 16, 16), (mobilenet_v3,)),
        "darts": Workload("different DARTS models, 8x8", (3, 8, 8), (darts,)),
    }
)
