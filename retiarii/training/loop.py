"""Trains one model, an epoch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from retiarii.errors import EvaluatorError, TrialError
from retiarii.seeding import derive
from retiarii.training.accumulation import Share, shares
from retiarii.training.averaging import Average
from retiarii.training.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from retiarii.training.data import Source
from retiarii.training.losses import Loss
from retiarii.training.metrics import Metric
from retiarii.training.optimizers import Optimizer
from retiarii.training.readers import Batch
from retiarii.training.record import InTraining, Record
from retiarii.training.rng import Stream
from retiarii.training.sampling import Plan
from retiarii.training.schedules import Schedule
from retiarii.training.structure import caller, float_dtype, map_tensors

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}

# A GPU is waited for only this often to see whether a loss has become NaN; a CPU at every step.
STEPS_BETWEEN_LOOKS = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """How one trial is trained: everything that was chosen, and its seeds.

    Attributes:
        optimizer: every choice in it made.
        schedule: every choice in it made.
        epochs: how many.
        batch_size: samples a step, where the data has no size of its own.
        grad_clip: the largest norm of the whole gradient, or ``None``.
        accumulate: batches an optimizer step.
        ema: the decay of the weights' average, or ``None``.
        device: where the model trains.
        amp: ``"bf16"``, ``"fp16"`` or ``None``.
        seed: the trial's own, of its random stream (dropout).
        data_seed: of the order of the data and of its augmentation.
        shuffle: whether the order is random.
    """

    optimizer: Optimizer
    schedule: Schedule
    epochs: int
    batch_size: int
    grad_clip: float | None
    accumulate: int
    ema: float | None
    device: torch.device
    amp: str | None
    seed: int
    data_seed: int
    shuffle: bool


@dataclass(frozen=True, slots=True)
class Task:
    """What models are trained for.

    Attributes:
        train: the training data.
        val: the validation data.
        loss: as given; each trial has its own, see :meth:`Loss.on`.
        metric: what models are scored by.
    """

    train: Source
    val: Source
    loss: Loss
    metric: Metric


class EpochTrainer:
    """One model in training.

    What an epoch does is a function of the state at its beginning and of the seeds: the random
    stream is seeded anew at each, so that training that goes on from a checkpoint equals
    training that was never broken, bit for bit.

    Args:
        model: moved to the device, and trained in place.
        settings: how.
        train: the training data.
        val: the validation data.
        loss: its own, see :meth:`Loss.on`.
        metric: what the model is scored by.

    Raises:
        TrialError: the model has no parameter to train.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        train: Source,
        val: Source,
        loss: Loss,
        metric: Metric,
    ) -> None:
        self.settings = settings
        self.model = model.to(settings.device)
        self.epoch = 0
        self.step = 0
        self._train = train
        self._val = val
        self._dtype = float_dtype(self.model)
        self._loss = loss.on(settings.device, self._dtype)
        self._metric = metric
        self._params = trained_parameters(self.model)
        self._optimizer = settings.optimizer.build(self._params)
        self._base_lr: float = settings.optimizer.lr  # type: ignore[attr-defined]
        fp16 = settings.amp == "fp16"
        self._average = None if settings.ema is None else Average(self._params, settings.ema)
        self._schedule_state = settings.schedule.begin()
        self._scaler = torch.amp.GradScaler(settings.device.type, enabled=fp16)
        self._call: Callable[[Any], Any] | None = None
        self._checked: set[str] = set()

    @property
    def done(self) -> bool:
        return self.epoch >= self.settings.epochs

    def advance(self) -> dict[str, float]:
        """Train for one epoch, then validate.

        Returns:
            ``train_loss``, ``val_loss``, the metric under its name, and ``lr`` (of the last step).

        Raises:
            TrialError: the loss or the metric is not finite.
            EvaluatorError: labels or shapes that do not fit.
        """
        with Stream(derive(self.settings.seed, "epoch", self.epoch), self.settings.device):
            train_loss, lr = self._train_epoch()
            with self.averaged():
                val_loss, score = self._validate()
        self._schedule_state = self.settings.schedule.after_epoch(
            self._schedule_state, score, self._metric.maximize
        )
        self.epoch += 1
        return {
            "train_loss": train_loss,
            "val_loss": val_loss,
            self._metric.name: score,
            "lr": lr,
        }

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the model's weights are those to score and to store: the average, if any."""
        return nullcontext() if self._average is None else self._average.applied()

    # --- its state ------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training goes on from: weights, buffers, optimizer state.

        Raises:
            TrialError: the model's ``state_dict`` holds something other than tensors.
        """
        found: dict[str, Tensor] = {}
        for name, value in self.model.state_dict().items():
            if not isinstance(value, Tensor):
                raise TrialError(
                    f"the model's state_dict holds a {type(value).__name__} under {name!r}, "
                    "which no checkpoint can hold",
                    fix="keep such state in buffers, or use checkpoint=False",
                )
            found[f"model.{name}"] = value
        for name, buffer in self.model.named_buffers():
            found.setdefault(f"model.{name}", buffer)
        averages = {} if self._average is None else self._average.tensors()
        return {**found, **averages, **optimizer_tensors(self._optimizer)[0]}

    def meta(self) -> dict[str, Any]:
        """The rest of its state, as JSON."""
        return {
            "step": self.step,
            "optimizer": optimizer_tensors(self._optimizer)[1],
            "scaler": self._scaler.state_dict(),
            "average": 0 if self._average is None else self._average.count,
            "schedule": self._schedule_state,
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            TrialError: it is not this model's.
        """
        ours = {k: v for k, v in checkpoint.tensors.items() if k.startswith("model.")}
        weights = {k.removeprefix("model."): v for k, v in ours.items()}
        state_keys = set(self.model.state_dict())
        buffers = dict(self.model.named_buffers())
        try:
            self.model.load_state_dict({k: v for k, v in weights.items() if k in state_keys})
            with torch.no_grad():
                for name in weights.keys() - state_keys:
                    buffers[name].copy_(weights[name])
            others = {k: v for k, v in checkpoint.tensors.items() if k.startswith("optimizer.")}
            restore_optimizer(self._optimizer, others, checkpoint.meta["optimizer"])
            if self._average is not None:
                self._average.restore(checkpoint.tensors, checkpoint.meta["average"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise TrialError(
                f"the checkpoint of epoch {checkpoint.epoch} does not fit the model: {error}",
                fix="the model's code has changed since; start the search in a new directory",
            ) from error
        if checkpoint.meta["scaler"]:
            self._scaler.load_state_dict(checkpoint.meta["scaler"])
        self._schedule_state = checkpoint.meta["schedule"]
        self.epoch = checkpoint.epoch
        self.step = checkpoint.meta["step"]

    # --- one epoch ------------------------------------------------------------------------------

    def _train_epoch(self) -> tuple[float, float]:
        settings = self.settings
        seed = derive(settings.data_seed, "order", self.epoch) if settings.shuffle else None
        plan = self._train.sampling.plan(settings.batch_size, seed, self.epoch, training=True)
        self.model.train()
        losses: list[Tensor] = []
        looked, lr = 0, 0.0
        interval = 1 if settings.device.type == "cpu" else STEPS_BETWEEN_LOOKS
        parts = shares(plan.sizes, settings.accumulate, self._loss.summed)
        steps = sum(share.ends for share in parts)
        batches = zip(parts, self._read(self._train, plan), strict=True)
        for index, (share, batch) in enumerate(batches):
            loss = self._forward(self._train, batch)[1]
            losses.append(loss.detach())
            if len(losses) - looked >= interval:
                self._check_finite(losses, looked)
                looked = len(losses)
            self._backward(loss, share, index)
            if share.ends:
                lr = settings.schedule.lr(
                    self.step, settings.epochs * steps, self._base_lr, steps, self._schedule_state
                )
                self._update(lr)
                self.step += 1
        self._check_finite(losses, looked)
        return self._mean(losses, plan.sizes), lr

    def _backward(self, loss: Tensor, share: Share, index: int) -> None:
        if not loss.requires_grad:
            raise independent(self.epoch, index)
        if share.begins:
            self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self._scaler.scale(loss * share.weight))

    def _update(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        if self.settings.grad_clip is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._params, self.settings.grad_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update()

    def _validate(self) -> tuple[float, float]:
        self.model.eval()
        plan = self._val.sampling.plan(self.settings.batch_size, None, training=False)
        meter = None if self._metric.meter is None else self._metric.meter()
        losses: list[Tensor] = []
        with torch.no_grad():
            for batch in self._read(self._val, plan):
                outputs, loss = self._forward(self._val, batch)
                losses.append(loss)
                if meter is not None:
                    meter.update(map_tensors(full, outputs), batch.targets)
        val_loss = self._mean(losses, plan.sizes)
        score = val_loss if meter is None else meter.compute()
        check_validated(val_loss, score, self._metric.name, self.epoch)
        return val_loss, score

    def _read(self, source: Source, plan: Plan) -> Iterator[Batch]:
        seed = derive(self.settings.data_seed, "data", source.name, self.epoch)
        return source.read(plan, self.settings.device, self._dtype, seed)

    def _forward(self, source: Source, batch: Batch) -> tuple[Any, Tensor]:
        with self._autocast():
            if self._call is None:
                self._call = caller(self.model, batch.inputs)
            outputs = self._call(batch.inputs)
            self._check_labels(source, batch, outputs)
            return outputs, self._loss(outputs, batch.targets)

    def _autocast(self) -> AbstractContextManager[Any]:
        amp = self.settings.amp
        return torch.autocast(
            self.settings.device.type, AMP[amp] if amp else None, enabled=amp is not None
        )

    def _check_labels(self, source: Source, batch: Batch, outputs: Any) -> None:
        """Labels in memory are looked at once and all together, others batch by batch."""
        if batch.checkable is not None:
            self._loss.check_labels(outputs, batch.checkable, source.name)
        elif source.name not in self._checked:
            self._checked.add(source.name)
            self._loss.check_labels(outputs, source.targets, source.name)

    def _check_finite(self, losses: list[Tensor], start: int) -> None:
        if start == len(losses):
            return
        values = torch.stack(losses[start:])
        if bool(torch.isfinite(values).all()):
            return
        for offset, value in enumerate(values.tolist()):
            if not math.isfinite(value):
                raise not_finite(value, self.epoch, start + offset)

    def _mean(self, losses: list[Tensor], sizes: tuple[int, ...]) -> float:
        return mean_loss(torch.stack(losses), sizes, self._loss.summed)


def finish_alone(record: Record, trainer: InTraining) -> None:
    """Train one model to its end, epoch by epoch.

    Raises:
        TrialError: the trial failed.
        EvaluatorError: data, loss or metric do not fit.
    """
    while not trainer.done and not record.wants_to_stop():
        metrics = trainer.advance()
        record.add(trainer.epoch, metrics, lambda: (trainer.tensors(), trainer.meta()))
    with trainer.averaged():
        record.end(trainer.model.state_dict, stopped=not trainer.done)


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that take a gradient, in the order in which the optimizer knows them.

    Raises:
        TrialError: there is none.
    """
    found = [p for p in model.parameters() if p.requires_grad]
    if not found:
        raise TrialError(
            "the model has no parameter to train",
            fix="leave at least one layer with parameters that require a gradient",
        )
    return found


def mean_loss(losses: Tensor, sizes: Sequence[int], summed: bool) -> float:
    """The mean over samples of one model's losses, a batch each: ``[batches]``."""
    values = losses.cpu().double()
    weights = torch.tensor(sizes[: len(values)], dtype=torch.float64)
    total = values.sum() if summed else (values * weights).sum()
    return float(total / weights.sum())


def check_validated(val_loss: float, score: float, metric: str, epoch: int) -> None:
    """Raises TrialError when what the validation gave is not finite."""
    for name, value in (("validation loss", val_loss), (metric, score)):
        if not math.isfinite(value):
            raise TrialError(
                f"the {name} is {value} after epoch {epoch + 1}",
                fix="lower the learning rate, clip gradients (grad_clip=1.0), or look for "
                "NaN in the validation data",
            )


def not_finite(value: float, epoch: int, step: int) -> TrialError:
    """The error of a training loss that is NaN or infinite; epoch and step count from 0."""
    return TrialError(
        f"the loss became {value} at epoch {epoch + 1}, step {step + 1}",
        fix="lower the learning rate, clip gradients (grad_clip=1.0), or look for "
        "NaN in the training data",
    )


def independent(epoch: int, step: int) -> EvaluatorError:
    """The error of a loss without a gradient; epoch and step count from 0."""
    return EvaluatorError(
        "the loss does not depend on the model's parameters",
        where=f"epoch {epoch + 1}, step {step + 1}",
        fix="compute it from the outputs with torch, without detach(), item() or numpy",
    )


def full(tensor: Tensor) -> Tensor:
    """Metrics are computed in full precision."""
    return tensor.float() if tensor.dtype in AMP.values() else tensor
