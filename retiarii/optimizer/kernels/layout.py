"""How images lie in memory, where that decides the speed of what follows."""

from __future__ import annotations

import torch
from torch import Tensor


def images(x: Tensor) -> Tensor:
    """Images or volumes in the memory format in which a CPU convolves and pools fastest.

    Windows over channels-last images are several times faster there, even with the copy counted.
    Results keep the format of what they are made of: only the first of a chain of calls copies.
    On other devices, and for other ranks, ``x`` stays as it is.
    """
    if x.device.type != "cpu" or x.ndim not in (4, 5):
        return x
    last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return x.contiguous(memory_format=last)


def filters(stacked: Tensor) -> Tensor:
    """Stacked filters of images, [G, O, I, H, W], as a CPU convolves with them: channels last."""
    if stacked.ndim != 5 or stacked.device.type != "cpu" or not stacked.is_floating_point():
        return stacked
    last = stacked.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return torch.unflatten(last, 0, tuple(stacked.shape[:2]))


def channel_shuffle(x: Tensor, members: int, groups: int) -> Tensor:
    """``F.channel_shuffle`` of the channels of each member, in ``[B, members * C, *]``."""
    shape = (members, groups, x.shape[1] // (members * groups))
    if x.stride(1) != 1:
        return torch.unflatten(x, 1, shape).transpose(2, 3).flatten(1, 3)
    # Channels lie side by side: they are moved where they are.
    last = torch.unflatten(x.movedim(1, -1), -1, shape)
    return last.transpose(-1, -2).flatten(-3).movedim(-1, 1)
