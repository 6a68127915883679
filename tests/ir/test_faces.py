"""Models of other packages through every form of their graphs, where they are installed."""

from __future__ import annotations

import gc
import warnings

import pytest
import torch

from retiarii.testing.faces import check_faces
from retiarii.testing.zoo import SAMPLES, Sample

# Each has something that makes a form hard: see the comments.
SMALL = (
    "timm:efficientnet",
    "timm:eva",  # rotary tables, biases that are not trained
    "timm:maxxvit",  # relative positions
    "timm:vision_transformer_relpos",  # tables of floating point numbers
    "timm:efficientvit_msra",
    "timm:convit",  # opaque: no source
    "torchvision:resnet18",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:lraspp_mobilenet_v3_large",  # returns a dict
    "torchvision:fasterrcnn_mobilenet_v3_large_fpn.backbone",
    "transformers:bert",
    "transformers:gpt2",  # returns a cache
    "transformers:t5",  # returns two caches in one
    "transformers:llama",
    "transformers:llama (no cache)",
    "transformers:whisper encoder",
)
# Parameters above which a model is compared in evaluation alone, and above which it is left out.
LARGE, TOO_LARGE = 30e6, 200e6


def samples(package: str) -> list[Sample]:
    try:
        return SAMPLES[package]()
    except ImportError as error:
        pytest.skip(f"{package} is not installed ({error}); RETIARII_ZOO may name its folder")


def check(sample: Sample) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        model = sample.make()
        parameters = sum(p.numel() for p in model.parameters())
        if parameters < TOO_LARGE:
            modes = (False, True) if parameters < LARGE else (False,)
            # Single precision, as people use them: sums may run in another order.
            check_faces(model, sample.inputs(), modes=modes, tolerance=2e-4)


@pytest.mark.parametrize("name", SMALL)
def test_a_model_of_another_package(name: str) -> None:
    check(next(s for s in samples(name.partition(":")[0]) if s.name == name))


@pytest.mark.slow
@pytest.mark.parametrize("package", SAMPLES)
def test_all_models_of_a_package(package: str) -> None:
    failed: dict[str, str] = {}
    for sample in samples(package):
        try:
            check(sample)
        except Exception as error:
            failed[sample.name] = f"{type(error).__name__}: {error}"
        gc.collect()
    assert not failed
