"""What a model is scored by, computed over the whole of the validation data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from retiarii.errors import EvaluatorError, nearest
from retiarii.training.losses import PAIRED
from retiarii.training.structure import leaves, map_tensors, pairs
from retiarii.training.trial import as_number


class Meter(Protocol):
    """Gathers batches and ends in one number."""

    def update(self, outputs: Any, targets: Any) -> None: ...

    def compute(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric by its name.

    Attributes:
        name: under which it is reported.
        maximize: whether higher is better.
        meter: makes a fresh meter; ``None``: the validation loss itself.
        builtin: whether it is one of ours, that any batch satisfies.
    """

    name: str
    maximize: bool
    meter: Callable[[], Meter] | None
    builtin: bool = False


class MeanMeter:
    """Base of meters that average over elements, each output by itself, then over the outputs."""

    name = ""

    def __init__(self, loss: Any) -> None:
        self._loss = loss
        self._sums: list[list[Tensor]] = []
        self._counts: list[Any] = []

    def update(self, outputs: Any, targets: Any) -> None:
        for i, (output, target) in enumerate(pairs(outputs, targets, self.user)):
            values = self.values(output, target)
            self.add(i, values.sum(), values.numel())

    @property
    def user(self) -> str:
        """Who reads outputs and targets, for errors."""
        return f"metric {self.name!r}"

    def values(self, output: Tensor, target: Tensor) -> Tensor:
        """What is averaged, for samples one by one."""
        raise NotImplementedError

    def add(self, position: int, total: Tensor, count: int) -> None:
        """Take in the sum of ``count`` values of one of the outputs."""
        while position >= len(self._sums):
            self._sums.append([])
            self._counts.append(0)
        # Sums stay on the device: no wait for it at every batch.
        self._sums[position].append(total)
        self._counts[position] += count

    def compute(self) -> float:
        means = [
            torch.stack(sums).cpu().double().sum().item() / max(count, 1)
            for sums, count in zip(self._sums, self._counts, strict=True)
        ]
        return float(sum(means) / len(means))


class _Accuracy(MeanMeter):
    name = "accuracy"

    def values(self, output: Tensor, target: Tensor) -> Tensor:
        if isinstance(self._loss, PAIRED) or not output.is_floating_point():
            raise EvaluatorError(
                f"accuracy needs scores of classes and labels, not {output.dtype} outputs "
                f"under {type(self._loss).__name__}",
                where="Supervised(metric='accuracy')",
                fix="for a regression use metric='mse', 'mae' or 'loss'",
            )
        right = _right(output, target, self._loss)
        ignored = getattr(self._loss, "ignore_index", None)
        if ignored is not None and not target.is_floating_point():
            right = right[target != ignored]
        return right


def _right(output: Tensor, target: Tensor, loss: Any) -> Tensor:
    """Which predictions are right, as a boolean tensor."""
    labels = not target.is_floating_point()
    if output.shape == target.shape and isinstance(loss, nn.CrossEntropyLoss):
        return output.argmax(1) == target.argmax(1)
    if labels and output.ndim == target.ndim + 1:
        # Classes in dimension 1 as torch's losses have it, or last as sequence models do.
        for dim in (1, -1):
            shape = list(output.shape)
            classes = shape.pop(dim)
            if shape == list(target.shape) and classes > 1:
                return output.argmax(dim) == target
    if output.numel() == target.numel():
        threshold = 0.5 if isinstance(loss, nn.BCELoss) else 0.0
        return (output.reshape(target.shape) > threshold) == (target > 0.5)
    raise EvaluatorError(
        f"accuracy cannot compare outputs of shape {tuple(output.shape)} with targets of shape "
        f"{tuple(target.shape)}",
        where="Supervised(metric='accuracy')",
        fix="labels have the outputs' shape without the dimension of the classes; "
        "otherwise give metric a callable that takes (outputs, targets)",
    )


class _Difference(MeanMeter):
    def values(self, output: Tensor, target: Tensor) -> Tensor:
        if output.numel() != target.numel():
            raise EvaluatorError(
                f"{self.name} cannot compare outputs of shape {tuple(output.shape)} with targets "
                f"of shape {tuple(target.shape)}",
                where=f"Supervised(metric={self.name!r})",
                fix="make them of equal shape",
            )
        difference = output - target.reshape(output.shape)
        return self.size(difference)

    def size(self, difference: Tensor) -> Tensor:
        raise NotImplementedError


