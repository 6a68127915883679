"""Attention: the members' batches are one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import torch

from retiarii.ir.types import TensorType
from retiarii.optimizer.rules.arguments import Arguments, arguments
from retiarii.optimizer.rules.base import Form, Fusion, Lowering, Rule, literal
from retiarii.optimizer.rules.stacking import MEMBERS, PLAIN, lifted, one_float

_FACTORS: Final = ("query", "key", "value")


def _dot_product(fusion: Fusion, given: Arguments) -> Lowering | None:
    call = fusion.call
    at = [given.tensors[name] for name in _FACTORS]
    q, k, v = (call.inputs[i].shape for i in at)
    heads = 3 if given.values["enable_gqa"] else 2
    rank = len(q)
    alike = len(k) == len(v) == rank and q[:-heads] == k[:-heads] == v[:-heads]
    if given.values["dropout_p"] or rank < heads or not alike or not one_float(call, *at):
        return None
    # With less than three dimensions there are no heads: one is put in.
    missing = max(0, 3 - rank)
    asked: dict[int, Form] = dict.fromkeys(at, MEMBERS)
    texts = [lifted(f"${i}", MEMBERS, missing) for i in at]
    mask = given.tensors.get("attn_mask")
    if mask is not None:
        kind = call.inputs[mask]
        if len(kind.shape) > rank or kind.dtype not in (torch.bool, call.results[0].dtype):
            return None
        text, asked[mask] = _mask(fusion, mask, max(rank, 3), kind)
        texts.append(text)
    row = call.spec.defaults
    flags = given.keywords(("is_causal", "scale", "enable_gqa"), row)
    text = f"kernels.scaled_dot_product_attention({', '.join(texts)}{flags})"
    if missing:
        text += ".squeeze(1)"
    return Lowering(text, tuple(asked[i] for i in range(len(call.inputs))), (MEMBERS,))


def _mask(fusion: Fusion, number: int, rank: int, kind: TensorType) -> tuple[str, Form]:
    """A mask with a dimension for the members and ``rank`` more."""
    short = rank - len(kind.shape)
    if fusion.shared[number]:
        return f"${number}[{', '.join(['None'] * (short + 1))}]", PLAIN
    return lifted(f"${number}", MEMBERS, short), MEMBERS


def _layer(fusion: Fusion, given: Arguments) -> Lowering | None:
    call, values, at = fusion.call, given.values, given.tensors
    factors = [call.inputs[at[name]] for name in _FACTORS]
    ranks = {len(t.shape) for t in factors}
    if (call.training and values["dropout"]) or not ranks <= {2, 3} or len(ranks) != 1:
        return None
    masks = {name: at[name] for name in ("key_padding_mask", "attn_mask") if name in at}
    kinds = {call.inputs[i].dtype for i in masks.values()} - {torch.bool}
    plain = (i for i in range(len(call.inputs)) if i not in masks.values())
    if not one_float(call, *plain) or not kinds <= {factors[0].dtype}:
        return None
    forms = [MEMBERS] * len(call.inputs)
    flags = given.keywords(_LAYER_FLAGS, call.spec.defaults)
    hint = values["is_causal"]
    if hint and "attn_mask" not in masks:
        return None
    if hint and not values["need_weights"] and len(masks) == 1:
        # Torch takes the hint for the mask where it needs nothing else of it.
        flags += ", is_causal=True"
        del masks["attn_mask"]
    for name, i in masks.items():
        flags += f", {name}=${i}"
        if name == "attn_mask" and fusion.shared[i] and len(call.inputs[i].shape) == 2:
            forms[i] = PLAIN
    if "bias_k" in at:
        flags += f", extra=(${at['bias_k']}, ${at['bias_v']})"
    text = (
        f"kernels.attention_layer({', '.join(f'${at[name]}' for name in _FACTORS)}, "
        f"{_listed(at, _WEIGHTS)}, {given.placeholder('in_proj_bias')}, {_listed(at, _OUT)}, "
        f"heads={literal(values['num_heads'])}{flags})"
    )
    return Lowering(text, tuple(forms), (MEMBERS,) * len(call.results))


def _listed(at: Mapping[str, int], names: Sequence[str]) -> str:
    return f"[{', '.join(f'${at[name]}' for name in names if name in at)}]"


_WEIGHTS: Final = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_OUT: Final = ("out_proj.weight", "out_proj.bias")
_LAYER_FLAGS: Final = ("batch_first", "add_zero_attn", "need_weights", "average_attn_weights")
_RULES: Final[Mapping[str, Callable[[Fusion, Arguments], Lowering | None]]] = MappingProxyType(
    {"scaled_dot_product_attention": _dot_product, "MultiheadAttention": _layer}
)


def attention(fusion: Fusion) -> Lowering | None:
    given = arguments(fusion.call)
    return None if given is None else _RULES[fusion.call.op](fusion, given)


RULES: Mapping[str, Rule] = MappingProxyType({"attention": attention})
