"""Whether a data source gives the same samples each time, one by one: only then may they be kept.

A data set that draws at random (augmentation) or a ``collate_fn`` that mixes samples looks like any
other from outside. So many samples are read several times: under other seeds, in batches of another
size, in another order. What comes out must be the same, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from retiarii.optimizer.lift import digest_of
from retiarii.training.data import Source
from retiarii.training.sampling import Plan
from retiarii.training.structure import leaves, map_tensors

# An augmentation that changes 1 sample in 20 is overlooked once in half a million times.
_SAMPLES = 256
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A source whose samples are always the same.

    Attributes:
        fingerprint: of the samples: of all that are in memory, else of those that were read.
        targets: of a batch; only its structure is meant.
    """

    fingerprint: str
    targets: Any


def look_at(source: Source) -> Repeatable | str:
    """Reads samples several times.

    Returns:
        What was found; or, in words, why the samples cannot be kept.
    """
    whole = source.whole
    if whole is not None:
        tensors = flat(whole)
        return Repeatable(digest_text(*(digest_of(t).hex() for t in tensors)), whole[1])
    length = len(source)
    count = min(length, _SAMPLES)
    order = torch.tensor([i * length // count for i in range(count)])
    first, targets = _read(source, order, _BATCH, 1)
    again = [
        _read(source, order, _BATCH, 2)[0],
        _read(source, order, _BATCH // 2, 3)[0],
        _read(source, order.flip(0), _BATCH, 4)[0],
    ]
    if isinstance(first, str):
        return first
    for number, other in enumerate(again):
        if isinstance(other, str):
            return other
        if number == 2:
            other = [t.flip(0) for t in other]
        if [digest_of(t) for t in first] != [digest_of(t) for t in other]:
            return _CAUSES[number].format(source.name)
    parts = [digest_of(t).hex() for t in first]
    return Repeatable(digest_text(str(len(source)), *parts), targets)


_CAUSES = (
    "samples of {} are not the same when they are read twice (random augmentation)",
    "samples of {} depend on the batch that they are in (collate_fn)",
    "samples of {} depend on their place in the batch, or change while they are read",
)


def flat(value: Any) -> list[Tensor]:
    """The tensors in a structure, in the order in which `map_tensors` meets them."""
    found: list[Tensor] = []
    map_tensors(found.append, value)
    return found


def _read(source: Source, order: Tensor, size: int, seed: int) -> tuple[list[Tensor] | str, Any]:
    """All tensors of these samples, inputs before targets."""
    full, rest = divmod(len(order), size)
    plan = Plan(order, (size,) * full + ((rest,) if rest else ()))
    rows: list[list[Tensor]] = []
    targets: Any = None
    for batch in source.read(plan, torch.device("cpu"), None, seed):
        pair = (batch.inputs, batch.targets)
        if not all(isinstance(leaf, Tensor) for leaf in leaves(pair)):
            return f"samples of {source.name} hold something other than tensors", None
        found = flat(pair)
        if any(t.ndim == 0 or len(t) != batch.size for t in found):
            return f"tensors of {source.name} have no row for each sample", None
        if rows and [t.shape[1:] for t in rows[0]] != [t.shape[1:] for t in found]:
            return f"samples of {source.name} are not all of one shape", None
        rows.append(found)
        targets = batch.targets
    return [torch.cat(column) for column in zip(*rows, strict=True)], targets


def digest_text(*parts: str) -> str:
    """A name for a file, from what its content follows from."""
    made = blake2b(digest_size=16)
    for part in parts:
        made.update(f"{len(part)}:{part}".encode())
    return made.hexdigest()
