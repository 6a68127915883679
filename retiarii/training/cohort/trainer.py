"""Trains many models as one merged program, an epoch at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from retiarii.optimizer.compiling import UNKNOWN
from retiarii.optimizer.merged import MergedModel
from retiarii.optimizer.stats import Stats
from retiarii.seeding import derive
from retiarii.training.accumulation import Share, shares
from retiarii.training.checkpoint import Checkpoint
from retiarii.training.cohort.criterion import Criterion, Failures
from retiarii.training.cohort.cuda_graphs import recorder_of
from retiarii.training.cohort.failure import reraise_memory
from retiarii.training.cohort.looking import Looking
from retiarii.training.cohort.merging import merge_parts, steps_left
from retiarii.training.cohort.meters import CohortMeters
from retiarii.training.cohort.outputs import OutputReader, Outputs
from retiarii.training.cohort.pacing import Pacing
from retiarii.training.cohort.part import Attach, Attached, Part
from retiarii.training.cohort.placing import Placer
from retiarii.training.cohort.recordable import unrecordable
from retiarii.training.cohort.recording import Done, RecordedSteps, Recorder
from retiarii.training.cohort.state import held_by, tensors_of
from retiarii.training.cohort.stepping import Stepping
from retiarii.training.data import Source
from retiarii.training.loop import (
    AMP,
    STEPS_BETWEEN_LOOKS,
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

AMP_TEXTS: Final = MappingProxyType(
    {
        "bf16": "bf16 where autocast takes it",
        "fp16": "fp16 where autocast takes it, with a loss scale for each model",
    }
)


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
        record: what records steps on a device, so that they are replayed: a CUDA graph on a GPU.

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
        record: Callable[[torch.device], Recorder | None] = recorder_of,
    ) -> None:
        # Their state is the trainer's from here on.
        self.parts = tuple(replace(part, state=None) for part in parts)
        self._given = task
        self._settings = parts[0].settings
        self._device = self._settings.device
        self._dtype = float_dtype(parts[0].module)
        self.merged = merge_parts(parts, task) if merged is None else merged
        self._place = Placer(self._device)
        self._reader = OutputReader(self.merged, self._place)
        self._criterion = Criterion(task.loss, len(parts), self._place, self._dtype, self._run_as)
        self._record = record
        self._recorded, self._eager = self._recording(record(self._device))
        self.stepping = Stepping(self.merged, parts, self._place, self._recorded is not None)
        cpu = self._device.type == "cpu"
        self._looking = Looking(1 if cpu else STEPS_BETWEEN_LOOKS)
        self._pacing = Pacing(self.merged, max(steps_left(p, task) for p in parts), self._device)
        self._shapes: list[Outputs] | None = None
        self._checkable: Any = None
        self._call: Callable[[Any], Any] | None = None
        self._checked: set[str] = set()
        self._held: dict[int, dict[str, Tensor]] = {}
        self.epoch = 0
        for index, part in enumerate(parts):
            if part.state is not None:
                self.epoch = part.state.epoch
                self.stepping.restore(index, part.state)
        self.failed: Failures = {}
        attached = Attached(task) if attach is None else attach(self.merged, parts[0], task)
        self._task = attached.task
        self.rest = attached.rest

    def without(self, gone: Collection[int], attach: Attach | None = None) -> CohortTrainer:
        """The others in training, with all that theirs goes on from; merged anew in a little time.

        Args:
            gone: the numbers of the models that leave. The others are numbered anew, in order.
            attach: as for the whole cohort.
        """
        parts = [
            replace(part, state=Checkpoint(self.epoch, *self.stepping.state(i)))
            for i, part in enumerate(self.parts)
            if i not in gone
        ]
        return CohortTrainer(parts, self._given, attach, self.merged.without(gone), self._record)

    @property
    def stats(self) -> Stats:
        """What merging did."""
        return self.merged.stats

    @property
    def execution(self) -> tuple[str, ...]:
        """How steps are run, as far as it is known by now: phrases."""
        amp = self._settings.amp
        found = [] if amp is None else [AMP_TEXTS[amp]]
        eager = self._eager if self._recorded is None else self._recorded.refused
        if eager is not None:
            found.append(f"steps are not recorded: {eager}")
        elif self._recorded is not None and self._recorded.recorded:
            cuda = self._device.type == "cuda"
            found.append("each step is a CUDA graph" if cuda else "each step is replayed")
        if self.merged.execution is not UNKNOWN:
            found.append(self.merged.execution.reason)
        return tuple(found)

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

    def state(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As :meth:`EpochTrainer.tensors` and ``meta`` of that model alone; copies."""
        if index not in self._held:
            self._held[index] = held_by(self.parts[index].module)
        tensors, meta = self.stepping.state(index)
        return {**tensors_of(self.merged, index, self._held[index]), **tensors}, meta

    def tensors(self, index: int) -> dict[str, Tensor]:
        """The tensors of :meth:`state`."""
        return self.state(index)[0]

    def meta(self, index: int) -> dict[str, Any]:
        """The rest of :meth:`state`, as JSON."""
        return self.stepping.state(index)[1]

    def checkpoint(self, index: int) -> Checkpoint:
        """What a model's training goes on from, alone or in another cohort."""
        return Checkpoint(self.epoch, *self.state(index))

    # --- one step ---------------------------------------------------------------------------------

    def train_step(self, batch: Batch, shares: Sequence[Share] | None = None) -> Tensor:
        """One batch's gradient for all models, and the optimizer steps that it completes.

        This is what :meth:`advance` does with each batch of an epoch; a loop of one's own may
        do it, too. Models whose loss cannot be computed, or is found not to be finite, are in
        `failed` from then on. A GPU is not waited for.

        Args:
            batch: on the device, in the models' type.
            shares: each model's part of a step; by default the batch is a step of all.

        Returns:
            The losses before the step: ``[K]``, 0 for models that had failed.
        """
        if not self.merged.training:
            self.merged.train()
        if shares is None:
            shares = [Share(1.0, True, True)] * len(self.parts)
        due = [share.ends for share in shares]
        self.stepping.begin_step(due)
        if self._recorded is None:
            with self._pacing:
                done = self._compute(batch, shares)
        else:
            self._checkable = batch.checkable
            if self._shapes is not None:
                self._check_labels(self._task.train, batch, self._shapes)
            # Without accumulation, all steps have the same shares.
            done = self._recorded(batch, frozenset(self.failed))
            self._lost(self._looking.add(done.losses))
        self.failed.update(done.failed)
        for model in done.without:
            self.failed.setdefault(model, independent(self.epoch, self._looking.steps - 1))
        self.stepping.end_step([d and i not in self.failed for i, d in enumerate(due)])
        return done.losses

    def _recording(self, recorder: Recorder | None) -> tuple[RecordedSteps | None, str | None]:
        """What records our steps, or why nothing does."""
        if recorder is None:
            return None, None
        self.merged.train()
        why = unrecordable(self.merged.program, self._criterion, [p.settings for p in self.parts])
        if why is not None:
            return None, why
        whole = [Share(1.0, True, True)] * len(self.parts)
        random = "self.streams" in self.merged.source
        steps = RecordedSteps(
            self._device,
            recorder,
            lambda batch: self._compute(batch, whole),
            lambda: [s.generator for s in self.merged.streams] if random else [],
        )
        return steps, None

    def _compute(self, batch: Batch, shares: Sequence[Share]) -> Done:
        """Forward, losses, backward, update: where it is recorded, all that is in the recording."""
        source = self._task.train
        outputs = self._outputs(batch)
        values, parts, failed = self._losses(source, batch, outputs)
        if self._recorded is None:
            self._lost(self._looking.add(values))
        gone = self.failed.keys() | failed.keys()
        trained = [(models, losses) for models, losses in parts if losses.requires_grad]
        without = set(range(len(self.parts))).difference(*(models for models, _ in trained))
        kept = [(m, losses) for m, losses in trained if not gone >= set(m)]
        if kept:
            without |= self.stepping.compute(kept, shares, gone)
        return Done(values, frozenset(without - gone), failed)

    def _lost(self, found: Iterable[tuple[int, float, int]]) -> None:
        for model, value, step in found:
            self.failed.setdefault(model, not_finite(value, self.epoch, step))

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
        self._looking.begin()
        losses: list[Tensor] = []
        for index, batch in enumerate(self._read(source, plan)):
            losses.append(self.train_step(batch, [own[index] for own in every]))
            if len(self.failed) == len(self.parts):
                break
        self._lost(self._looking.look())
        stacked = torch.stack(losses).cpu()
        means = [
            mean_loss(stacked[:, k], plan.sizes, self._criterion.summed)
            for k in range(len(self.parts))
        ]
        return means, self.stepping.last_rates

    def _validate(self) -> dict[int, tuple[float, float]]:
        self.merged.eval()
        source = self._task.val
        plan = source.sampling.plan(self._settings.batch_size, None, training=False)
        meters = CohortMeters(self._task.metric, len(self.parts), self._run_as)
        losses: list[Tensor] = []
        with torch.no_grad():
            for batch in self._read(source, plan):
                outputs = self._outputs(batch)
                values, _, failed = self._losses(source, batch, outputs)
                self.failed.update(failed)
                losses.append(values)
                if not meters.active:
                    continue
                for each in outputs:
                    left = [p for p, m in enumerate(each.models) if m not in self.failed]
                    if left:
                        own = each.only(left, self._place)
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
    ) -> tuple[Tensor, list[tuple[tuple[int, ...], Tensor]], Failures]:
        if self._recorded is None or source is not self._task.train:
            self._check_labels(source, batch, outputs)
        elif self._shapes is None:
            # What is recorded has the labels, and not where they can be looked at for free.
            self._check_labels(source, batch._replace(checkable=self._checkable), outputs)
            # Labels of the batches to come are looked at outside of what is recorded.
            self._shapes = [
                Outputs(o.models, map_tensors(lambda t: t.to("meta"), o.value)) for o in outputs
            ]
        with self._autocast():
            return self._criterion(outputs, batch.targets, self.failed)

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
