"""Embeddings: the members' tables are one, their indices are shifted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import torch

from retiarii.optimizer.rules.arguments import Arguments, arguments
from retiarii.optimizer.rules.base import Fusion, Lowering, Rule
from retiarii.optimizer.rules.stacking import MEMBERS, PLAIN

_FLAGS: Final = ("padding_idx", "scale_grad_by_freq")


def _embedding(fusion: Fusion, given: Arguments) -> Lowering | None:
    at = given.tensors
    x, w = at["input"], at["weight"]
    flags = given.keywords(_FLAGS, fusion.call.spec.defaults)
    forms = [PLAIN if shared else MEMBERS for shared in fusion.shared]
    # How often an index comes must be counted member by member.
    if fusion.shared[w] and not fusion.shared[x] and not given.values["scale_grad_by_freq"]:
        return Lowering(f"F.embedding(${x}, ${w}{flags})", tuple(forms), (MEMBERS,))
    forms[w] = MEMBERS
    indices = f"${x}[None]" if fusion.shared[x] else f"${x}"
    return Lowering(f"kernels.embedding({indices}, ${w}{flags})", tuple(forms), (MEMBERS,))


def _bag(fusion: Fusion, given: Arguments) -> Lowering | None:
    at, values = given.tensors, given.values
    # What lies behind a member's last offset is in no bag: it cannot be one call. With frequencies
    # torch (2.13) divides by how often another index comes, which is not the same for the whole.
    if values["include_last_offset"] or values["scale_grad_by_freq"]:
        return None
    kinds = {fusion.call.inputs[at[name]].dtype for name in ("input", "offsets") if name in at}
    rank = len(fusion.call.inputs[at["input"]].shape)
    if len(kinds) != 1 or rank != (1 if "offsets" in at else 2):
        return None
    w = at["weight"]
    forms = [MEMBERS] * len(fusion.shared)
    if fusion.shared[w]:
        forms[w] = PLAIN
    names = ", ".join(
        f"{name}=${at[name]}" for name in ("offsets", "per_sample_weights") if name in at
    )
    flags = given.keywords(("mode", "padding_idx"), fusion.call.spec.defaults)
    named = f", {names}" if names else ""
    text = f"kernels.embedding_bag(${at['input']}, ${w}{named}{flags})"
    return Lowering(text, tuple(forms), (MEMBERS,))


_RULES: Final[Mapping[str, Callable[[Fusion, Arguments], Lowering | None]]] = MappingProxyType(
    {
        "Embedding": _embedding,
        "embedding": _embedding,
        "EmbeddingBag": _bag,
        "embedding_bag": _bag,
    }
)


def embedding(fusion: Fusion) -> Lowering | None:
    given = arguments(fusion.call)
    if given is None or given.values["max_norm"] is not None or given.values["sparse"]:
        return None
    weight = fusion.call.inputs[given.tensors["weight"]]
    indices = fusion.call.inputs[given.tensors["input"]].dtype
    if len(weight.shape) != 2 or indices not in (torch.int64, torch.int32):
        return None
    return _RULES[fusion.call.op](fusion, given)


RULES: Mapping[str, Rule] = MappingProxyType({"embedding": embedding})
