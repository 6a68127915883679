"""From indices to batches: tensors in memory are indexed, the rest goes through a DataLoader."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from retiarii.errors import EvaluatorError
from retiarii.training.rng import Stream
from retiarii.training.sampling import Plan
from retiarii.training.structure import map_tensors, place, tensors

# Above this many bytes a data set in memory stays there, and only its batches move to the GPU.
DEVICE_BYTES = 2 << 30


class Batch(NamedTuple):
    """One batch on the device.

    Attributes:
        inputs: a tensor, or tensors in a tuple, list or dict; the first dimension is the batch.
        targets: likewise.
        size: number of samples.
        checkable: the targets where they can be looked at for free; ``None`` when the whole data
            set's can (:attr:`Reader.targets`).
    """

    inputs: Any
    targets: Any
    size: int
    checkable: Any


class Reader(ABC):
    """Makes the batches of a plan.

    Attributes:
        targets: of the whole data set, where it is in memory.
    """

    targets: Any = None

    @abstractmethod
    def read(
        self, plan: Plan, device: torch.device, dtype: torch.dtype | None, seed: int
    ) -> Iterator[Batch]:
        """The batches, in order.

        Args:
            plan: which samples make up which batch.
            device: where the batches go.
            dtype: of floating point tensors; ``None`` leaves them.
            seed: of what the data set draws at random (augmentation).
        """

    @abstractmethod
    def sample(self, index: int) -> Any:
        """One sample as (inputs, targets), not batched."""


class MemoryReader(Reader):
    """Tensors whose first dimension is the sample: a batch is one index into each."""

    def __init__(self, inputs: Any, targets: Any) -> None:
        self.inputs = inputs
        self.targets = targets
        self._placed: tuple[torch.device, torch.dtype | None, Any] | None = None

    def read(
        self, plan: Plan, device: torch.device, dtype: torch.dtype | None, seed: int
    ) -> Iterator[Batch]:
        del seed  # Tensors draw nothing.
        data = self._on(device, dtype)
        held = tensors(data)[0].device
        order = None if plan.order is None else plan.order.to(held)
        start = 0
        for size in plan.sizes:
            span = slice(start, start + size)
            start += size
            inputs, targets = _take(data, span if order is None else order[span])
            if held != device:
                inputs, targets = place((inputs, targets), device, None)
            yield Batch(inputs, targets, size, None)

    def sample(self, index: int) -> Any:
        return map_tensors(lambda t: t[index], (self.inputs, self.targets))

    def _on(self, device: torch.device, dtype: torch.dtype | None) -> Any:
        if self._placed is None or self._placed[:2] != (device, dtype):
            data = (self.inputs, self.targets)
            size = sum(t.numel() * t.element_size() for t in tensors(data))
            fits = device.type == "cpu" or size <= DEVICE_BYTES
            held = device if fits else torch.device("cpu")
            self._placed = (device, dtype, place(data, held, dtype))
        return self._placed[2]


def _take(data: Any, which: slice | Tensor) -> Any:
    if isinstance(which, slice):
        # A copy, as index_select makes one: a model may write to its input in place.
        return map_tensors(lambda t: t[which].clone(), data)
    return map_tensors(lambda t: t.index_select(0, which), data)


class LoaderReader(Reader):
    """Any map-style data set, through a DataLoader with a user's settings.

    What the data set draws at random comes from a stream of its own, so that every trial sees the
    same augmented batches, and a model's dropout does not depend on it.

    Args:
        dataset: the data set.
        name: for errors: ``train_data`` or ``val_data``.
        settings: arguments of the DataLoader: ``collate_fn``, ``num_workers`` ...
    """

    def __init__(self, dataset: Dataset[Any], name: str, settings: dict[str, Any]) -> None:
        self._dataset = dataset
        self._name = name
        self._settings = settings

    def read(
        self, plan: Plan, device: torch.device, dtype: torch.dtype | None, seed: int
    ) -> Iterator[Batch]:
        settings = dict(self._settings)
        if device.type != "cuda":
            settings.pop("pin_memory", None)
        generator = torch.Generator().manual_seed(seed)
        stream = Stream(seed)
        with stream:
            batches = iter(
                DataLoader(
                    self._dataset, batch_sampler=plan.indices(), generator=generator, **settings
                )
            )
        for size in plan.sizes:
            with stream:
                batch = next(batches)
            inputs, targets = split(batch, self._name)
            placed = place((inputs, targets), device, dtype)
            yield Batch(placed[0], placed[1], size, targets)

    def sample(self, index: int) -> Any:
        return split(self._dataset[index], self._name)


def split(sample: Any, name: str) -> tuple[Any, Any]:
    """Inputs and targets of a sample or batch: the last entry is the target.

    Raises:
        EvaluatorError: it has no two entries.
    """
    if not isinstance(sample, list | tuple) or len(sample) < 2:
        found = f"a {type(sample).__name__}"
        if isinstance(sample, list | tuple):
            found += f" of {len(sample)}"
        raise EvaluatorError(
            f"a sample of {name} is {found}, not a pair of inputs and targets",
            where=f"Supervised({name}=...)",
            fix="let the data set return (inputs, targets); for an autoencoder (x, x)",
        )
    inputs = sample[0] if len(sample) == 2 else tuple(sample[:-1])
    return inputs, sample[-1]


def first_dimension(data: Any) -> set[int]:
    """The lengths of the tensors in ``data``."""
    return {len(t) if isinstance(t, Tensor) and t.ndim else -1 for t in tensors(data)}
