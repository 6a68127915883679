"""Models of timm, torchvision and transformers (skipped where those are not installed).

``benchmarks/parse_families.py`` goes through all of them; here is what is small.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from retiarii.ir.forms.text import parse_text
from retiarii.testing.parsing import assert_same_run, parsed
from retiarii.testing.zoo import SAMPLES, Sample

# What stays opaque, and where.
KNOWN_OPAQUE = {"timm:convit"}
SMALL = (
    "timm:byobnet",  # batch norms that are spelled out
    "timm:efficientnet",
    "timm:vision_transformer",
    "timm:vision_transformer_relpos",
    "timm:convit",  # keeps a buffer from call to call
    "timm:gcvit",  # drop path
    "timm:swiftformer",
    "torchvision:resnet18",
    "torchvision:googlenet",  # other outputs in training
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:lraspp_mobilenet_v3_large",
    "torchvision:fasterrcnn_mobilenet_v3_large_fpn.backbone",
    "transformers:bert",
    "transformers:gpt2",  # returns a cache
    "transformers:gpt2 (no cache)",
    "transformers:vit",
    "transformers:t5",
    "transformers:llama (no cache)",
    "transformers:whisper encoder",
)


def sample(name: str) -> Sample:
    package = name.partition(":")[0]
    try:
        return next(s for s in SAMPLES[package]() if s.name == name)
    except ImportError as error:
        pytest.skip(f"{package} is not installed ({error}); RETIARII_ZOO may name its folder")


@pytest.mark.parametrize("name", SMALL)
def test_a_model_of_another_package(name: str) -> None:
    found = sample(name)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        model = found.make().double()
        inputs: Any = _double(found.inputs())
        graph = parsed(model, inputs)
        assert bool(graph.opaque) == (name in KNOWN_OPAQUE)
        text = str(graph)
        assert str(parse_text(text)) == text
        built = graph.to_module()
        assert list(built.state_dict()) == list(model.state_dict())
        model.load_state_dict(built.state_dict(), strict=True)
        for training in (True, False):
            model.train(training)
            built.train(training)
            _same(model, built, inputs)


def _same(model: torch.nn.Module, built: torch.nn.Module, inputs: Any) -> None:
    start = {key: value.clone() for key, value in model.state_dict().items()}
    assert_same_run(model, built, inputs)
    model.load_state_dict(start)
    built.load_state_dict(start)


def _double(inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return {key: _double(value) for key, value in inputs.items()}
    return inputs.double() if inputs.is_floating_point() else inputs
