"""Convolutions of many members as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from retiarii.optimizer.kernels.layout import images


def conv(
    function: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None, **options: Any
) -> Tensor:
    """Convolves with the members' filters side by side.

    Args:
        function: ``F.conv2d`` or one of its kin.
        x: ``[B, G * C, *spatial]`` with ``groups`` a multiple of G, or ``[B, C, *spatial]`` with
            ``groups`` 1, which all members then read.
        weight: the members' filters ``[G, out, in, *kernel]``.
        bias: ``[G, out]``.
        options: those of ``function``.

    Returns:
        ``[B, G * out, *spatial]``.
    """
    filters = weight.flatten(0, 1)
    return function(images(x), images(filters), None if bias is None else bias.flatten(), **options)


def conv_transpose(
    function: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None, **options: Any
) -> Tensor:
    """Transposed convolution of ``[B, G * C, *spatial]`` by filters ``[G, in, out, *kernel]``.

    ``groups`` is a multiple of G; the result is ``[B, G * out, *spatial]``.
    """
    filters = weight.flatten(0, 1)
    return function(images(x), images(filters), None if bias is None else bias.flatten(), **options)


def wide_conv_transpose(
    function: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None, **options: Any
) -> Tensor:
    """Transposed convolution of one ``[B, C, *spatial]`` by the filters of all members.

    ``weight`` is ``[G, in, out, *kernel]``; the result is ``[B, G * out, *spatial]``.
    """
    filters = weight.transpose(0, 1).flatten(1, 2)
    return function(images(x), images(filters), None if bias is None else bias.flatten(), **options)
