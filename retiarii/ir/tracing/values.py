"""The tensors of a trace: which graph value each Python object holds now, aliases included.

A tensor object is an *entry*. Entries on one storage form a tree: the object that came first, and
views made of it. An in-place write gives the written entry a new graph value, writes it back into
its ancestors, and leaves every other alias *stale*; reading a stale view takes the view of its
base's new value. So the graph stays functional and reads what PyTorch would read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from retiarii.ir.node import NodeRecord
from retiarii.ir.tracing.signals import Unlowerable
from retiarii.ir.types import Ref


@dataclass(slots=True, eq=False)
class Storage:
    """Memory that tensors share.

    Attributes:
        version: counts the writes.
        concrete: no data was written to it.
        lasting: what it outlives the call as ("parameter", "buffer", ...); may not be written.
        poisoned: why aliases of the last written entry cannot be read any more.
        twin: the same memory without numbers, on the meta device.
    """

    version: int = 0
    concrete: bool = False
    lasting: str | None = None
    poisoned: str | None = None
    twin: torch.UntypedStorage | None = None


@dataclass(frozen=True, slots=True)
class ViewStep:
    """How a view was made: by which record, from which of its inputs, by which call."""

    record: NodeRecord
    position: int
    result: int
    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(slots=True, eq=False)
class Entry:
    """One tensor object; see the module's docstring.

    Attributes:
        device: what ``tensor.device`` shows.
    """

    tensor: torch.Tensor
    ref: Ref
    storage: Storage
    device: torch.device
    version: int = 0
    parent: Entry | None = None
    step: ViewStep | None = None
    meta: torch.Tensor | None = None

    @property
    def concrete(self) -> bool:
        """Whether its numbers are known: they follow from the code alone, not from data."""
        return self.storage.concrete and not self.tensor.is_meta


class Editor(Protocol):
    """What the values need of the recorder to follow a write."""

    def replay(self, step: ViewStep, base: Ref) -> Ref:
        """Records the view again, of another base."""

    def write_back(self, entry: Entry, base: Ref, new: Ref) -> Ref | None:
        """The value of the entry's base after ``new`` was written; ``None``: cannot be said."""


class Values:
    """All tensors of one trace."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._storages: dict[int, Storage] = {}
        self._kept: list[Any] = []

    def find(self, tensor: torch.Tensor) -> Entry | None:
        """The entry of this very object."""
        return self._entries.get(id(tensor))

    def storage(self, tensor: torch.Tensor) -> Storage | None:
        """The storage it lies in, if any tensor of the trace does.

        Raises:
            Unlowerable: the tensor has no plain storage.
        """
        return self._storages.get(_storage_id(tensor))

    def add(
        self,
        tensor: torch.Tensor,
        ref: Ref,
        device: torch.device,
        *,
        concrete: bool = False,
        lasting: str | None = None,
        parent: Entry | None = None,
        step: ViewStep | None = None,
    ) -> Entry:
        """Enters a tensor that holds the graph value ``ref``."""
        key = _storage_id(tensor)
        storage = self._storages.get(key)
        if storage is None:
            storage = self._storages[key] = Storage(concrete=concrete, lasting=lasting)
        entry = Entry(tensor, ref, storage, device, storage.version, parent, step)
        self._entries[id(tensor)] = entry
        return entry

    def forbid_writes(self, tensor: torch.Tensor, why: str) -> None:
        """Lets writes to the tensor's memory, through whatever alias, be refused."""
        key = _storage_id(tensor)
        storage = self._storages.setdefault(key, Storage())
        storage.lasting = storage.lasting or why

    def also(self, tensor: torch.Tensor, entry: Entry) -> None:
        """Lets another object stand for the same entry."""
        self._entries[id(tensor)] = entry
        self._kept.append(tensor)

    def meta(self, entry: Entry) -> torch.Tensor:
        """The entry's tensor, without numbers."""
        if entry.tensor.is_meta:
            return entry.tensor
        if entry.meta is None:
            storage, tensor = entry.storage, entry.tensor
            if storage.twin is None:
                size = tensor.untyped_storage().nbytes()
                storage.twin = meta_storage(size)
                self._storages[storage.twin._cdata] = storage
            entry.meta = torch.empty(0, dtype=tensor.dtype, device="meta").set_(
                storage.twin, tensor.storage_offset(), tensor.shape, tensor.stride()
            )
        return entry.meta

    def read(self, entry: Entry, editor: Editor) -> Ref:
        """The graph value that the entry's tensor has now.

        Raises:
            Unlowerable: it was written through an alias in a way that cannot be followed.
        """
        storage = entry.storage
        if entry.version != storage.version:
            if storage.poisoned is not None or entry.parent is None or entry.step is None:
                raise Unlowerable(
                    storage.poisoned or "reads a tensor that was written through an alias"
                )
            entry.ref = editor.replay(entry.step, self.read(entry.parent, editor))
            entry.version = storage.version
        return entry.ref

    def write(self, entry: Entry, new: Ref, editor: Editor) -> None:
        """Lets the entry's tensor, and all that shares its memory, hold ``new``."""
        storage = entry.storage
        bases: list[tuple[Entry, Ref | None]] = []
        above = entry.parent
        while above is not None:
            known = storage.poisoned is None
            bases.append((above, self.read(above, editor) if known else None))
            above = above.parent
        storage.version += 1
        below, value = entry, new
        below.ref, below.version = value, storage.version
        for base, before in bases:
            known = before is not None and below.step is not None
            back = editor.write_back(below, before, value) if known and before else None
            if back is None:
                storage.poisoned = (
                    storage.poisoned
                    or f"reads a tensor that was written through a view (by "
                    f"{below.step.function if below.step else 'an alias'})"
                )
                return
            base.ref, base.version = back, storage.version
            below, value = base, back


def meta_storage(size: int) -> torch.UntypedStorage:
    """Memory of ``size`` bytes that is not there."""
    return torch.UntypedStorage(size, device="meta")  # type: ignore[no-untyped-call]


def _storage_id(tensor: torch.Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError) as error:
        raise Unlowerable(
            f"makes a tensor without plain storage ({str(tensor.layout).removeprefix('torch.')})"
        ) from error
