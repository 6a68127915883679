"""One flat buffer that holds stacked parameters of one type on one device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# From this many elements on, a kernel of its own for a stack costs a CPU less than it saves.
LARGE = 65536


@dataclass(frozen=True, slots=True)
class Span:
    """Where one stacked parameter lies in its block.

    Attributes:
        parameter: its index among all stacked parameters.
        start: its first element in the block.
        shape: the stack's, the members in front; ``(1, *S)`` for a parameter of a single model.
        order: its dimensions from the outermost in memory to the innermost.
        first_segment: the index of its first member among the block's segments.
    """

    parameter: int
    start: int
    shape: tuple[int, ...]
    order: tuple[int, ...]
    first_segment: int

    @property
    def members(self) -> int:
        return self.shape[0]

    @property
    def length(self) -> int:
        return math.prod(self.shape)

    def rows(self, flat: Tensor) -> Tensor:
        """The stack in a flat tensor of the block, one member a row: ``[G, length of one]``."""
        piece = flat[self.start : self.start + self.length]
        return piece.view(self.members, self.length // self.members)

    def view(self, flat: Tensor) -> Tensor:
        """The stack in a flat tensor of the block, in the parameter's own memory format."""
        piece = flat[self.start : self.start + self.length]
        stored = piece.view([self.shape[d] for d in self.order])
        return stored.permute([self.order.index(d) for d in range(len(self.shape))])

    def flattened(self, stack: Tensor) -> Tensor:
        """A tensor of the stack's shape in the order in which the block holds it, as a vector."""
        return stack.reshape(self.shape).permute(self.order).reshape(-1)


def memory_order(stack: Tensor) -> tuple[int, ...]:
    """The dimensions of a stack from the outermost to the innermost, members outermost.

    Channels-last members stay so: only a stack whose members lie interleaved, or which does not
    fill its memory, is put in the ordinary order.
    """
    plain = tuple(range(stack.ndim))
    strides = stack.stride()
    inner = sorted(range(1, stack.ndim), key=lambda d: (-strides[d], d))
    order = (0, *inner)
    dense = stack.permute(order).is_contiguous()
    return order if dense and not stack.is_contiguous() else plain


class Region:
    """Neighbouring stacks of a block that one kernel updates.

    Many small stacks are one vector, over which a value for each model is spread out. A large one,
    on a CPU, is a matrix with a member a row: what is spread over it are columns, which cost
    neither time nor memory, and it fits the cache better than the whole block.

    Attributes:
        segments: how many members it has.
        first_segment: the index of the first among the block's.
    """

    def __init__(self, spans: Sequence[Span], owners: Sequence[int], device: torch.device) -> None:
        self._spans = tuple(spans)
        self._start = spans[0].start
        self._stop = spans[-1].start + spans[-1].length
        self.first_segment = spans[0].first_segment
        self.segments = sum(span.members for span in spans)
        self.device = device
        self._owners = torch.tensor(
            owners[self.first_segment : self.first_segment + self.segments], device=device
        )
        self._in_rows = len(spans) == 1 and _is_large(spans[0].length, device)
        self._elements: Tensor | None = None

    def of(self, flat: Tensor) -> Tensor:
        """The region's part of a flat tensor of its block."""
        return self._spans[0].rows(flat) if self._in_rows else flat[self._start : self._stop]

    def to_segments(self, values: Tensor) -> Tensor:
        """``[K]``, one value a model, as ``[segments]``."""
        return values.index_select(0, self._owners)

    def expand_segments(self, values: Tensor) -> Tensor:
        """``[segments]`` in a shape that broadcasts to that of :meth:`of`."""
        if self._in_rows:
            return values.unsqueeze(1)
        if self._elements is None:
            lengths = torch.tensor(_lengths(self._spans), device=self.device)
            self._elements = torch.repeat_interleave(
                torch.arange(self.segments, device=self.device),
                lengths,
                output_size=self._stop - self._start,
            )
        return values.index_select(0, self._elements)

    def expand(self, values: Tensor) -> Tensor:
        """``[K]`` likewise: each element gets its model's value."""
        return self.expand_segments(self.to_segments(values))