class _MeanAbsolute(_Difference):
    name = "mae"

    def size(self, difference: Tensor) -> Tensor:
        return difference.abs()


class _MeanSquare(_Difference):
    name = "mse"

    def size(self, difference: Tensor) -> Tensor:
        return difference.square()


class _Whole:
    """Gathers everything on the CPU and calls a user's function once, on all of it."""

    def __init__(self, fn: Callable[[Any, Any], Any], name: str) -> None:
        self._fn = fn
        self._name = name
        self._batches: list[tuple[Any, Any]] = []

    def update(self, outputs: Any, targets: Any) -> None:
        self._batches.append(map_tensors(lambda t: t.cpu(), (outputs, targets)))

    def compute(self) -> float:
        outputs, targets = (_concatenated(list(part)) for part in zip(*self._batches, strict=True))
        return as_number(self._fn(outputs, targets), f"metric {self._name!r}")


def _concatenated(batches: list[Any]) -> Any:
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(batches) if first.ndim else torch.stack(batches)
    if isinstance(first, Mapping):
        return {k: _concatenated([b[k] for b in batches]) for k in first}
    if isinstance(first, list | tuple) and any(isinstance(v, Tensor) for v in leaves(first)):
        return tuple(_concatenated([b[i] for b in batches]) for i in range(len(first)))
    if isinstance(first, list | tuple):
        return [v for b in batches for v in b]
    return batches


class _Object:
    """A user's object with ``update``, ``compute`` and, where it has one, ``reset``."""

    def __init__(self, given: Any, name: str) -> None:
        self._given = copy.deepcopy(given)
        self._name = name
        if hasattr(self._given, "reset"):
            self._given.reset()

    def update(self, outputs: Any, targets: Any) -> None:
        both = map_tensors(lambda t: t.cpu(), (outputs, targets))
        self._given.update(*both)

    def compute(self) -> float:
        return as_number(self._given.compute(), f"metric {self._name!r}")


_NAMED: Mapping[str, tuple[bool, type[MeanMeter] | None]] = MappingProxyType(
    {
        "accuracy": (True, _Accuracy),
        "loss": (False, None),
        "mae": (False, _MeanAbsolute),
        "mse": (False, _MeanSquare),
    }
)


def make_metric(given: Any, maximize: bool | None, loss: Any) -> Metric:
    """The metric that a user asked for.

    Args:
        given: a name; a callable ``(outputs, targets) -> number`` that is called once on the whole
            validation data; or an object with ``update(outputs, targets)`` and ``compute()``.
        maximize: whether higher is better; ``None`` where the metric tells.
        loss: the user's loss, which tells what the outputs are.

    Raises:
        EvaluatorError: it is none of these, or nothing tells whether higher is better.
    """
    where = "Supervised(metric=...)"
    if isinstance(given, str):
        if given not in _NAMED:
            raise EvaluatorError(
                f"there is no metric {given!r}",
                where=where,
                fix=f"{nearest(given, list(_NAMED))}; or give a callable",
            )
        higher, kind = _NAMED[given]
        meter = None if kind is None else partial(kind, loss)
        return Metric(given, higher if maximize is None else maximize, meter, builtin=True)
    whole = not (hasattr(given, "update") and hasattr(given, "compute"))
    if isinstance(given, type) or (whole and not callable(given)):
        raise EvaluatorError(
            f"metric is {given!r:.60}, which is no metric",
            where=where,
            fix=f"use one of {', '.join(_NAMED)}, a function of (outputs, targets), or an object "
            "with update and compute",
        )
    # torchmetrics says it itself.
    higher_is_better = getattr(given, "higher_is_better", None)
    wanted = higher_is_better if maximize is None else maximize
    if wanted is None:
        raise EvaluatorError(
            "nothing says whether a higher value of this metric is better",
            where=where,
            fix="add maximize=True or maximize=False",
        )
    name = getattr(given, "__name__", type(given).__name__)
    name = name if name.isidentifier() else "score"
    if whole:
        return Metric(name, wanted, partial(_Whole, given, name))
    return Metric(name, wanted, partial(_Object, given, name))
