"""Models of other packages: timm, torchvision and transformers, where they are installed.

None of them is a dependency. ``RETIARII_ZOO`` may name a folder that has them
(``pip install --no-deps --target FOLDER timm torchvision transformers ...``).
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import nn

# What torchvision's Python parts expect of its compiled part when they are imported.
_OPERATORS: Final = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A model to parse.

    Attributes:
        name: "package:model".
        make: builds it, with random weights and no download.
        inputs: makes its example inputs.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Any]


def load(package: str) -> Any:
    """A package of the zoo.

    Raises:
        ImportError: it is not installed.
    """
    folder = os.environ.get("RETIARII_ZOO")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _declared()  # the others import torchvision
        return importlib.import_module(package)


@functools.cache  # the library takes its operators along when it is collected
def _declared() -> torch.library.Library | None:
    """Torchvision's operators, declared if its compiled part is not here to do it."""
    if hasattr(torch.ops.torchvision, "nms"):
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in _OPERATORS:
        library.define(operator)  # type: ignore[no-untyped-call]
    return library


def images(size: int, batch: int = 2, *frames: int) -> Callable[[], torch.Tensor]:
    """Makes a batch of images (of videos, with ``frames``)."""
    return lambda: torch.randn(batch, 3, *frames, size, size)


def timm_samples() -> list[Sample]:
    """One small model of each family."""
    from retiarii.testing.families import FAMILIES

    timm = load("timm")

    def make(model: str) -> Callable[[], nn.Module]:
        return lambda: timm.create_model(model)

    return [
        Sample(f"timm:{family}", make(model), images(size))
        for family, (model, size) in FAMILIES.items()
    ]


# Inputs that are not 96 x 96: what the models insist on.
_SIZES: Final[Mapping[str, int]] = MappingProxyType(
    {"inception_v3": 299, "ssd300_vgg16": 300, "alexnet": 224}
)


def torchvision_samples() -> list[Sample]:
    """Every classifier, every segmentation model, and every detector's backbone."""
    load("torchvision")
    models: Any = load("torchvision.models")

    def size(name: str) -> int:
        fixed = name.startswith(("vit", "swin", "maxvit"))
        return 224 if fixed else _SIZES.get(name, 96)

    def model(name: str) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            made: nn.Module = models.get_model(name, **_unweighted(models, name))
            return made

        return make

    def backbone(name: str) -> Callable[[], nn.Module]:
        return lambda: model(name)().backbone  # type: ignore[return-value]

    found = []
    for name in models.list_models(module=models):
        found.append(Sample(f"torchvision:{name}", model(name), images(size(name))))
    for name in models.list_models(module=models.segmentation):
        found.append(Sample(f"torchvision:{name}", model(name), images(64)))
    for name in models.list_models(module=models.detection):
        found.append(Sample(f"torchvision:{name}.backbone", backbone(name), images(size(name))))
    return found


def _unweighted(models: Any, name: str) -> dict[str, None]:
    outside = name in models.list_models(module=models)
    return {"weights": None} if outside else {"weights": None, "weights_backbone": None}


_SMALL: Final[Mapping[str, int]] = MappingProxyType(
    {
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
)
_TOKENS: Final[Mapping[str, Any]] = MappingProxyType(
    {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
)


def transformers_samples() -> list[Sample]:
    """Models from tiny configurations."""
    hf = load("transformers")
    speech: Any = load("transformers.models.whisper.modeling_whisper")

    def ids() -> torch.Tensor:
        return torch.randint(3, 90, (2, 11))

    def text() -> dict[str, torch.Tensor]:
        return {"input_ids": ids()}

    def masked() -> dict[str, torch.Tensor]:
        return {"input_ids": ids(), "attention_mask": torch.ones(2, 11, dtype=torch.long)}

    def both() -> dict[str, torch.Tensor]:
        return {"input_ids": ids(), "decoder_input_ids": ids()}

    picture = {k: v for k, v in _SMALL.items() if k != "vocab_size"}
    picture |= {"image_size": 32, "patch_size": 8}
    gpt2 = {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, **_TOKENS}
    t5 = {"vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    llama = {**_SMALL, "num_key_value_heads": 2, **_TOKENS}
    whisper = {
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "num_mel_bins": 8,
        "max_source_positions": 20,
    }
    rows: list[tuple[str, Callable[[], nn.Module], Callable[[], Any]]] = [
        ("bert", lambda: hf.BertModel(hf.BertConfig(**_SMALL)), masked),
        ("roberta", lambda: hf.RobertaModel(hf.RobertaConfig(**_SMALL)), masked),
        ("gpt2", lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**gpt2)), text),
        (
            "gpt2 (no cache)",
            lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**gpt2, use_cache=False)),
            masked,
        ),
        (
            "vit",
            lambda: hf.ViTModel(hf.ViTConfig(**picture)),
            lambda: {"pixel_values": torch.randn(2, 3, 32, 32)},
        ),
        ("t5", lambda: hf.T5Model(hf.T5Config(**t5)), both),
        ("t5 encoder", lambda: hf.T5EncoderModel(hf.T5Config(**t5)), masked),
        ("llama", lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**llama)), text),
        (
            "llama (no cache)",
            lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**llama, use_cache=False)),
            masked,
        ),
        (
            "whisper encoder",
            lambda: speech.WhisperEncoder(hf.WhisperConfig(**whisper)),
            lambda: {"input_features": torch.randn(2, 8, 40)},
        ),
    ]
    return [Sample(f"transformers:{name}", make, inputs) for name, make, inputs in rows]


SAMPLES: Final[Mapping[str, Callable[[], list[Sample]]]] = MappingProxyType(
    {
        "timm": timm_samples,
        "torchvision": torchvision_samples,
        "transformers": transformers_samples,
    }
)