class Block:
    """The stacked parameters of one type on one device, end to end.

    A *segment* is one member of one stack; segments lie one behind the other, stack by stack.

    Attributes:
        data: all weights, ``[N]``.
        spans: one for each stack.
        owners: the model of each segment.
        lengths: the elements of each segment.
        regions: what is updated by one kernel each.
    """

    def __init__(
        self, data: Tensor, spans: Sequence[Span], owners: Sequence[int], models: int
    ) -> None:
        self.data = data
        self.spans = tuple(spans)
        self.owners = tuple(owners)
        self.lengths = _lengths(self.spans)
        self.regions = tuple(
            Region(group, self.owners, data.device) for group in _groups(self.spans, data.device)
        )
        self._segment_lengths = torch.tensor(self.lengths, device=data.device)
        self._by_model = _padded(self.owners, models).to(data.device)

    @property
    def segments(self) -> int:
        return len(self.owners)

    def views(self, flat: Tensor) -> list[Tensor]:
        """Each stack in a flat tensor of this block, in the stack's shape."""
        return [span.view(flat) for span in self.spans]

    def expand(self, values: Tensor) -> Tensor:
        """``[K]`` as ``[N]``: each element gets its model's value."""
        pieces = [(r.expand(values), r.of(self.data).shape) for r in self.regions]
        return torch.cat([piece.expand(shape).reshape(-1) for piece, shape in pieces])

    def segment_sums(self, flat: Tensor) -> Tensor:
        """``[N]`` summed over each segment: ``[segments]``. No segment's value reaches another."""
        if flat.device.type == "cpu":
            return torch.cat([span.rows(flat).sum(1) for span in self.spans])
        return reduced(flat, self._segment_lengths)

    def model_sums(self, per_segment: Tensor) -> Tensor:
        """``[segments]`` summed over each model's: ``[K]``, in an order that does not change."""
        padded = torch.cat([per_segment, per_segment.new_zeros(1)])
        return padded[self._by_model].sum(1)


def best_order(lengths: Sequence[int], device: torch.device) -> list[int]:
    """The order in which stacks of these lengths make the fewest regions: small ones first."""
    return sorted(range(len(lengths)), key=lambda i: (_is_large(lengths[i], device), i))


def _is_large(length: int, device: torch.device) -> bool:
    return device.type == "cpu" and length >= LARGE


def _groups(spans: Sequence[Span], device: torch.device) -> list[list[Span]]:
    """Each large stack by itself, small ones that are neighbours together."""
    found: list[list[Span]] = []
    joins = False
    for span in spans:
        large = _is_large(span.length, device)
        if joins and not large:
            found[-1].append(span)
        else:
            found.append([span])
        joins = not large
    return found


def _lengths(spans: Sequence[Span]) -> tuple[int, ...]:
    return tuple(s.length // s.members for s in spans for _ in range(s.members))


def reduced(flat: Tensor, lengths: Tensor) -> Tensor:
    """Sums of consecutive pieces in one kernel (slow on a CPU)."""
    # Unsafe: the check of the lengths would wait for the device.
    return torch.segment_reduce(flat, "sum", lengths=lengths, unsafe=True)


def _padded(owners: Sequence[int], models: int) -> Tensor:
    """For each model the indices of its segments, filled up with the index one past the last."""
    found: list[list[int]] = [[] for _ in range(models)]
    for segment, owner in enumerate(owners):
        found[owner].append(segment)
    longest = max(map(len, found), default=0)
    filled = [row + [len(owners)] * (longest - len(row)) for row in found]
    return torch.tensor(filled, dtype=torch.int64).reshape(models, longest)
