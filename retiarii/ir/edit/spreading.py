"""Numbers of channels, carried through operations that move elements; channels that go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

_LARGE = 1 << 60


class Units:
    """Channels that can only change together: a union of sets, by their smallest channel.

    Args:
        size: the number of channels, each by itself at first.
    """

    def __init__(self, size: int) -> None:
        self._above = list(range(size))

    def root(self, channel: int) -> int:
        above = self._above
        while above[channel] != channel:
            above[channel] = above[above[channel]]
            channel = above[channel]
        return channel

    def join(self, first: int, second: int) -> None:
        low, high = sorted((self.root(first), self.root(second)))
        self._above[high] = low

    def roots(self, channels: Sequence[int]) -> list[int]:
        return [self.root(c) if c >= 0 else -1 for c in channels]

    def numbered(self) -> tuple[int, ...]:
        """For each channel the number of its set, counted from 0 by their smallest channels."""
        roots = [self.root(c) for c in range(len(self._above))]
        numbers = {root: i for i, root in enumerate(sorted(set(roots)))}
        return tuple(numbers[root] for root in roots)


def gathered(
    channels: Sequence[int], source: Sequence[int], size: int, units: Units, *, join: bool
) -> list[int] | None:
    """The channels of an input's positions.

    Where one would be of several channels they are joined, or else it is ``None``.
    """
    made = [-1] * size
    for channel, position in zip(channels, source, strict=True):
        if position < 0 or channel < 0:
            continue
        held = made[position]
        if held >= 0 and units.root(held) != units.root(channel):
            if not join:
                return None
            units.join(held, channel)
        made[position] = channel if held < 0 else held
    return made


def spread(numbers: torch.Tensor, channels: Sequence[int], units: Units) -> tuple[int, list[int]]:
    """The axis of a result along which the channels of an input's axis are found, and which.

    Where an axis is split and several of the new axes divide the channels, channels are joined so
    that the outermost does: heads stay whole.

    Args:
        numbers: for each element of the result its position along the input's axis.
        channels: the channel of each such position, or -1.
        units: the channels that go together; some are joined.
    """
    held = torch.tensor(units.roots(channels), device="cpu")[numbers]
    axes = _dependent(numbers)
    found: list[tuple[bool, int, list[int]]] = []
    for axis in axes:
        lines = held.movedim(axis, 0).reshape(held.shape[axis], -1)
        most, least = _bounds(lines)
        if bool((most == least).all()):
            mixed = bool(((lines < 0).any(1) & (most >= 0)).any())
            found.append((mixed, axis, most.tolist()))
    if found:
        _, axis, made = min(found, key=lambda way: way[:2])
        return axis, made
    axis = axes[0]
    return axis, _joined(held.movedim(axis, 0).reshape(held.shape[axis], -1), units)


def traced(
    numbers: Mapping[int, torch.Tensor], axis: int, channels: Sequence[int], units: Units
) -> tuple[int, list[int]] | None:
    """The axis of an input from which the channels of a result's axis come, and which.

    Args:
        numbers: for each axis of the input, the position along it of each element of the result.
        axis: of the result.
        channels: the channel of each position along it, or -1.
        units: the channels that go together; some are joined.

    Returns:
        ``None`` where no axis of the input is divided by them.
    """
    made = next(iter(numbers.values()))
    roots = torch.tensor(units.roots(channels), device="cpu")
    held = roots.view([-1 if i == axis else 1 for i in range(made.dim())]).expand(made.shape)
    sizes = {a: int(n.max()) + 1 for a, n in numbers.items()}
    axes = [a for a, n in numbers.items() if axis in _dependent(n)]
    for at in axes:
        most = torch.full((sizes[at],), -1, device="cpu")
        least = torch.full((sizes[at],), _LARGE, device="cpu")
        where = numbers[at].reshape(-1)
        most.scatter_reduce_(0, where, held.reshape(-1), "amax")
        known = torch.where(held < 0, _LARGE, held).reshape(-1)
        least.scatter_reduce_(0, where, known, "amin")
        least = torch.where(most < 0, most, least)
        if bool((most == least).all()):
            return at, most.tolist()
    if not axes:
        return None
    at = axes[0]
    where, flat = numbers[at].reshape(-1), held.reshape(-1)
    line = []
    for position in range(sizes[at]):
        own = sorted({c for c in flat[where == position].tolist() if c >= 0})
        for channel in own[1:]:
            units.join(own[0], channel)
        line.append(own[0] if own else -1)
    return at, line


def _dependent(numbers: torch.Tensor) -> list[int]:
    """The axes along which the position changes, outermost first."""
    axes = []
    for axis in range(numbers.dim()):
        lines = numbers.movedim(axis, 0)
        if bool((lines != lines[:1]).any()):
            axes.append(axis)
    return axes


def _bounds(lines: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest and the smallest channel of each line; -1 where it has none."""
    most = lines.amax(1)
    least = torch.where(lines < 0, _LARGE, lines).amin(1)
    return most, torch.where(most < 0, most, least)


def _joined(lines: torch.Tensor, units: Units) -> list[int]:
    made = []
    for line in lines:
        own = sorted(set(line[line >= 0].tolist()))
        for channel in own[1:]:
            units.join(own[0], channel)
        made.append(own[0] if own else -1)
    return made
