"""What can be found wrong with an evaluator before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from retiarii.errors import EvaluatorError, InfeasibleError, RetiariiError
from retiarii.training.data import Source
from retiarii.training.losses import Loss
from retiarii.training.metrics import Metric
from retiarii.training.readers import Batch
from retiarii.training.rng import Stream
from retiarii.training.sampling import Plan
from retiarii.training.structure import caller, float_dtype, tensors

_SAMPLES = 3
_BATCH = 8


def make_device(given: Any) -> torch.device | None:
    """The device of that name; ``None`` for ``None``, which is chosen when training starts.

    Raises:
        EvaluatorError: there is no such name.
    """
    if given is None or isinstance(given, torch.device):
        return given
    try:
        return torch.device(given)
    except (RuntimeError, TypeError, ValueError) as error:
        raise EvaluatorError(
            f"there is no device {given!r}",
            where="Supervised(device=...)",
            fix="use 'cpu', 'cuda', 'cuda:0' ..., or leave it out to take a GPU where there is one",
        ) from error


def usable_device(device: torch.device | None, amp: str | None) -> torch.device:
    """The device to train on, with its index.

    Raises:
        EvaluatorError: this machine has no such device, or it cannot do the precision.
    """
    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise EvaluatorError(
                f"device {str(device)!r} is not on this machine, which has {count} CUDA devices",
                where="Supervised(device=...)",
                fix="use device='cpu', or leave device out",
            )
        if device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
    else:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, NotImplementedError, AssertionError) as error:
            raise EvaluatorError(
                f"device {str(device)!r} cannot be used on this machine",
                where="Supervised(device=...)",
                fix="use device='cpu', or leave device out",
            ) from error
    if amp == "fp16" and device.type != "cuda":
        raise EvaluatorError(
            f"amp='fp16' needs a CUDA device, not {str(device)!r}",
            where="Supervised(amp=...)",
            fix="use amp='bf16', or leave amp out",
        )
    return device


def check_on_samples(
    space: Any, train: Source, val: Source, loss: Loss, metric: Metric, device: torch.device
) -> None:
    """Run sampled models on the first batch of either data, with the loss and the metric.

    A model that fails where another does not is left to its trial; what fails with every model is
    the evaluator's mistake.

    Raises:
        EvaluatorError: what cannot work with any model.
    """
    failure: EvaluatorError | None = None
    for seed in range(_SAMPLES):
        try:
            with Stream(seed, device):
                model = space.sample(seed).build(seed).to(device).eval()
        except (InfeasibleError, RuntimeError):
            # Of no use for a check; as trials such models are skipped or fail by themselves.
            continue
        try:
            for source in (train, val):
                with Stream(0, device), torch.no_grad():
                    _check_model(model, source, loss, metric if source is val else None, device)
            return
        except EvaluatorError as error:
            failure = error
    if failure is not None:
        raise failure


def _check_model(
    model: nn.Module, source: Source, given: Loss, metric: Metric | None, device: torch.device
) -> None:
    dtype = float_dtype(model)
    loss = given.on(device, dtype)
    batch = first_batch(source, device, dtype)
    outputs = _attempt(
        lambda: caller(model, batch.inputs)(batch.inputs),
        f"the model cannot run on a batch of {source.name} ({_shapes(batch.inputs)})",
        source.name,
        "its samples must look like the space's example_inputs, without the batch dimension",
    )
    labels = source.targets if batch.checkable is None else batch.checkable
    loss.check_labels(outputs, labels, f"Supervised({source.name}=...)")
    value = _attempt(
        lambda: loss(outputs, batch.targets),
        f"the loss cannot be computed from outputs {_shapes(outputs)} and targets "
        f"{_shapes(batch.targets)}",
        "loss",
        "make the last layer and the targets fit the loss",
    )
    del value
    # A user's own metric may need more than one batch (both classes, say): its trial will tell.
    if metric is not None and metric.builtin and metric.meter is not None:
        meter = metric.meter()
        meter.update(outputs, batch.targets)


def first_batch(
    source: Source,
    device: torch.device,
    dtype: torch.dtype | None,
    most: int | None = None,
    seed: int | None = None,
) -> Batch:
    """The first samples of a source, at most ``most``, in an order by ``seed`` or as they are."""
    plan = source.sampling.plan(most or _BATCH, seed, training=False)
    size = min(most or plan.sizes[0], plan.sizes[0])
    first = Plan(None if plan.order is None else plan.order[:size], (size,))
    return next(iter(source.read(first, device, dtype, seed or 0)))


def _attempt(what: Callable[[], Any], cause: str, argument: str, fix: str) -> Any:
    try:
        return what()
    except RetiariiError:
        raise
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else ""
        raise EvaluatorError(
            f"{cause}: {type(error).__name__}: {text}",
            where=f"Supervised({argument}=...)",
            fix=fix,
        ) from error


def _shapes(value: Any) -> str:
    found = [f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for t in tensors(value)]
    return ", ".join(found) or type(value).__name__
