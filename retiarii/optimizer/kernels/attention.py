"""Attention of many members."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from retiarii.optimizer.kernels.linear import linear

# Fewer scores than this a head, and two batched products beat torch's tiled kernel on CPU.
_SMALL: Final = 32 * 32


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Each member's attention.

    Args:
        query: ``[G, *, H, L, E]``.
        key: ``[G, *, H, S, E]``.
        value: ``[G, *, H, S, Ev]``.
        attn_mask: of as many dimensions as ``query``, each of its size or 1.
        is_causal: hides later keys, aligned at the upper left.
        scale: of the scores; ``1 / sqrt(E)`` by default.
        enable_gqa: key and value may have fewer heads, a divisor of ``H``.

    Returns:
        ``[G, *, H, L, Ev]``.
    """
    small = query.device.type == "cpu" and query.shape[-2] * key.shape[-2] <= _SMALL
    if small and attn_mask is None and not enable_gqa:
        return _products(query, key, value, is_causal, scale)
    batch = query.shape[:-3]
    if attn_mask is not None:
        whole = attn_mask.expand(*batch, *attn_mask.shape[-3:])
        shared = all(n == 1 for n in attn_mask.shape[:-3])
        if not shared and whole.numel() > max(attn_mask.numel(), query.numel()):
            # Torch broadcasts the mask itself here, where merging the dimensions would repeat it.
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, scale=scale, enable_gqa=enable_gqa
            )
        attn_mask = (attn_mask if shared else whole).flatten(0, -4)
    q, k, v = (t.flatten(0, -4) for t in (query, key, value))
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
    )
    return out.view(*batch, *out.shape[1:])


def _products(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, scale: float | None) -> Tensor:
    scores = torch.matmul(q * (q.shape[-1] ** -0.5 if scale is None else scale), k.mT)
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~seen, -math.inf)
    return torch.matmul(scores.softmax(-1), v)


def attention_layer(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weights: Sequence[Tensor],
    bias: Tensor | None,
    out: Sequence[Tensor],
    *,
    heads: int,
    batch_first: bool = False,
    extra: Sequence[Tensor] = (),
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    add_zero_attn: bool = False,
    need_weights: bool = True,
    average_attn_weights: bool = True,
) -> tuple[Tensor, ...]:
    """Each member's `torch.nn.MultiheadAttention`, without dropout.

    Args:
        query: ``[G, L, B, E]``; ``[G, B, L, E]`` where ``batch_first``; ``[G, L, E]``.
        key: the same with ``S`` and its own width.
        value: the same with ``S`` and its own width.
        weights: ``[G, 3 * E, E]``, or the three of query, key and value.
        bias: ``[G, 3 * E]``.
        out: the last layer's ``[G, E, E]`` and, where it has one, its bias ``[G, E]``.
        heads: H.
        batch_first: the order of the first two dimensions of a member.
        extra: one more key and value, ``[G, 1, 1, E]`` both.
        key_padding_mask: ``[G, B, S]`` or ``[G, S]``; True, or a term of the score.
        attn_mask: ``[L, S]``, ``[G, L, S]`` or ``[G, B * H, L, S]``; True, or a term of the score.
        is_causal: hides later keys.
        add_zero_attn: appends a key and a value of zeros.
        need_weights: returns the attention weights too.
        average_attn_weights: their mean over the heads.

    Returns:
        The result in the layout of ``query``; and ``[G, B, L, S]`` or ``[G, B, H, L, S]``, without
        ``B`` where the query has none.
    """
    # To [G, B, H, length, E / H], as views.
    projected = _projected(query, key, value, weights, bias)
    batched = query.ndim == 4
    if not batched:
        projected = [t.unsqueeze(2) for t in projected]
    length_first = not (batch_first and batched)
    order = (0, 2, 3, 1, 4) if length_first else (0, 1, 3, 2, 4)
    q, k, v = (t.view(*t.shape[:-1], heads, -1).permute(order) for t in projected)
    mask = _mask(key_padding_mask, attn_mask, q)
    if extra:
        shape = (q.shape[0], 1, heads, 1, -1)
        k, v = (_longer(t, e.view(shape)) for t, e in zip((k, v), extra, strict=True))
    if add_zero_attn:
        k, v = (_longer(t, t.new_zeros(())) for t in (k, v))
    if mask is not None:
        mask = F.pad(mask, (0, bool(extra) + add_zero_attn))
    shares: tuple[Tensor, ...] = ()
    if need_weights:
        scores = torch.matmul(q * math.sqrt(1.0 / q.shape[-1]), k.mT)
        share = (scores if mask is None else scores + mask).softmax(-1)
        made = torch.matmul(share, v)
        shares = (share.mean(2) if average_attn_weights else share,)
    else:
        made = scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal)
    back = (0, 3, 1, 2, 4) if length_first else (0, 1, 3, 2, 4)
    result = linear(made.permute(back).flatten(3), *out)
    if batched:
        return result, *shares
    return result.squeeze(2), *(t.squeeze(1) for t in shares)


def _projected(
    query: Tensor, key: Tensor, value: Tensor, weights: Sequence[Tensor], bias: Tensor | None
) -> Sequence[Tensor]:
    if len(weights) == 1 and query is key and key is value:
        return linear(query, weights[0], bias).chunk(3, dim=-1)
    parts = weights[0].chunk(3, dim=1) if len(weights) == 1 else weights
    biases = [None] * 3 if bias is None else bias.chunk(3, dim=-1)
    inputs = (query, key, value)
    return [linear(x, w, b) for x, w, b in zip(inputs, parts, biases, strict=True)]


def _longer(keys: Tensor, last: Tensor) -> Tensor:
    return torch.cat([keys, last.expand(*keys.shape[:3], 1, keys.shape[4])], dim=3)


def _mask(padding: Tensor | None, attention: Tensor | None, q: Tensor) -> Tensor | None:
    """Both masks as a term of the scores, each of whose dimensions is the scores' or 1."""
    terms = []
    if attention is not None:
        if attention.ndim == 4:
            terms.append(attention.view(*q.shape[:3], *attention.shape[-2:]))
        else:
            terms.append(
                attention[None, None, None] if attention.ndim == 2 else attention[:, None, None]
            )
    if padding is not None:
        terms.append(padding.view(*q.shape[:2], 1, 1, padding.shape[-1]))
    terms = [t if t.is_floating_point() else _hiding(t, q.dtype) for t in terms]
    return sum(terms[1:], start=terms[0]) if terms else None


def _hiding(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -math.inf)
