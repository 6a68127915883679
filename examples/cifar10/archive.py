"""Reads CIFAR-10's own python archive, without trusting it.

The archive is a tar of Python 2 pickles, and a pickle may run any code when it is opened by
``pickle.load``. Here nothing can be called but three stand-ins that put together an array of bytes:
anything else in the file is refused before it is looked up. Nothing is unpacked to the disk.
"""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from retiarii.errors import FileError

VARIABLE = "CIFAR10"
FOLDER = "cifar-10-batches-py"
TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = "test_batch"
NAMES = "batches.meta"
PIXELS = 3 * 32 * 32
_LARGEST = 64 << 20  # a batch of 10,000 images has 31 MB
_GET_IT = (
    "download cifar-10-python.tar.gz by hand from https://www.cs.toronto.edu/~kriz/cifar.html, "
    f"and say where it lies: export {VARIABLE}=/path/to/cifar-10-python.tar.gz, or to its folder"
)


class Cifar10(NamedTuple):
    """Images uint8 ``[N, 3, 32, 32]``, labels int64 ``[N]``, and the names of the ten classes."""

    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor
    names: tuple[str, ...]


def from_environment() -> Cifar10:
    """The data that ``$CIFAR10`` points at.

    Raises:
        FileError: it is not set, or as in `read`.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        raise FileError(f"${VARIABLE} is not set", fix=_GET_IT)
    return read(path)


def read(path: str | Path) -> Cifar10:
    """The data of ``cifar-10-python.tar.gz``, or of the folder that is in it.

    Raises:
        FileError: it is missing, not CIFAR-10's, damaged, or holds what data never holds.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileError("CIFAR-10 is not there", where=str(path), fix=_GET_IT)
    wanted = {*TRAIN, TEST, NAMES}
    members = _of_folder(path, wanted) if path.is_dir() else _of_tar(path, wanted)
    found = {name: _open(data, f"{path}: {name}") for name, data in members}
    if missing := sorted(wanted - found.keys()):
        raise FileError(f"{missing[0]} is not in it", where=str(path), fix=_GET_IT)
    train = [_batch(found[name], f"{path}: {name}") for name in TRAIN]
    test = _batch(found[TEST], f"{path}: {TEST}")
    names = found[NAMES].get(b"label_names")
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise _damaged("there are no names of classes", f"{path}: {NAMES}")
    images, labels = (torch.cat(parts) for parts in zip(*train, strict=True))
    return Cifar10(images, labels, *test, tuple(name.decode("ascii", "replace") for name in names))


def _of_folder(path: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    for name in sorted(wanted):
        file = folder / name
        if file.is_file():
            if file.stat().st_size > _LARGEST:
                raise _damaged("it is too large for a batch", str(file))
            yield name, file.read_bytes()


def _of_tar(path: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """The members that are wanted, read from the stream in the order in which they come."""
    seen: set[str] = set()
    try:
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                parts = member.name.split("/")
                if member.name.startswith("/") or ".." in parts:
                    raise _damaged(f"a member lies outside of it: {member.name!r}", str(path))
                name = parts[-1]
                if member.name != f"{FOLDER}/{name}" or name not in wanted:
                    continue
                if not member.isfile() or member.size > _LARGEST or name in seen:
                    raise _damaged(
                        f"{name} is no file of a batch's size, or there twice", str(path)
                    )
                seen.add(name)
                file = tar.extractfile(member)
                assert file is not None
                yield name, file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise _damaged(f"it cannot be read as a tar archive: {error}", str(path)) from error


def _batch(found: dict[Any, Any], where: str) -> tuple[torch.Tensor, torch.Tensor]:
    data, labels = found.get(b"data"), found.get(b"labels")
    if not isinstance(data, _Array) or not isinstance(labels, list):
        raise _damaged("there are no images, or no labels", where)
    try:
        images = data.array()
    except pickle.UnpicklingError as error:
        raise _damaged(str(error), where) from error
    if images.ndim != 2 or images.shape != (len(labels), PIXELS) or not labels:
        raise _damaged(f"the images are {list(images.shape)}, the labels {len(labels)}", where)
    if not all(type(label) is int and 0 <= label < 10 for label in labels):
        raise _damaged("a label is not from 0 to 9", where)
    return torch.from_numpy(images.reshape(-1, 3, 32, 32)), torch.tensor(labels)


# --- pickles -------------------------------------------------------------------------------------


class _DType:
    """Stands for ``numpy.dtype``, of which only unsigned bytes are known."""

    __slots__ = ("name",)

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Version and byte order, which bytes have none of."""


class _Array:
    """Stands for ``numpy.ndarray``: holds what was pickled, and is made an array when asked."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray[Any, Any]:
        """A copy, as an array.

        Raises:
            pickle.UnpicklingError: it is none of unsigned bytes.
        """
        try:
            _, shape, dtype, by_columns, raw = self.state
            if dtype.name not in (b"u1", "u1") or by_columns or type(raw) is not bytes:
                raise ValueError("no unsigned bytes, row by row")
            return np.frombuffer(raw, np.uint8).reshape(shape).copy()
        except (TypeError, ValueError, AttributeError) as error:
            raise pickle.UnpicklingError(f"an array that cannot be: {error}") from error


def _reconstruct(kind: Any, *_: Any) -> _Array:
    """Stands for numpy's function of this name, which makes an array that has no contents yet."""
    if kind is not _Array:
        raise pickle.UnpicklingError("an array of another kind")
    return _Array()


class _Reader(pickle.Unpickler):
    """Knows of no names but those that an array of numpy needs."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy", "dtype"): _DType,
            ("numpy", "ndarray"): _Array,
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data needs")
        return allowed[module, name]


def _open(data: bytes, where: str) -> dict[Any, Any]:
    try:
        found = _Reader(io.BytesIO(data), encoding="bytes").load()
        if not isinstance(found, dict):
            raise pickle.UnpicklingError(f"it holds a {type(found).__name__}, not a dict")
    except Exception as error:  # a damaged pickle raises anything
        raise _damaged(f"it is refused: {error or type(error).__name__}", where) from error
    return found


def _damaged(what: str, where: str) -> FileError:
    return FileError(what, where=where, fix=_GET_IT)
