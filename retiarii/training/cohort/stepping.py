"""From the losses of a cohort's models to their new weights: one optimizer step for all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from retiarii.optimizer.merged import MergedModel
from retiarii.training.accumulation import Share
from retiarii.training.checkpoint import Checkpoint, state_from_tensors, state_tensors
from retiarii.training.cohort.accumulation import GradientSum
from retiarii.training.cohort.averaging import FlatAverages
from retiarii.training.cohort.clipping import Clipping
from retiarii.training.cohort.optimizers import build_optimizer
from retiarii.training.cohort.placing import Placer
from retiarii.training.cohort.rates import Progress, Rates
from retiarii.training.cohort.scaling import LossScales
from retiarii.training.cohort.stacks import FlatGradient, FlatParameters
from retiarii.training.cohort.state import unfit
from retiarii.training.loop import Settings, trained_parameters

Losses = Sequence[tuple[tuple[int, ...], Tensor]]


class Stepped(Protocol):
    """What is asked of one model of the cohort."""

    @property
    def module(self) -> nn.Module: ...

    @property
    def settings(self) -> Settings: ...


class Stepping:
    """Gradients, clipping, optimizers, loss scales, averages and learning rates of all models.

    Args:
        merged: on its device.
        parts: its models.
        place: of that device.
        captured: keep on the device whatever changes from step to step, so that `compute` can be
            recorded.

    Attributes:
        rates: the schedules.
        last_rates: each model's learning rate in its last step of this epoch.
    """

    def __init__(
        self,
        merged: MergedModel,
        parts: Sequence[Stepped],
        place: Placer,
        captured: bool = False,
    ) -> None:
        self._place = place
        self._settings = [part.settings for part in parts]
        stacks = [stack for stack in merged.storage.stacks if stack.trainable]
        self._params = [getattr(merged, stack.name) for stack in stacks]
        owners = [[home[0] for home in stack.homes] for stack in stacks]
        self._owners = [frozenset(row) for row in owners]
        self._flat = FlatParameters(
            self._params, owners, len(parts), [_order(merged, i, p) for i, p in enumerate(parts)]
        )
        described = [s.optimizer for s in self._settings]
        self._optimizer = build_optimizer(self._flat, described, captured)
        self.rates = Rates(
            [s.schedule for s in self._settings],
            [s.optimizer.lr for s in self._settings],  # type: ignore[attr-defined]
        )
        self._clipping = Clipping(self._flat, [s.grad_clip for s in self._settings])
        averaged = any(s.ema is not None for s in self._settings)
        decays = [s.ema for s in self._settings]
        self._averages = FlatAverages(self._flat, decays, captured) if averaged else None
        fp16 = self._settings[0].amp == "fp16"
        device = place.device
        self._scales = LossScales(self._flat, device) if fp16 else None
        gathers = any(s.accumulate > 1 for s in self._settings)
        self._sum = GradientSum(self._flat) if gathers else None
        self._steps = [0] * len(parts)
        self._epoch_steps = [1] * len(parts)
        self.last_rates = [0.0] * len(parts)
        self._lr = [0.0] * len(parts)
        self._placed_lr = torch.zeros(len(parts), dtype=torch.float64, device=device)
        self._captured = captured
        self._known: dict[tuple[bool, ...], set[int]] = {}

    # --- an epoch ---------------------------------------------------------------------------------

    def begin_epoch(self, steps: Sequence[int]) -> None:
        """Say how many optimizer steps each model has in this epoch."""
        self._epoch_steps = list(steps)

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the weights are those to score and to store."""
        return nullcontext() if self._averages is None else self._averages.applied()

    def begin_step(self, due: Sequence[bool]) -> None:
        """Find out the learning rates of a batch's step: `compute` is of the device alone.

        Args:
            due: the models that make a step.
        """
        if not any(due):
            return
        progress = zip(self._steps, self._settings, self._epoch_steps, strict=True)
        found = self.rates.at([Progress(s, own.epochs * e, e) for s, own, e in progress])
        if self._captured and found != self._lr:
            self._placed_lr.copy_(torch.tensor(found, dtype=torch.float64), non_blocking=True)
        self._lr = found

    def end_step(self, due: Sequence[bool]) -> None:
        """Count the step that `compute` has made, or is making."""
        for model, flag in enumerate(due):
            if flag:
                self._steps[model] += 1
                self.last_rates[model] = self._lr[model]

    def compute(self, losses: Losses, shares: Sequence[Share], gone: Set[int]) -> set[int]:
        """Take one batch's gradient, and update the models whose step it completes.

        Args:
            losses: what gradients are taken of, with their models.
            shares: each model's part of its step.
            gone: models that have failed. What becomes of them does not matter, only that the
                others are computed as if nothing had happened, bit for bit.

        Returns:
            The models whose loss depends on none of their parameters.
        """
        total = self._total(losses, [s.weight for s in shares], gone)
        # The members of a stack all have a gradient, or none has one: see `optimizer.group`.
        grads = list(torch.autograd.grad(total, self._params, allow_unused=True))
        if gone:
            for i, (grad, owners) in enumerate(zip(grads, self._owners, strict=True)):
                if grad is None and gone >= owners:
                    grads[i] = torch.zeros_like(self._params[i])
        gradient = self._flat.gather(grads)
        due = [share.ends for share in shares]
        if self._sum is not None:
            self._sum.add(gradient)
        if self._sum is None or any(due):
            self._update(gradient if self._sum is None else self._sum.take(due), due)
        return self._without(tuple(grad is not None for grad in grads))

    def _without(self, given: tuple[bool, ...]) -> set[int]:
        """The models none of whose parameters has a gradient."""
        if all(given):
            return set()
        if given not in self._known:
            reached = {
                m for own, flag in zip(self._owners, given, strict=True) if flag for m in own
            }
            self._known[given] = set(range(len(self._settings))) - reached
        return self._known[given]

    def _total(self, losses: Losses, weights: Sequence[float], gone: Collection[int]) -> Tensor:
        models = [model for part, _ in losses for model in part]
        values = torch.cat([part for _, part in losses])
        if any(model in gone for model in models):
            kept = [i for i, model in enumerate(models) if model not in gone]
            values = values[self._place(kept, torch.int64)]
            models = [models[i] for i in kept]
        own = [weights[model] for model in models]
        if any(w != own[0] for w in own):
            values = values * self._place(own, values.dtype)
        elif own[0] != 1.0:
            values = values * own[0]
        if self._scales is not None:
            where = self._place(models, torch.int64)
            values = values * self._scales.scales[where].to(values.dtype)
        return values.sum()

    def _update(self, gradient: FlatGradient, due: Sequence[bool]) -> None:
        skip = None
        if not all(due):
            skip = self._place([not flag for flag in due], torch.bool)
        overflown = None if self._scales is None else self._scales.unscale(gradient)
        self._clipping.apply(gradient)
        still = overflown if skip is None or overflown is None else skip | overflown
        lr = self._placed_lr if self._captured else self._lr
        self._optimizer.step(gradient, lr, skip if still is None else still)
        if self._scales is not None and overflown is not None:
            self._scales.update(overflown, skip)
        if self._averages is not None:
            self._averages.update(skip)

    def state_tensors(self) -> Iterable[Tensor]:
        """The optimizers' states of all models, for what counts memory."""
        return self._optimizer.tensors()

    # --- one model's state ------------------------------------------------------------------------

    def state(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A model's average and optimizer state, and the rest, as `EpochTrainer` has them."""
        tensors, plain = state_tensors(self._optimizer.state_of(index))
        count = 0
        if self._averages is not None and self._settings[index].ema is not None:
            values, count = self._averages.state_of(index)
            tensors.update({f"average.{i}": value for i, value in enumerate(values)})
        return tensors, {
            "step": self._steps[index],
            "optimizer": plain,
            "scaler": {} if self._scales is None else self._scales.state_of(index),
            "average": count,
            "schedule": self.rates.state_of(index),
        }

    def restore(self, index: int, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint; the weights are in the merged model already.

        Raises:
            TrialError: it is of another model.
        """
        tensors, meta = checkpoint.tensors, checkpoint.meta
        ours = {k: v for k, v in tensors.items() if k.startswith("optimizer.")}
        try:
            self._optimizer.load_state_of(index, state_from_tensors(ours, meta["optimizer"]))
            if self._averages is not None and self._settings[index].ema is not None:
                count = len(self._flat.slots[index])
                values = [tensors[f"average.{i}"] for i in range(count)]
                self._averages.load_state_of(index, values, meta["average"])
        except (KeyError, ValueError) as error:
            raise unfit(checkpoint, error) from error
        if self._scales is not None:
            self._scales.load_state_of(index, meta["scaler"])
        self.rates.load_state_of(index, meta["schedule"])
        self._steps[index] = meta["step"]


def _order(merged: MergedModel, index: int, part: Stepped) -> list[tuple[int, int]]:
    """Where each of a model's trained parameters lies, in the order of its optimizer."""
    trained = [i for i, stack in enumerate(merged.storage.stacks) if stack.trainable]
    number = {stack: i for i, stack in enumerate(trained)}
    ids = {id(p) for p in trained_parameters(part.module)}
    found = []
    for name, parameter in part.module.named_parameters():
        if id(parameter) in ids:
            stack, member = merged.storage.places[index, name]
            found.append((number[stack], member))
    return found
