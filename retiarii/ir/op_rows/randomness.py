"""Operations that draw random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from retiarii.ir.op_rows import helpers
from retiarii.ir.op_rows.spec import Row, Spelling, function

_MADE = "dtype=None, device=None, requires_grad=False"
_LIKE = f"*, {_MADE}, memory_format=None"


def _from_zero(
    args: tuple[Any, ...], kwargs: dict[str, Any], _is_tensor: Callable[[Any], bool]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``randint(high, size)`` draws from zero."""
    if len(args) + len({"low", "high", "size"} & kwargs.keys()) == 2 and "low" not in kwargs:
        return (0, *args), kwargs
    return args, kwargs


def _like_from_zero(
    args: tuple[Any, ...], kwargs: dict[str, Any], _is_tensor: Callable[[Any], bool]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if len(args) + len({"low", "high"} & kwargs.keys()) == 2 and "low" not in kwargs:
        return (*args[:1], 0, *args[1:]), kwargs
    return args, kwargs


def _random(op: str, signature: str, call: str, *more: Spelling, **facts: Any) -> Row:
    facts = {"search": False, "pure": False, "random": True, "fuse": "random", **facts}
    return function(op, signature, call, *more, **facts)


RANDOMNESS: Final[tuple[Row, ...]] = (
    _random("rand", f"*size, {_MADE}", "torch.rand"),
    _random("randn", f"*size, {_MADE}", "torch.randn"),
    _random(
        "randint",
        f"low: P, high: P, size: P, *, {_MADE}",
        "torch.randint",
        normalise=_from_zero,
    ),
    _random("randperm", f"n: P, *, {_MADE}", "torch.randperm"),
    _random(
        "normal",
        "mean: T, std: T = None, size=None, *, dtype=None, device=None, requires_grad=False",
        "torch.normal",
    ),
    _random("rand_like", f"input: T, {_LIKE}", "torch.rand_like"),
    _random("randn_like", f"input: T, {_LIKE}", "torch.randn_like"),
    _random(
        "randint_like",
        f"input: T, low: P, high: P, {_LIKE}",
        "torch.randint_like",
        normalise=_like_from_zero,
    ),
    _random(
        "bernoulli",
        "input: T, p: P = None",
        "torch.bernoulli",
        Spelling("Tensor.bernoulli"),
        Spelling("Tensor.bernoulli_", fallbacks={"p": 0.5}, inplace=True),
    ),
    _random("multinomial", "input: T, num_samples, replacement=False", "torch.multinomial"),
    _random("poisson", "input: T", "torch.poisson"),
    _random(
        "gumbel_softmax", "logits: T, tau=1, hard=False, eps=1e-10, dim=-1", "F.gumbel_softmax"
    ),
    _random(
        "uniform",
        "input: T, low=0.0, high=1.0",
        "uniform",
        Spelling("Tensor.uniform_", "input: T, low, high", inplace=True),
        target=helpers.uniform,
        helper=helpers.text_of(helpers.uniform),
    ),
    _random(
        "gaussian",
        "input: T, mean=0.0, std=1.0",
        "gaussian",
        Spelling("Tensor.normal_", "input: T, mean, std", inplace=True),
        target=helpers.gaussian,
        helper=helpers.text_of(helpers.gaussian),
    ),
)
