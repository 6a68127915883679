"""Writing through a view: what its base holds afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class ViewWrite:
    """A write into a view.

    Attributes:
        run: calls a torch function, recording it.
        base: a tensor that holds what the base held before; may be written in place.
        new: a tensor that holds what was written.
        view: the view itself (its offset and strides are read).
        args: the arguments of the call that made the view, its base first.
        kwargs: likewise.
    """

    run: Callable[..., torch.Tensor]
    base: torch.Tensor
    new: torch.Tensor
    view: torch.Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def argument(self, place: int, name: str) -> Any:
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, 0)

    def assign(self, index: Any) -> torch.Tensor:
        """The base with ``new`` at ``index``."""
        self.run(torch.Tensor.__setitem__, self.base, index, self.new)
        return self.base

    def assign_part(self, dim: Any, *, whole: bool) -> torch.Tensor | None:
        """The base with ``new`` where the view lies in one dimension.

        Args:
            dim: the dimension.
            whole: the view has that dimension too (a slice); else it is one index of it.
        """
        base, view = self.base, self.view
        if not isinstance(dim, int) or not base.stride(dim) or not base.numel():
            return None
        dim %= base.dim()
        start = (view.storage_offset() - base.storage_offset()) // base.stride(dim)
        here = slice(start, start + view.shape[dim]) if whole else start
        return self.assign((*(slice(None),) * dim, here))


# The base afterwards, of a view that a function made; `None`: cannot be said.
WriteBack = Callable[[ViewWrite], torch.Tensor | None]


def _reshape(write: ViewWrite) -> torch.Tensor:
    return write.run(torch.reshape, write.new, tuple(write.base.shape))


def _transpose(write: ViewWrite) -> torch.Tensor | None:
    dims = (*write.args[1:], *write.kwargs.values())
    return write.run(torch.transpose, write.new, *dims) if len(dims) == 2 else None


def _reverse(write: ViewWrite) -> torch.Tensor:
    return write.run(torch.permute, write.new, tuple(reversed(range(write.new.dim()))))


def _permute(write: ViewWrite) -> torch.Tensor:
    given = write.args[1:] or tuple(write.kwargs.values())
    dims = given[0] if given and not isinstance(given[0], int) else given
    order = [d % write.new.dim() for d in dims]
    return write.run(torch.permute, write.new, tuple(map(order.index, range(len(order)))))


def _diagonal(write: ViewWrite) -> torch.Tensor:
    return write.run(torch.diagonal_scatter, write.base, write.new, *write.args[1:], **write.kwargs)


_WRITE_BACK: Mapping[str, WriteBack] = MappingProxyType(
    {
        **dict.fromkeys(
            ("view", "reshape", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze"), _reshape
        ),
        **dict.fromkeys(("view_as", "reshape_as", "Flatten", "Unflatten"), _reshape),
        **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transpose),
        "t": _reverse,
        "permute": _permute,
        "diagonal": _diagonal,
        "movedim": lambda w: w.run(
            torch.movedim, w.new, w.argument(2, "destination"), w.argument(1, "source")
        ),
        "__getitem__": lambda write: write.assign(write.args[1]),
        "select": lambda write: write.assign_part(write.argument(1, "dim"), whole=False),
        "unbind": lambda write: write.assign_part(write.argument(1, "dim"), whole=False),
        "narrow": lambda write: write.assign_part(write.argument(1, "dim"), whole=True),
        **dict.fromkeys(
            ("split", "chunk", "tensor_split", "split_with_sizes"),
            lambda write: write.assign_part(write.argument(2, "dim"), whole=True),
        ),
    }
)

# Their results share memory with the input, but no gradient: a write through them cannot be
# followed.
_DETACHED = frozenset({"detach", "data", "view_as_real", "view_as_complex"})


def write_back(function: str, write: ViewWrite) -> torch.Tensor | None:
    """What the base of a view holds after a write; ``None`` if that cannot be said.

    Args:
        function: the name of the function that made the view.
        write: the write.
    """
    base, view = write.base, write.view
    if function in _DETACHED or write.new.dtype != base.dtype:
        return None
    place = (view.shape, view.stride(), view.storage_offset())
    if place == (base.shape, base.stride(), base.storage_offset()):
        return write.new
    rule = _WRITE_BACK.get(function)
    return rule(write) if rule is not None else None
