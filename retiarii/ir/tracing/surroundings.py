"""What stands around the calls of a trace and changes what they do: autocast, seeds, transforms.

No call shows a region in which autocast is switched off, or that the random state was set: both
leave marks on torch that are looked at here.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from retiarii.ir.tracing.signals import Unlowerable

# What autocast runs as it is on every device, so that it does not matter whether it is on.
_UNTOUCHED: Final = frozenset(
    {"to", "float", "double", "half", "bfloat16", "int", "long", "bool", "type", "type_as"}
    | {"view", "reshape", "flatten", "unflatten", "expand", "expand_as", "transpose", "permute"}
    | {"unsqueeze", "squeeze", "contiguous", "detach", "clone", "chunk", "split", "unbind"}
    | {"repeat", "repeat_interleave", "narrow", "select", "swapaxes", "movedim", "__getitem__"}
    | {"add", "sub", "mul", "div", "neg", "abs", "cos", "sin", "sqrt", "floor", "clamp", "where"}
    | {"__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__"}
    | {"__neg__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "cat", "stack"}
    | {"arange", "zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "tensor"}
)
_PRODUCTS: Final = frozenset({"matmul", "__matmul__", "bmm"})
# Seeds that nobody chooses: one is set after each call that may draw random numbers, so that code
# that sets another one, or puts an earlier state back, is seen.
_FIRST_SEED: Final = 0x2545_F491_4F6C_DD1D


class Surroundings:
    """Of one trace, whose beginning this is; the caller keeps torch's random state."""

    def __init__(self) -> None:
        self._nesting = _nesting()
        self._seed = _FIRST_SEED
        torch.default_generator.manual_seed(self._seed)

    def check(self, site: str | None = None, name: str = "") -> None:
        """Raises Unlowerable where what stands around a call changes what torch does.

        Args:
            site: the user's line.
            name: of the function; a module's call has none.
        """
        if torch._C._is_any_autocast_enabled():
            raise Unlowerable("computes under autocast", site, real=True)
        if torch._C._are_functorch_transforms_active():
            raise Unlowerable("computes under a torch.func transform", site)
        if name not in _UNTOUCHED and self._without_autocast():
            raise Unlowerable("computes with autocast switched off", site)

    def is_outer_product(self, name: str, args: tuple[Any, ...]) -> bool:
        """Whether a product with autocast switched off is one of numbers, each by each.

        As an elementwise product, which autocast leaves as it is, it is the same to the bit: the
        angles of rotary embeddings are made so.
        """
        return (
            name in _PRODUCTS
            and self._without_autocast()
            and len(args) == 2
            and all(isinstance(arg, torch.Tensor) and arg.dim() > 1 for arg in args)
            and args[0].shape[-1] == args[1].shape[-2] == 1
        )

    def check_seed(self, site: str | None = None, path: str | None = None) -> None:
        """Raises Unlowerable where the code has set torch's random state since the last call."""
        if torch.default_generator.initial_seed() != self._seed:
            raise Unlowerable("sets the state of torch's random numbers", site, path)

    def drew(self) -> None:
        """Notes that a call may have drawn random numbers, or that its seeds are its own."""
        self._seed += 1
        torch.default_generator.manual_seed(self._seed)

    def _without_autocast(self) -> bool:
        return _nesting() != self._nesting


def _nesting() -> int:
    """How many autocast regions there are around, switched on or off."""
    depth: int = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return depth
