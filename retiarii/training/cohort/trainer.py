"""Trains many models as one merged program, an epoch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from retiarii.ir.graph import Graph
from retiarii.optimizer.collecting import without_collection
from retiarii.optimizer.compile import Options
from retiarii.optimizer.lift import Model
from retiarii.optimizer.merge import check_mergeable
from retiarii.optimizer.merged import MergedModel
from retiarii.optimizer.stats import Stats
from retiarii.seeding import derive
from retiarii.training.accumulation import Share, shares
from retiarii.training.checkpoint import Checkpoint
from retiarii.training.cohort.criterion import Criterion, Failures
from retiarii.training.cohort.failure import reraise_memory
from retiarii.training.cohort.meters import CohortMeters
from retiarii.training.cohort.outputs import OutputReader, Outputs
from retiarii.training.cohort.state import load_module, tensors_of
from retiarii.training.cohort.stepping import Stepping
from retiarii.training.data import Source
from retiarii.training.loop import (
    AMP,
    STEPS_BETWEEN_LOOKS,
    Settings,
    Task,
    check_validated,
    full,
    independent,
    mean_loss,
    not_finite,
)
from retiarii.training.readers import Batch
from retiarii.training.rng import Stream
from retiarii.training.sampling import Plan
from retiarii.training.structure import caller, float_dtype, map_tensors


@dataclass(frozen=True, slots=True)
class Part:
    """One model of a cohort.

    Attributes:
        graph: what it computes.
        module: a module of that graph that holds its weights; it is only read.
        settings: how it is trained.
        state: what its training goes on from; ``None`` begins it.
    """

    graph: Graph
    module: nn.Module
    settings: Settings
    state: Checkpoint | None = None


@dataclass(frozen=True, slots=True)
class Attached:
    """What a cohort trains on.

    Attributes:
        task: whose sources may give what a frozen part has made of the samples.
        rest: for the modes of such sources (the training flag), what computes the output stacks
            of what they give.
    """

    task: Task
    rest: Mapping[bool, Callable[[Sequence[Tensor]], list[Tensor]]] = field(default_factory=dict)


# A call takes at least so many seconds, forward and backward; this share of a training may be
# spent on measuring what is best fused.
_CALL: Final = 60e-6
_MEASURED: Final = 0.1
# What a cohort's merged model, one of its parts, and its task are trained with.
Attach = Callable[[MergedModel, Part, Task], Attached]


class CohortTrainer:
    """Models in training together, each as :class:`EpochTrainer` would train it alone.

    All of them see the same batches: they agree in batch size, order of the data, device,
    precision and type, and stand at the same epoch. All else may differ. A model that fails is
    left out from then on; the others notice nothing.

    Args:
        parts: the models.
        task: what they are trained for.
        attach: makes sources that begin where the models' frozen part ends, see `FrozenCache`.
        merged: the models merged, with their present weights, where they are that already.

    Attributes:
        parts: as given.
        merged: the models as one.
        rest: see `Attached`.
        epoch: epochs done.
        failed: models that are left out, with the reason.

    Raises:
        MergeError: models that cannot be merged.
        TrialError: a state that does not fit its model.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        task: Task,
        attach: Attach | None = None,
        merged: MergedModel | None = None,
    ) -> None:
        # Their state is the trainer's from here on.
        self.parts = tuple(replace(part, state=None) for part in parts)
        self._given = task
        self._settings = parts[0].settings
        self._device = self._settings.device
        self._dtype = float_dtype(parts[0].module)
        self.merged = self._merge(parts) if merged is None else merged
        self._reader = OutputReader(self.merged)
        self.stepping = Stepping(self.merged, parts, self._device)
        self._criterion = Criterion(task.loss, len(parts), self._device, self._dtype, self._run_as)
        self._call: Callable[[Any], Any] | None = None
        self._checked: set[str] = set()
        self.epoch = 0
        for index, part in enumerate(parts):
            if part.state is not None:
                self.epoch = part.state.epoch
                self.stepping.restore(index, part.state)
        self.failed: Failures = {}
        attached = Attached(task) if attach is None else attach(self.merged, parts[0], task)
        self._task = attached.task
        self.rest = attached.rest

    def _merge(self, parts: Sequence[Part]) -> MergedModel:
        models = []
        for part in parts:
            if part.state is not None:
                load_module(part.module, part.state)
            # What pays is measured on the device that the models are on.
            models.append(Model.of(part.graph, part.module.to(self._device)))
        check_mergeable(models)
        options = Options(batch=self._settings.batch_size, seconds=self._measuring(parts))
        with without_collection():
            return MergedModel(models, [part.module for part in parts], options)

    def _measuring(self, parts: Sequence[Part]) -> float:
        """Seconds that finding out what pays may take: little, beside the training itself."""
        batches = math.ceil(self._given.train.sampling.length / self._settings.batch_size)
        calls = sum(
            len(p.graph) * (p.settings.epochs - (0 if p.state is None else p.state.epoch))
            for p in parts
        )
        return _MEASURED * _CALL * calls * batches

    def without(self, gone: Collection[int], attach: Attach | None = None) -> CohortTrainer:
        """The others in training, with all that theirs goes on from; merged anew in a little time.

        Args:
            gone: the numbers of the models that leave. The others are numbered anew, in order.
            attach: as for the whole cohort.
        """
        parts = [
            replace(part, state=Checkpoint(self.epoch, self.stepping.tensors(i), self.meta(i)))
            for i, part in enumerate(self.parts)
            if i not in gone
        ]
        return CohortTrainer(parts, self._given, attach, self.merged.without(gone))

    @property
    def stats(self) -> Stats:
        """What merging did."""
        return self.merged.stats

    def advance(self) -> list[dict[str, float] | Exception]:
        """Train all models for one epoch, then validate.

        Returns:
            For each model what :meth:`EpochTrainer.advance` would return, or raise.
        """
        seeds = [derive(part.settings.seed, "epoch", self.epoch) for part in self.parts]
        # Within it, for what draws from the global generators although nothing here does.
        with Stream(seeds[0], self._device):
            self.merged.seed(seeds)
            train_losses, rates = self._train_epoch()
            with self.stepping.averaged():
                validated = self._validate() if len(self.failed) < len(self.parts) else {}
        results: list[dict[str, float] | Exception] = []
        for index in range(len(self.parts)):
            error = self.failed.get(index)
            if error is not None:
                results.append(error)
                continue
            val_loss, score = validated[index]
            self.stepping.rates.after_epoch(index, score, self._task.metric.maximize)
            results.append(
                {
                    "train_loss": train_losses[index],
                    "val_loss": val_loss,
                    self._task.metric.name: score,
                    "lr": rates[index],
                }
            )
        self.epoch += 1
        return results

    # --- one model's state ------------------------------------------------------------------------

    def tensors(self, index: int) -> dict[str, Tensor]:
        """As :meth:`EpochTrainer.tensors` of that model alone; copies."""
        weights = tensors_of(self.merged, index, self.parts[index].module)
        return {**weights, **self.stepping.tensors(index)}

    def meta(self, index: int) -> dict[str, Any]:
        """As :meth:`EpochTrainer.meta` of that model alone."""
        return self.stepping.meta(index)

    def checkpoint(self, index: int) -> Checkpoint:
        """What a model's training goes on from, alone or in another cohort."""
        return Checkpoint(self.epoch, self.tensors(index), self.meta(index))

    # --- one epoch --------------------------------------------------------------------------------

    def _train_epoch(self) -> tuple[list[float], list[float]]:
        settings = self._settings
        source = self._task.train
        seed = derive(settings.data_seed, "order", self.epoch) if settings.shuffle else None
        plan = source.sampling.plan(settings.batch_size, seed, self.epoch, training=True)
        self.merged.train()
        every = [
            shares(plan.sizes, part.settings.accumulate, self._criterion.summed)
            for part in self.parts
        ]
        self.stepping.begin_epoch([sum(share.ends for share in own) for own in every])
        interval = 1 if self._device.type == "cpu" else STEPS_BETWEEN_LOOKS
        losses: list[Tensor] = []
        looked = 0
        for index, batch in enumerate(self._read(source, plan)):
            values, parts = self._losses(source, batch, self._outputs(batch))
            losses.append(values)
            if len(losses) - looked >= interval:
                self._look(losses, looked)
                looked = len(losses)
            self._backward([own[index] for own in every], parts, index)
            if len(self.failed) == len(self.parts):
                break
        self._look(losses, looked)
        stacked = torch.stack(losses).cpu()
        means = [
            mean_loss(stacked[:, k], plan.sizes, self._criterion.summed)
            for k in range(len(self.parts))
        ]
        return means, self.stepping.last_rates

    def _backward(
        self,
        due: Sequence[Share],
        parts: Sequence[tuple[tuple[int, ...], Tensor]],
        step: int,
    ) -> None:
        """One batch's gradient, and the step of the models whose it completes."""
        trained = [(models, losses) for models, losses in parts if losses.requires_grad]
        found = {model for models, _ in trained for model in models}
        without = set(range(len(self.parts))) - found
        kept = [(m, losses) for m, losses in trained if not self.failed.keys() >= set(m)]
        if kept:
            without |= self.stepping.step(kept, due, self.failed.keys())
        for model in without:
            self.failed.setdefault(model, independent(self.epoch, step))

    def _validate(self) -> dict[int, tuple[float, float]]:
        self.merged.eval()
        source = self._task.val
        plan = source.sampling.plan(self._settings.batch_size, None, training=False)
        meters = CohortMeters(self._task.metric, len(self.parts), self._run_as)
        losses: list[Tensor] = []
        with torch.no_grad():
            for batch in self._read(source, plan):
                outputs = self._outputs(batch)
                losses.append(self._losses(source, batch, outputs)[0])
                if not meters.active:
                    continue
                for each in outputs:
                    left = [p for p, m in enumerate(each.models) if m not in self.failed]
                    if left:
                        own = each.only(left)
                        precise = Outputs(own.models, map_tensors(full, own.value))
                        self.failed.update(meters.update(precise, batch.targets))
        stacked = torch.stack(losses).cpu()
        found = {}
        for index in range(len(self.parts)):
            if index in self.failed:
                continue
            try:
                val_loss = mean_loss(stacked[:, index], plan.sizes, self._criterion.summed)
                score = meters.compute(index) if meters.active else val_loss
                check_validated(val_loss, score, self._task.metric.name, self.epoch)
                found[index] = (val_loss, score)
            except Exception as error:
                reraise_memory(error)
                self.failed[index] = error
        return found

    # --- one batch --------------------------------------------------------------------------------

    def _read(self, source: Source, plan: Plan) -> Iterator[Batch]:
        seed = derive(self._settings.data_seed, "data", source.name, self.epoch)
        return source.read(plan, self._device, self._dtype, seed)

    def _outputs(self, batch: Batch) -> list[Outputs]:
        with self._autocast():
            rest = self.rest.get(self.merged.training)
            if rest is not None:
                return self._reader.read(rest(batch.inputs))
            if self._call is None:
                module = self.parts[0].module
                self._call = caller(module, batch.inputs, self.merged.stacked)
            tensors = [tensor for _, tensor in self._call(batch.inputs)]
        return self._reader.read(tensors)

    def _losses(
        self, source: Source, batch: Batch, outputs: Sequence[Outputs]
    ) -> tuple[Tensor, list[tuple[tuple[int, ...], Tensor]]]:
        self._check_labels(source, batch, outputs)
        with self._autocast():
            values, parts, failed = self._criterion(outputs, batch.targets, self.failed)
        self.failed.update(failed)
        return values, parts

    def _check_labels(self, source: Source, batch: Batch, outputs: Sequence[Outputs]) -> None:
        """Labels in memory are looked at once and all together, others batch by batch."""
        if batch.checkable is None and source.name in self._checked:
            return
        self._checked.add(source.name)
        labels = source.targets if batch.checkable is None else batch.checkable
        for each in outputs:
            error = self._criterion.check_labels(each, labels, source.name)
            if error is not None:
                for model in each.models:
                    self.failed.setdefault(model, error)

    def _autocast(self) -> AbstractContextManager[Any]:
        amp = self._settings.amp
        if amp is None:
            return nullcontext()
        return torch.autocast(self._device.type, AMP[amp])

    def _run_as(self, model: int, call: Callable[[], Any]) -> Any:
        return self.merged.streams[model].run(call)

    def _look(self, losses: list[Tensor], start: int) -> None:
        """Finds the models whose loss has become NaN or infinite."""
        if start == len(losses):
            return
        values = torch.stack(losses[start:])
        if bool(torch.isfinite(values).all()):
            return
        for offset, row in enumerate(values.tolist()):
            for model, value in enumerate(row):
                if not math.isfinite(value) and model not in self.failed:
                    self.failed[model] = not_finite(value, self.epoch, start + offset)
