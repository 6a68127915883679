"""Trains one model, an epoch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from retiarii.errors import EvaluatorError, TrialError
from retiarii.seeding import derive
from retiarii.training.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from retiarii.training.data import Source
from retiarii.training.losses import Loss
from retiarii.training.metrics import Metric
from retiarii.training.optimizers import Optimizer
from retiarii.training.readers import Batch
from retiarii.training.rng import Stream
from retiarii.training.sampling import Plan
from retiarii.training.schedules import Schedule
from retiarii.training.structure import caller, float_dtype, map_tensors

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}

# A GPU is waited for only this often to see whether a loss has become NaN; a CPU at every step.
_STEPS_BETWEEN_LOOKS = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """How one trial is trained: everything that was chosen, and its seeds.

    Attributes:
        optimizer: every choice in it made.
        schedule: every choice in it made.
        epochs: how many.
        batch_size: samples a step, where the data has no size of its own.
        grad_clip: the largest norm of the whole gradient, or ``None``.
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
    device: torch.device
    amp: str | None
    seed: int
    data_seed: int
    shuffle: bool


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
        self._params = [p for p in self.model.parameters() if p.requires_grad]
        if not self._params:
            raise TrialError(
                "the model has no parameter to train",
                fix="leave at least one layer with parameters that require a gradient",
            )
        self._optimizer = settings.optimizer.build(self._params)
        self._base_lr: float = settings.optimizer.lr  # type: ignore[attr-defined]
        fp16 = settings.amp == "fp16"
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
            val_loss, score = self._validate()
        self.epoch += 1
        return {
            "train_loss": train_loss,
            "val_loss": val_loss,
            self._metric.name: score,
            "lr": lr,
        }

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
        return {**found, **optimizer_tensors(self._optimizer)[0]}

    def meta(self) -> dict[str, Any]:
        """The rest of its state, as JSON."""
        return {
            "step": self.step,
            "optimizer": optimizer_tensors(self._optimizer)[1],
            "scaler": self._scaler.state_dict(),
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
            others = {k: v for k, v in checkpoint.tensors.items() if k not in ours}
            restore_optimizer(self._optimizer, others, checkpoint.meta["optimizer"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise TrialError(
                f"the checkpoint of epoch {checkpoint.epoch} does not fit the model: {error}",
                fix="the model's code has changed since; start the search in a new directory",
            ) from error
        if checkpoint.meta["scaler"]:
            self._scaler.load_state_dict(checkpoint.meta["scaler"])
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
        interval = 1 if settings.device.type == "cpu" else _STEPS_BETWEEN_LOOKS
        epoch_steps = len(plan.sizes)
        for index, batch in enumerate(self._read(self._train, plan)):
            lr = settings.schedule.lr(
                self.step, settings.epochs * epoch_steps, self._base_lr, epoch_steps
            )
            loss = self._forward(self._train, batch)[1]
            losses.append(loss.detach())
            if len(losses) - looked >= interval:
                self._check_finite(losses, looked)
                looked = len(losses)
            self._update(loss, lr, index)
            self.step += 1
        self._check_finite(losses, looked)
        return self._mean(losses, plan.sizes), lr

    def _update(self, loss: Tensor, lr: float, index: int) -> None:
        if not loss.requires_grad:
            raise EvaluatorError(
                "the loss does not depend on the model's parameters",
                where=f"epoch {self.epoch + 1}, step {index + 1}",
                fix="compute it from the outputs with torch, without detach(), item() or numpy",
            )
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self._scaler.scale(loss))
        if self.settings.grad_clip is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._params, self.settings.grad_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()

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
                    meter.update(map_tensors(_full, outputs), batch.targets)
        val_loss = self._mean(losses, plan.sizes)
        score = val_loss if meter is None else meter.compute()
        for name, value in (("validation loss", val_loss), (self._metric.name, score)):
            if not math.isfinite(value):
                raise TrialError(
                    f"the {name} is {value} after epoch {self.epoch + 1}",
                    fix="lower the learning rate, clip gradients (grad_clip=1.0), or look for "
                    "NaN in the validation data",
                )
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
                raise TrialError(
                    f"the loss became {value} at epoch {self.epoch + 1}, step {start + offset + 1}",
                    fix="lower the learning rate, clip gradients (grad_clip=1.0), or look for "
                    "NaN in the training data",
                )

    def _mean(self, losses: list[Tensor], sizes: tuple[int, ...]) -> float:
        """The mean over samples of the batches' losses."""
        values = torch.stack(losses).cpu().double()
        weights = torch.tensor(sizes[: len(values)], dtype=torch.float64)
        total = values.sum() if self._loss.summed else (values * weights).sum()
        return float(total / weights.sum())


def _full(tensor: Tensor) -> Tensor:
    """Metrics are computed in full precision."""
    return tensor.float() if tensor.dtype in AMP.values() else tensor
