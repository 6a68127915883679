"""Data as a user gives it, made into batches that depend on seeds alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from retiarii.errors import EvaluatorError
from retiarii.training.fingerprint import digest, tensor_bytes
from retiarii.training.readers import (
    Batch,
    LoaderReader,
    MemoryReader,
    Reader,
    first_dimension,
    split,
)
from retiarii.training.rng import Stream
from retiarii.training.sampling import Plan, Sampling, loader_sampling
from retiarii.training.structure import leaves, tensors

# A list of samples up to this size is stacked once and indexed from then on.
COLLATE_BYTES = 512 << 20
COLLATE_SAMPLES = 200_000

_PASSED_ON = ("collate_fn", "num_workers", "pin_memory", "timeout", "worker_init_fn")


class Source:
    """Training or validation data.

    Attributes:
        name: for errors: ``train_data`` or ``val_data``.
        sampling: how it is cut into batches.
    """

    def __init__(self, name: str, sampling: Sampling, reader: Reader) -> None:
        self.name = name
        self.sampling = sampling
        self._reader = reader

    def __len__(self) -> int:
        return self.sampling.length

    @property
    def targets(self) -> Any:
        """The targets of all samples where they are in memory, else ``None``."""
        return self._reader.targets

    @property
    def in_memory(self) -> bool:
        return isinstance(self._reader, MemoryReader)

    @property
    def whole(self) -> tuple[Any, Any] | None:
        """Inputs and targets of all samples where they are in memory, else ``None``."""
        reader = self._reader
        return (reader.inputs, reader.targets) if isinstance(reader, MemoryReader) else None

    def read(
        self,
        plan: Plan,
        device: torch.device,
        dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> Iterator[Batch]:
        """The batches of a plan; see :meth:`Reader.read`."""
        return self._reader.read(plan, device, dtype, seed)

    def describe(self) -> dict[str, Any]:
        """Length, shapes, and a checksum of the first and last sample, as JSON.

        Samples that are not the same when asked for twice (they are drawn at random from
        somewhere that cannot be seeded) are left out of the checksum.
        """
        first, again = self._look(0), self._look(0)
        last = self._look(len(self) - 1)
        found: dict[str, Any] = {
            "length": len(self),
            "sample": [f"{t.dtype}{list(t.shape)}" for t in first],
        }
        if _checksum(first) == _checksum(again):
            found["checksum"] = _checksum([*first, *last])
        return found

    def _look(self, index: int) -> list[Tensor]:
        with Stream(0):
            sample = self._reader.sample(index)
        return [_as_tensor(leaf) for leaf in leaves(sample)]


def _as_tensor(leaf: Any) -> Tensor:
    if isinstance(leaf, Tensor):
        return leaf
    if isinstance(leaf, np.ndarray | np.generic | int | float):
        return torch.as_tensor(np.array(leaf))
    return torch.tensor(list(str(leaf).encode()), dtype=torch.uint8)


def _checksum(sample: list[Tensor]) -> str:
    return digest(*(part for t in sample for part in tensor_bytes(t)))


def open_data(data: Any, name: str) -> Source:
    """A source from what a user gave: arrays, a list of samples, a Dataset or a DataLoader.

    Args:
        data: ``(x, y)`` tensors or arrays (``x`` may be a tuple or dict of them), a list of
            samples, any map-style or a DataLoader over one.
        name: for errors: ``train_data`` or ``val_data``.

    Raises:
        EvaluatorError: it is none of these, empty, or of unequal lengths.
    """
    where = f"Supervised({name}=...)"
    loader = data if isinstance(data, DataLoader) else None
    dataset = loader.dataset if loader is not None else data
    if _is_arrays(dataset):
        return _from_arrays(dataset, name, where)
    if isinstance(dataset, IterableDataset) or not (
        hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    ):
        raise EvaluatorError(
            f"{name} is a {type(dataset).__name__}, which cannot be asked for a sample by number",
            where=where,
            fix="give (x, y) arrays, a list of samples, or a Dataset with __len__ and __getitem__",
        )
    if isinstance(dataset, str | bytes | Mapping | Tensor | np.ndarray):
        raise EvaluatorError(
            f"{name} is a {type(dataset).__name__}, which has inputs without targets",
            where=where,
            fix="give a pair: (x, y)",
        )
    length = len(dataset)
    _check_not_empty(length, name, where)
    sampling = Sampling(length) if loader is None else loader_sampling(loader, length, where)
    plan = sampling.plan(1, 0, 0, training=True)
    if not plan.sizes:
        raise EvaluatorError(
            f"{name} gives no batch: {length} samples, with drop_last, in batches of "
            f"{sampling.batch_size}",
            where=where,
            fix="make the batches smaller, or leave drop_last out",
        )
    if loader is None or loader.collate_fn is default_collate:
        in_memory = _in_memory(dataset, name, where)
        if in_memory is not None:
            return Source(name, sampling, in_memory)
    return Source(name, sampling, LoaderReader(dataset, name, _settings(loader)))


def _is_arrays(data: Any) -> bool:
    return type(data) is tuple and len(data) >= 2 and all(map(_is_array, data))


def _is_array(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and all(map(_is_array, value.values()))
    if type(value) is tuple:
        return bool(value) and all(map(_is_array, value))
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0


def _from_arrays(data: Any, name: str, where: str) -> Source:
    inputs, targets = split(_to_tensors(data), name)
    lengths = first_dimension((inputs, targets))
    if len(lengths) != 1:
        raise EvaluatorError(
            f"the arrays of {name} have different lengths: {sorted(lengths)}",
            where=where,
            fix="the first dimension is the sample, and must be the same in all of them",
        )
    (length,) = lengths
    _check_not_empty(length, name, where)
    return Source(name, Sampling(length), MemoryReader(inputs, targets))


def _to_tensors(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _to_tensors(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_to_tensors, value))
    # A copy: arrays may be read-only, or change under us.
    return value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))


def _check_not_empty(length: int, name: str, where: str) -> None:
    if length == 0:
        raise EvaluatorError(
            f"{name} is empty", where=where, fix="give at least one sample; look at the split"
        )


def _in_memory(dataset: Any, name: str, where: str) -> MemoryReader | None:
    """A fast reader for data whose samples never change: TensorDatasets and lists."""
    if type(dataset) is TensorDataset:
        return MemoryReader(*split(dataset.tensors, name))
    if not isinstance(dataset, list | tuple):
        return None
    return _stack(dataset, name, where)


def _stack(samples: Sequence[Any], name: str, where: str) -> MemoryReader | None:
    inputs, targets = split(samples[0], name)
    found = [_as_tensor(leaf) for leaf in leaves((inputs, targets))]
    size = sum(t.numel() * t.element_size() for t in found) * len(samples)
    if size > COLLATE_BYTES or len(samples) > COLLATE_SAMPLES:
        return None
    try:
        data = split(default_collate(list(samples)), name)
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        raise EvaluatorError(
            f"the samples of {name} cannot be stacked into a batch: {error}",
            where=where,
            fix="make them of equal shape, or give a DataLoader with your own collate_fn",
        ) from error
    # Texts and the like are not tensors, and need the DataLoader's way.
    return MemoryReader(*data) if len(tensors(data)) == len(found) else None


def _settings(loader: DataLoader[Any] | None) -> dict[str, Any]:
    if loader is None:
        return {}
    settings = {key: getattr(loader, key) for key in _PASSED_ON}
    if loader.num_workers:
        settings["prefetch_factor"] = loader.prefetch_factor
        settings["multiprocessing_context"] = loader.multiprocessing_context
    return settings
