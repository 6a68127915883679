"""Axes of what a node reads and makes, and how the positions along two of them go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from retiarii.ir.types import TensorType

Types = tuple[TensorType, ...]


class Axis(NamedTuple):
    """One axis of input (or result) number ``index``."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    axis: int


class Link(NamedTuple):
    """Position p along axis ``result`` is position ``source[p]`` along axis ``input``.

    A source of -1 is a position that comes from elsewhere.
    """

    input: Axis
    result: Axis
    source: Sequence[int]

    @property
    def plain(self) -> bool:
        """Whether each position is the same position of the input."""
        return self.source == range(len(self.source))
