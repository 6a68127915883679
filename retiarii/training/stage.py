"""A part of a training: from which weights, and how far."""

from __future__ import annotations

from typing import NamedTuple


class Stage(NamedTuple):
    """What a trial trains that goes on from an earlier one.

    Attributes:
        parent: the trial whose last checkpoint it goes on from; ``None`` begins afresh.
        until: the epoch at which it ends, those of its parents included.
    """

    parent: int | None
    until: int
