"""Normalisation with statistics and affine parameters of each member."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

# Members of so many elements fill a CPU's cache by themselves: one after the other, their affine
# parameters are applied in the same pass. Measured with 64 to 256 features on one core.
_LARGE: Final = 1 << 14


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    counted: Tensor | None = None,
    training: bool,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """Batch normalisation of ``[B, G * C, *]``, each member's channels as it does them alone.

    Args:
        x: the input.
        running_mean: ``[G, C]``; written in training, as is ``running_var``.
        running_var: ``[G, C]``.
        weight: ``[G, C]``.
        bias: ``[G, C]``.
        counted: the batches that each member has seen, ``[G]``; one is added.
        training: whether the batch's own statistics are used.
        momentum: weight of the batch in the running statistics; ``None``: all batches counted in
            ``counted`` weigh the same.
        eps: added to the variance.
    """
    if counted is not None:
        counted.add_(1)
    writes = training and running_mean is not None
    if writes and momentum is None:
        assert counted is not None
        assert running_mean is not None
        assert running_var is not None
        return _cumulative(x, running_mean, running_var, weight, bias, counted, eps)
    mean, var = _channels(running_mean), _channels(running_var)
    out = F.batch_norm(
        x, mean, var, _channels(weight), _channels(bias), training, momentum or 0.0, eps
    )
    if writes:
        _write_back(running_mean, mean)
        _write_back(running_var, var)
    return out


def _cumulative(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    counted: Tensor,
    eps: float,
) -> Tensor:
    # With momentum 1 what is written are the batch's own statistics.
    mean, var = (torch.zeros_like(t).flatten() for t in (running_mean, running_var))
    out = F.batch_norm(x, mean, var, _channels(weight), _channels(bias), True, 1.0, eps)
    share = counted.double().reciprocal().to(running_mean.dtype).unsqueeze(1)
    for running, own in ((running_mean, mean), (running_var, var)):
        running.data.mul_(1 - share).add_(share * own.view_as(running))
    return out


def _channels(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.flatten()


def _write_back(running: Tensor | None, flat: Tensor | None) -> None:
    """``flat`` is a view of ``running`` but where that is no contiguous slice of its storage."""
    if running is not None and flat is not None and not running.is_contiguous():
        running.data.copy_(flat.view_as(running))  # as torch does: autograd is not told


def group_norm(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Group normalisation of ``[B, G * C, *]``.

    On CPUs torch's backward pass of a channels-last input that takes no gradient itself writes to
    a null pointer (torch 2.13): such an input is copied.
    """
    learns = any(t is not None and t.requires_grad for t in (weight, bias))
    if learns and not x.requires_grad and x.device.type == "cpu":
        x = x.contiguous()
    return F.group_norm(x, groups, weight, bias, eps)


def instance_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    use_input_stats: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Instance normalisation of ``[B, G * C, *]``.

    Args:
        x: the input.
        running_mean: ``[G, C]``; written where ``use_input_stats``, as is ``running_var``.
        running_var: ``[G, C]``.
        weight: ``[G, C]``.
        bias: ``[G, C]``.
        use_input_stats: whether each image's own statistics are used.
        momentum: weight of the batch in the running statistics.
        eps: added to the variance.
    """
    mean, var = _channels(running_mean), _channels(running_var)
    out = F.instance_norm(
        x, mean, var, _channels(weight), _channels(bias), use_input_stats, momentum, eps
    )
    if use_input_stats:
        _write_back(running_mean, mean)
        _write_back(running_var, var)
    return out


def layer_norm(
    x: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Layer normalisation of ``[G, *, *N]`` with ``weight`` and ``bias`` of ``[G, *N]``."""
    if x.device.type == "cpu" and x.numel() >= _LARGE * len(x):
        return _one_by_one(x, normalized_shape, weight, bias, eps)
    return _scaled(F.layer_norm(x, normalized_shape, None, None, eps), weight, bias)


def _one_by_one(
    x: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    weights, biases = ([None] * len(x) if p is None else p.unbind() for p in (weight, bias))
    rows = zip(x.unbind(), weights, biases, strict=True)
    return torch.stack([F.layer_norm(part, normalized_shape, w, b, eps) for part, w, b in rows])


def rms_norm(
    x: Tensor, normalized_shape: tuple[int, ...], weight: Tensor, eps: float | None
) -> Tensor:
    """RMS normalisation of ``[G, *, *N]`` with a ``weight`` of ``[G, *N]``."""
    return _scaled(F.rms_norm(x, normalized_shape, None, eps), weight, None)


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """``x * weight + bias``, each member by its own, in the dtype that autocast gave ``x``."""
    if weight is None:
        out = x if bias is None else x + _aligned(bias, x)
    elif bias is None:
        out = x * _aligned(weight, x)
    else:
        out = torch.addcmul(_aligned(bias, x), x, _aligned(weight, x))
    return out.to(x.dtype)


def _aligned(parameter: Tensor, x: Tensor) -> Tensor:
    """``[G, *N]`` as ``[G, 1, ..., *N]``, which broadcasts over ``x``."""
    ones = (1,) * (x.ndim - parameter.ndim)
    return parameter.reshape(parameter.shape[:1] + ones + parameter.shape[1:])
