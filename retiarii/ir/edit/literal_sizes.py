"""Literal sizes in ``view``, ``expand``, ``unflatten``, ``split``, when their input changed shape.

``x.view(b, 4, 16, h, w)`` of 64 channels said how the channels are split. When there are 96, the
sizes that the literals stood for are worked out again: the old input shape and the old sizes are
matched in groups of equal products, and each group is fitted to its input's new sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from retiarii.errors import ShapeError
from retiarii.ir.types import BatchSize

Shape = tuple[int, ...]


def fit_view(sizes: Sequence[Any], old_input: Shape, new_input: Shape, old: Shape) -> Shape:
    """The arguments of ``view`` for a new input shape.

    Args:
        sizes: the arguments so far: integers, -1, ``BatchSize``.
        old_input: the input's shape that they were right for.
        new_input: the input's shape now.
        old: the shape that they made of it.

    Returns:
        As many arguments; ``sizes`` where nothing can be said (another number of dimensions).

    Raises:
        ShapeError: a split dimension no longer divides.
    """
    comparable = len(old_input) == len(new_input) and len(sizes) == len(old)
    if not comparable or old_input == new_input or 0 in (*old_input, *new_input, *old):
        return tuple(sizes)
    if prod(old_input) != prod(old):
        return tuple(sizes)
    fitted = list(sizes)
    for sources, targets in _groups(old_input, old):
        total = prod(new_input[i] for i in sources)
        if total == prod(old_input[i] for i in sources) and (
            len(sources) <= 1 or all(old_input[i] == new_input[i] for i in sources)
        ):
            continue
        part = fit_parts([sizes[j] for j in targets], [old[j] for j in targets], total)
        if part is None:
            raise ShapeError(
                f"the sizes {tuple(sizes)} split {list(old_input)} and cannot split "
                f"{list(new_input)}",
                fix="keep the width a multiple of what the view divides it by, or write -1 there",
            )
        for j, size in zip(targets, part, strict=True):
            fitted[j] = size
    return tuple(fitted)


def _groups(first: Shape, second: Shape) -> Iterator[tuple[range, range]]:
    """The finest cut of both shapes into runs of equal products."""
    i = j = 0
    while i < len(first) or j < len(second):
        start_i, start_j = i, j
        left = right = 1
        if i < len(first):
            left, i = first[i], i + 1
        if j < len(second):
            right, j = second[j], j + 1
        while left != right:
            if left < right:
                left, i = left * first[i], i + 1
            else:
                right, j = right * second[j], j + 1
        # Ones at the end belong to the last run.
        if left and all(s == 1 for s in (*first[i:], *second[j:])):
            i, j = len(first), len(second)
        yield range(start_i, i), range(start_j, j)


def fit_parts(sizes: Sequence[Any], old: Sequence[int], total: int) -> list[Any] | None:
    """Sizes with the product ``total``, as near to the old ones as can be.

    A -1 takes all of it. Else the largest literal changes (the width of a head and not the number
    of heads, the channels and not the factors of a pixel shuffle), of equal ones the last, and
    another one where that does not divide.
    """
    fitted = list(sizes)
    whole = prod(old)
    literals = [i for i, size in enumerate(sizes) if isinstance(size, int) and size != -1]
    if -1 in sizes and total % (whole // old[list(sizes).index(-1)]) == 0:
        return fitted
    for i in sorted(literals, key=lambda i: (-old[i], -i)):
        rest = whole // old[i]
        if total % rest == 0:
            fitted[i] = total // rest
            return fitted
    for i, size in enumerate(sizes):
        if isinstance(size, BatchSize) and not literals and size.divisor == 1 and not size.offset:
            batch = old[i] // size.scale
            rest = whole // old[i]
            if total % (rest * batch) == 0:
                fitted[i] = BatchSize(total // (rest * batch))
                return fitted
    return None


def fit_expand(sizes: Sequence[Any], old_input: Shape, new_input: Shape) -> tuple[Any, ...]:
    """The arguments of ``expand``: those that only repeated the input's size follow it."""
    if len(old_input) != len(new_input) or len(sizes) < len(old_input):
        return tuple(sizes)
    fitted = list(sizes)
    for at in range(1, len(old_input) + 1):
        if type(sizes[-at]) is int and sizes[-at] == old_input[-at] != 1:
            fitted[-at] = new_input[-at]
    return tuple(fitted)


def fit_split(sizes: Any, old: int, new: int) -> Any:
    """The size or sizes of ``split``: as many parts, in the old proportions.

    Raises:
        ShapeError: the new width has no such parts.
    """
    if old == new:
        return sizes
    if isinstance(sizes, int):
        parts = -(-old // sizes)
        if old % sizes == 0 and new % parts == 0:
            return new // parts
        if -(-new // sizes) == parts:
            return sizes
    elif all(isinstance(s, int) for s in sizes) and all(s * new % old == 0 for s in sizes):
        return tuple(s * new // old for s in sizes)
    raise ShapeError(
        f"a split of {old} into {sizes} cannot be made of {new}",
        fix="keep the width a multiple of what it is split into",
    )
