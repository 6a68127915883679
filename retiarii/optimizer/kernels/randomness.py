"""Random tensors of many members, each drawn from its own stream as that member alone would.

What torch draws from a stream depends on the order of elements in memory. Here that is the order
of a contiguous tensor, or the one that is asked for, whatever the stack's is. Streams of the CPU
serve other devices as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Streams = Sequence[torch.Generator]


def drawn(
    draw: Callable[[torch.Generator], Tensor], streams: Streams, device: torch.device
) -> Tensor:
    """``[G, ...]``: what ``draw`` makes of each stream."""
    return torch.stack([draw(stream) for stream in streams]).to(device)


def drawn_from(draw: Callable[..., Tensor], streams: Streams, *tensors: Tensor) -> Tensor:
    """``[G, ...]``: what ``draw`` makes of each member's ``tensor[g] ...`` and its stream."""
    rows = zip(*(tensor.unbind(0) for tensor in tensors), strict=True)
    made = [
        draw(*(part.contiguous().to(stream.device) for part in row), stream)
        for row, stream in zip(rows, streams, strict=True)
    ]
    return torch.stack(made).to(tensors[0].device)


def filled(
    shape: Sequence[int],
    streams: Streams,
    like: Tensor,
    fill: Callable[[Tensor, torch.Generator], object],
    dtype: torch.dtype | None = None,
    order: Sequence[int] | None = None,
) -> Tensor:
    """``[G, *shape]``, of which ``fill`` fills each member's part from its stream.

    Args:
        shape: of one member's part.
        streams: one a member.
        like: has the device of the result, and the dtype unless another is given.
        fill: writes the part that it is given.
        dtype: of the result.
        order: the dimensions of ``shape`` as they lie in memory, from the outermost.
    """
    device = streams[0].device
    lies = range(len(shape)) if order is None else order
    sizes = (len(streams), *(shape[d] for d in lies))
    out = torch.empty(sizes, dtype=dtype or like.dtype, device=device)
    if order is not None:
        out = out.permute(0, *(1 + order.index(d) for d in range(len(shape))))
    for part, stream in zip(out.unbind(0), streams, strict=True):
        fill(part, stream)
    return out.to(like.device)


def ordered(x: Tensor, order: Sequence[int] | None) -> Tensor:
    """``x``, lying in memory with its dimensions in this order, or contiguous; see `filled`."""
    if order is None:
        return x.contiguous()
    return x.permute(*order).contiguous().permute(*(order.index(d) for d in range(x.ndim)))


def gumbel_softmax(x: Tensor, streams: Streams, tau: float, hard: bool, dim: int) -> Tensor:
    """``F.gumbel_softmax`` of ``[G, *S]``; ``dim`` counts from the end.

    "Categorical Reparameterization with Gumbel-Softmax" (Jang et al., 2017).
    """
    noise = filled(x.shape[1:], streams, x, lambda part, s: part.exponential_(generator=s))
    soft = ((x - noise.log()) / tau).softmax(dim)
    if not hard:
        return soft
    index = soft.max(dim, keepdim=True)[1]
    picked = torch.zeros_like(x).scatter_(dim, index, 1.0)
    return picked - soft.detach() + soft


def fractional_max_pool(
    x: Tensor, streams: Streams, spatial: int, kernel_size: Any, output_size: Any, ratio: Any
) -> tuple[Tensor, Tensor]:
    """``F.fractional_max_pool2d`` or ``3d`` of ``[G, B, C, ...]``: values and their places.

    "Fractional Max-Pooling" (Graham, 2014).
    """
    samples = filled(
        (*x.shape[1:3], spatial), streams, x, lambda part, s: part.uniform_(generator=s)
    )
    pool = F.fractional_max_pool2d if spatial == 2 else F.fractional_max_pool3d
    values, places = pool(
        x.flatten(0, 1),
        kernel_size,
        output_size,
        ratio,
        return_indices=True,
        _random_samples=samples.flatten(0, 1),
    )
    size = x.shape[:2]
    return torch.unflatten(values, 0, size), torch.unflatten(places, 0, size)
