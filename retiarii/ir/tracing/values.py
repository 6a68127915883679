"""The tensors of a trace: which graph value each Python object holds now, aliases included.

A tensor object is an *entry*. Entries on one storage form a tree: the object that came first, and
views made of it. An in-place write gives the written entry a new graph value, writes it back into
its ancestors, and leaves every other alias *stale*; reading a stale view takes the view of its
base's new value. So the graph stays functional and reads what PyTorch would read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from retiarii.ir.node import NodeRecord
from retiarii.ir.tracing.signals import Unlowerable
from retiarii.ir.tracing.state import ModelState
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


@dataclass(frozen=True, slots=True)
class Held:
    """The parameters and buffers of a model, as tensors find them.

    Attributes:
        keys: identity of a tensor -> its key, and the tensor that the traced copy has.
        memory: identity of a storage -> what it is kept as ("parameter", "buffer").
    """

    keys: Mapping[int, tuple[str, torch.Tensor]]
    memory: Mapping[int, str]

    @staticmethod
    def of(copy: ModelState, original: ModelState) -> Held:
        """What a copy holds.

        Args:
            copy: the traced one.
            original: the user's: code that reaches it (a lambda in ``__init__`` may) finds the
                same values.
        """
        keys: dict[int, tuple[str, torch.Tensor]] = {}
        memory: dict[int, str] = {}
        for key, tensor in copy.tensors.items():
            if key in copy.ties:
                continue
            keys[id(tensor)] = keys[id(original.tensors[key])] = (key, tensor)
            kind = "parameter" if key in copy.parameters else "buffer"
            memory.setdefault(_storage_id(tensor), kind)
        return Held(keys, memory)


class Values:
    """All tensors of one trace.

    Args:
        held: those that the model holds; entered when they are met.
        device: what they show.
    """

    def __init__(self, held: Held, device: torch.device) -> None:
        self._held = held
        self._device = device
        self._entries: dict[int, Entry] = {}
        self._storages: dict[int, Storage] = {}

    def find(self, tensor: torch.Tensor) -> Entry | None:
        """The entry of this very object."""
        found = self._entries.get(id(tensor))
        if found is None and id(tensor) in self._held.keys:
            key, twin = self._held.keys[id(tensor)]
            found = self._entries.get(id(twin)) or self.add(twin, Ref(key), self._device)
            self._entries[id(tensor)] = found
        return found

    def storage(self, tensor: torch.Tensor) -> Storage | None:
        """The storage it lies in, if any tensor of the trace does.

        Raises:
            Unlowerable: the tensor has no plain storage.
        """
        return self._storage(_storage_id(tensor))

    def _storage(self, key: int) -> Storage | None:
        found = self._storages.get(key)
        if found is None and key in self._held.memory:
            found = self._storages[key] = Storage(lasting=self._held.memory[key])
        return found

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
        storage = self._storage(key)
        if storage is None:
            storage = self._storages[key] = Storage(concrete=concrete, lasting=lasting)
        entry = Entry(tensor, ref, storage, device, storage.version, parent, step)
        self._entries[id(tensor)] = entry
        return entry

    def forbid_writes(self, tensor: torch.Tensor, why: str) -> None:
        """Lets writes to the tensor's memory, through whatever alias, be refused."""
        key = _storage_id(tensor)
        storage = self._storage(key)
        if storage is None:
            storage = self._storages[key] = Storage()
        storage.lasting = storage.lasting or why

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
