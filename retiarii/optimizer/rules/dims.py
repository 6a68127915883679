"""Dimensions of a member's tensor, and where they are in a stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from retiarii.optimizer.rules.base import Form, Fusion, Lowering


def from_end(dim: int, rank: int) -> int:
    """The dimension counted from the end, where members' dimensions stay what they are."""
    return dim if dim < 0 else dim - rank


def from_start(dim: int, rank: int) -> int:
    return dim % rank if rank else 0


def all_from_end(dims: Any, rank: int) -> Any:
    """The same for an int or a tuple of ints."""
    if isinstance(dims, int):
        return from_end(dims, rank)
    return tuple(from_end(d, rank) for d in dims)


def are_dims(dims: Any) -> bool:
    """Whether the value is a dimension or a tuple of them (and no symbol that stands for one)."""
    return type(dims) is int or (type(dims) is tuple and all(type(d) is int for d in dims))


def each(dims: Any) -> tuple[int, ...]:
    return (dims,) if isinstance(dims, int) else tuple(dims)


@dataclass(frozen=True, slots=True)
class Along:
    """Writes a call of one tensor along dimensions, in the form that costs least.

    Attributes:
        fusion: the group; input 0 is what is worked on, it alone has a stack that may be channels.
        write: Python for the call, of an operand and of what stands for the dimensions.
    """

    fusion: Fusion
    write: Callable[[str, Any], str]

    def lowered(self, dims: Any, *, keeps_rank: bool = False) -> Lowering:
        """The group along ``dims``, given as the member's call has them.

        Args:
            dims: a dimension or a tuple of them.
            keeps_rank: results have the dimensions of the input, at their places.
        """
        call = self.fusion.call
        rank = len(call.inputs[0].shape)
        places = {from_start(d, rank) for d in each(dims)}
        ended = all_from_end(dims, rank)
        if self._channels and not places & {0, 1}:
            return self._as(Form.CHANNELS, self.write("$0", dims))
        single = len(call.results) == 1 and call.result is None
        if self._channels and keeps_rank and single and 0 not in places:
            view = f"$0.unflatten(1, ({self.fusion.size}, -1))"
            text = f"kernels.join_channels({self.write(view, ended)})"
            return self._as(Form.CHANNELS, text)
        return self._as(Form.MEMBERS, self.write("$0", ended))

    @property
    def _channels(self) -> bool:
        return not self.fusion.shared[0] and self.fusion.forms[0] is Form.CHANNELS

    def _as(self, form: Form, text: str) -> Lowering:
        return Lowering(text, (form,), (form,) * len(self.fusion.call.results))


def members(fusion: Fusion, text: str, plain: Sequence[int] = ()) -> Lowering:
    """All inputs and results in the form of members, but for those that stay shared."""
    forms = tuple(
        Form.PLAIN if i in plain and fusion.shared[i] else Form.MEMBERS
        for i in range(len(fusion.call.inputs))
    )
    return Lowering(text, forms, (Form.MEMBERS,) * len(fusion.call.results))


def ones(missing: int) -> str:
    """An index that puts ones after the member dimension."""
    return f"[:{', None' * missing}]" if missing > 0 else ""
