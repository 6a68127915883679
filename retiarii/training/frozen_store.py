"""Tensors with a row for each sample, on disk: memory-mapped, checksummed, within a bound."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from retiarii.training.checkpoint import owned

_SUFFIX: Final = ".safetensors"
_PARTIAL: Final = ".partial"
# As safetensors calls them.
_DTYPES: Final = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
# So that every value is aligned in memory.
_ALIGNED: Final = 64


class FrozenStore:
    """A directory of tensors, each in a file of its own that is there whole or not at all.

    Any number of processes may use it at once: files are only ever made, under a lock, by renaming
    what is complete, and they hold a checksum of themselves. A damaged one is deleted.

    Args:
        directory: made when needed.
        limit: bytes that all files together may take.

    Attributes:
        directory, limit: as given.
    """

    def __init__(self, directory: Path, limit: int) -> None:
        self.limit = limit
        self.directory = directory

    def open(self, key: str) -> Tensor | None:
        """The tensor of that key, mapped into memory; ``None`` if it is not there, or damaged."""
        path = self._path(key)
        try:
            with safe_open(path, "pt") as file:
                tensor: Tensor = file.get_tensor("value")
                found = (file.metadata() or {}).get("checksum")
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError):
            tensor, found = torch.empty(0), None
        if found == _checksum(key, tensor):
            return tensor
        path.unlink(missing_ok=True)
        return None

    def used(self) -> int:
        """The bytes that all files take."""
        return sum(path.stat().st_size for path in self.directory.glob(f"*{_SUFFIX}"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within it no other process writes; it waits for the one that does.

        Raises:
            OSError: the directory cannot be written.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            for left in self.directory.glob(f"*{_PARTIAL}"):
                left.unlink(missing_ok=True)  # of a process that was killed
            yield
        finally:
            os.close(handle)

    def writer(self, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Writer:
        """Makes a tensor, a few rows at a time; to be used under the lock.

        Args:
            key: its name.
            shape: of the whole of it.
            dtype: one of those that `storable` knows.
        """
        return Writer(self._path(key), key, shape, dtype)

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}{_SUFFIX}"


def storable(tensor: Tensor) -> bool:
    """Whether there is a form for it on disk: a row for each sample, of a common type."""
    return tensor.dtype in _DTYPES and tensor.ndim > 0 and tensor.numel() > 0


class Writer:
    """Writes one file in order; entered as a context, it is there at the end, or not at all."""

    def __init__(self, path: Path, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._path = path
        self._shape = shape
        self._dtype = dtype
        self._hash = _begin(key, shape, dtype)
        self._file: BinaryIO | None = None

    def __enter__(self) -> Writer:
        self._file = open(self._partial, "wb", opener=owned)
        self._file.write(self._header("0" * 32))
        return self

    def write(self, rows: Tensor) -> None:
        """Adds rows.

        Raises:
            OSError: the disk is full.
        """
        assert self._file is not None
        data = _bytes(rows)
        self._hash.update(data)
        self._file.write(data)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._file is not None
        with self._file as file:
            if kind is None:
                file.seek(0)
                file.write(self._header(self._hash.hexdigest()))
                file.flush()
                os.fsync(file.fileno())
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)

    @property
    def _partial(self) -> Path:
        return self._path.with_name(f"{self._path.name}{_PARTIAL}")

    def _header(self, checksum: str) -> bytes:
        size = self._dtype.itemsize
        for length in self._shape:
            size *= length
        value = {
            "dtype": _DTYPES[self._dtype],
            "shape": list(self._shape),
            "data_offsets": [0, size],
        }
        text = json.dumps({"__metadata__": {"checksum": checksum}, "value": value}).encode()
        text += b" " * (-(len(text) + 8) % _ALIGNED)
        return len(text).to_bytes(8, "little") + text


def _begin(key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    return hashlib.blake2b(f"{key} {tuple(shape)} {dtype}".encode(), digest_size=16)


def _checksum(key: str, tensor: Tensor) -> str:
    made = _begin(key, tuple(tensor.shape), tensor.dtype)
    made.update(_bytes(tensor))
    return str(made.hexdigest())


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
