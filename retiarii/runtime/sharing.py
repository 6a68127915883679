"""Data sets in memory, of which a machine needs one copy, however many workers it has.

The controller puts them where they have no name: a memory file that ends with the last process
that has it open, however that ends. Workers load the space file as ever, and then let go of what
they find to be equal.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import mmap
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from typing import Any, Final

import torch
from torch import Tensor

from retiarii.training.structure import tensors as tensors_in
from retiarii.user_code import is_users

# Below this a copy in each worker costs less than finding out that it is one.
LEAST_BYTES: Final = 4 << 20
_CHUNK_BYTES = 64 << 20

# (bytes, checksum) of memory that tensors are in -> where in the file it is.
Places = Mapping[tuple[int, str], int]


@dataclass(frozen=True, slots=True)
class Shared:
    """What a process is given of it.

    Attributes:
        fd: the file; nobody can write to it.
        places: what is in it.
    """

    fd: int
    places: Places

    def adopt(self, tensors: Sequence[Tensor]) -> int:
        """Has tensors whose memory is equal to what is shared use that; answers how many bytes.

        So do tensors of the user's own modules that are in the same memory, so that it is given
        back. Who writes to one of them writes to a copy of its own.
        """
        found = 0
        for pointer, group in _by_memory(tensors).items():
            size = group[0].untyped_storage().nbytes()
            place = self.places.get((size, _checksum(pointer, size)))
            if place is None:
                continue
            rights = mmap.PROT_READ | mmap.PROT_WRITE
            mapped = mmap.mmap(self.fd, size, mmap.MAP_PRIVATE, rights, offset=place)
            storage = torch.frombuffer(mapped, dtype=torch.uint8).untyped_storage()
            same = [t for t in _users_tensors() if _shareable(t) and _pointer(t) == pointer]
            with torch.no_grad():
                for each in {id(t): t for t in [*group, *same]}.values():
                    each.set_(storage, each.storage_offset(), each.size(), each.stride())
            found += size
        return found


class Publication:
    """The controller's end.

    Args:
        shared: what was put there.
    """

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        weakref.finalize(self, os.close, shared.fd)

    def handed(self) -> Handed:
        """For a process that is being started."""
        return Handed(self.shared)


class Handed:
    """`Shared`, on its way into a process that is being started."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def __reduce__(self) -> tuple[Callable[..., Shared], tuple[Any, ...]]:
        return (_received, (DupFd(self._shared.fd), dict(self._shared.places)))


def _received(duplicate: Any, places: Places) -> Shared:
    return Shared(int(duplicate.detach()), places)


def publish(tensors: Sequence[Tensor]) -> Publication | None:
    """Puts the memory of tensors where other processes of this machine can have it.

    Returns:
        ``None`` where none of them is large, or the system cannot (it is not Linux) or will not.
    """
    groups = _by_memory(tensors)
    if not groups or not hasattr(os, "memfd_create"):
        return None
    try:
        fd = os.memfd_create("retiarii-data", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        return None
    places: dict[tuple[int, str], int] = {}
    try:
        end = 0
        for pointer, group in groups.items():
            size = group[0].untyped_storage().nbytes()
            places[size, _checksum(pointer, size)] = end
            done = 0
            while done < size:
                part = _bytes(pointer + done, min(_CHUNK_BYTES, size - done))
                done += os.pwrite(fd, part, end + done)
            end += -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        os.ftruncate(fd, end)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError:  # no memory for it, say: each worker then has its own
        os.close(fd)
        return None
    return Publication(Shared(fd, places))


def _by_memory(tensors: Sequence[Tensor]) -> dict[int, list[Tensor]]:
    """Large tensors on the CPU, by the memory that they are in."""
    groups: dict[int, list[Tensor]] = {}
    for each in tensors:
        if _shareable(each):
            groups.setdefault(_pointer(each), []).append(each)
    return groups


def _shareable(tensor: Tensor) -> bool:
    # Numbers that are only read: no parameters, no subclasses with a mind of their own.
    return (
        type(tensor) is Tensor
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.requires_grad
        and tensor.untyped_storage().nbytes() >= LEAST_BYTES
    )


def _pointer(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bytes(pointer: int, size: int) -> memoryview:
    return memoryview((ctypes.c_ubyte * size).from_address(pointer)).cast("B")


def _checksum(pointer: int, size: int) -> str:
    found = hashlib.blake2b(digest_size=16)
    for at in range(0, size, _CHUNK_BYTES):
        found.update(_bytes(pointer + at, min(_CHUNK_BYTES, size - at)))
    return found.hexdigest()


def _users_tensors() -> Iterator[Tensor]:
    """Tensors that the user's modules have by a name of their own, or in a list or dict."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and is_users(file):
            for value in list(vars(module).values()):
                yield from tensors_in(value)
