"""Scores a candidate by training it on labelled data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.data import DataLoader

from retiarii.errors import EvaluatorError, nearest
from retiarii.mutators.choice import Description, show
from retiarii.training.check import check_on_samples, first_batch, make_device, usable_device
from retiarii.training.checkpoint import Checkpoints
from retiarii.training.cohort.part import Attach
from retiarii.training.cohort.session import train_together
from retiarii.training.data import open_data
from retiarii.training.evaluator import Evaluator, Examples
from retiarii.training.fields import (
    BELOW_ONE,
    COUNT,
    POSITIVE,
    Fields,
    Rule,
    check_field,
    chosen,
    numbers_in,
    possible,
    refuse_nested,
)
from retiarii.training.fingerprint import describe_callable, describe_loss, identity, jsonable
from retiarii.training.frozen_cache import DEFAULT_BYTES, FrozenCache
from retiarii.training.labels import add_label
from retiarii.training.loop import AMP, EpochTrainer, Settings, Task, finish_alone
from retiarii.training.losses import Loss, check_loss
from retiarii.training.metrics import make_metric
from retiarii.training.optimizers import Optimizer
from retiarii.training.record import Record
from retiarii.training.rng import Stream
from retiarii.training.schedules import make_schedule
from retiarii.training.structure import tensors
from retiarii.training.trial import Trial, failures_end

_CLIP = Rule("None or a number above 0", lambda v: v is None or POSITIVE.holds(v))
_EMA = Rule("None or " + BELOW_ONE.says, lambda v: v is None or BELOW_ONE.holds(v))
_SHUFFLES = ("search", "trial", False)


class Supervised(Evaluator):
    """Trains each candidate on ``train_data`` and scores it on ``val_data``.

    Trials that are given together are trained as one merged program where they can be; each gets
    what it would have got alone, up to rounding.

    After each epoch it reports ``train_loss``, ``val_loss``, the metric and ``lr``, and writes a
    checkpoint. The score is the metric after the last epoch, and ``weights.safetensors`` in the
    trial's directory holds the weights of that same epoch.

    Floating point data is cast to the type of the model's parameters. A tuple of inputs is spread
    over the parameters of ``forward`` where it fits, a dict over the parameters of its keys' names.

    Args:
        train_data: a pair ``(x, y)`` of tensors or arrays whose first dimension is the sample
            (``x`` and ``y`` may be tuples or dicts of them), a list of samples, a map-style
            Dataset of ``(inputs, target)``, or a DataLoader, whose batches, ``collate_fn`` and
            workers are kept, while its random order is drawn from our seeds.
        val_data: likewise; read in order.
        loss: a module or a function of ``(outputs, targets)`` that returns a scalar tensor. One
            of ``torch.nn`` on several outputs is the sum over them.
        optimizer: ``rt.SGD``, ``rt.Adam``, ``rt.AdamW``, ``rt.RMSprop`` or ``rt.Adagrad``, or a
            choice of these.
        schedule: of the learning rate, or its name; ``None`` is constant.
        batch_size: samples a step. A last batch of one sample is joined to the batch before it,
            since BatchNorm cannot train on it.
        epochs: passes over ``train_data``.
        metric: ``"accuracy"``, ``"loss"``, ``"mae"``, ``"mse"``; a function of ``(outputs,
            targets)`` that is called with the whole validation data; or an object with
            ``update(outputs, targets)`` and ``compute()``.
        maximize: whether a higher metric is better; needed for a metric of your own.
        device: ``None`` takes a CUDA device where there is one.
        amp: ``"bf16"`` or ``"fp16"`` for mixed precision.
        shuffle: ``"search"``: every trial sees the same batches in the same order, which depends on
            the search's seed; ``"trial"``: an order for each trial; False: as given.
        checkpoint: whether a trial that is cut off goes on from its last epoch.
        grad_clip: the largest norm of the gradient.
        accumulate: batches an optimizer step, for batches that are too large for the memory: the
            step is that of one batch of all their samples (BatchNorm still sees each by itself).
            Schedules count optimizer steps.
        cache_frozen: what frozen layers ahead of the first trained one (a backbone under transfer)
            make of a sample is computed once in the whole search and kept on disk, in the search's
            directory: ``True`` takes up to 4 GiB, a number up to so many bytes. Scores do not
            change, up to rounding. Nothing is kept where samples are drawn at random or do not
            fit; the search says so once, and why.
        ema: the decay of an exponential moving average of the weights, such as 0.999. Models are
            scored with the averaged weights, and these are stored; buffers such as running
            statistics are the model's own. ``None``: no average.

    ``epochs``, ``batch_size``, ``grad_clip``, ``accumulate``, ``ema`` and every field of optimizer
    and schedule may be choices; their labels are the fields' names (``"lr"``,
    ``"schedule.gamma"``) unless they have their own.

    Raises:
        EvaluatorError: an argument that cannot work, with what to do.
    """

    merges: ClassVar[bool] = True
    keeps_weights: ClassVar[bool] = True
    labelled: ClassVar[bool] = True

    def __init__(
        self,
        train_data: Any,
        val_data: Any,
        *,
        loss: Any,
        optimizer: Any,
        schedule: Any = None,
        batch_size: Any = 64,
        epochs: Any = 10,
        metric: Any = "accuracy",
        maximize: bool | None = None,
        device: Any = None,
        amp: str | None = None,
        shuffle: Any = "search",
        checkpoint: bool = True,
        grad_clip: Any = None,
        accumulate: Any = 1,
        ema: Any = None,
        cache_frozen: bool | int = False,
    ) -> None:
        check_loss(loss)
        _check_optimizer(optimizer)
        for name, value, rule in (
            ("batch_size", batch_size, COUNT),
            ("epochs", epochs, COUNT),
            ("grad_clip", grad_clip, _CLIP),
            ("accumulate", accumulate, COUNT),
            ("ema", ema, _EMA),
        ):
            check_field("Supervised", name, value, rule)
        _check_option("amp", amp, (None, *AMP))
        _check_option("shuffle", shuffle, _SHUFFLES)
        limit = DEFAULT_BYTES if cache_frozen is True else cache_frozen
        if limit is not False:
            check_field("Supervised", "cache_frozen", limit, COUNT)
        if isinstance(train_data, DataLoader) and isinstance(batch_size, Description):
            raise EvaluatorError(
                "batch_size is a choice, but train_data is a DataLoader with a batch size",
                where="Supervised(batch_size=...)",
                fix="pass the DataLoader's dataset, or leave batch_size out",
            )
        self._train = open_data(train_data, "train_data")
        self._val = open_data(val_data, "val_data")
        self._loss = Loss(loss)
        self._optimizer = optimizer
        self._schedule = make_schedule(schedule)
        self._batch_size = batch_size
        self._epochs = epochs
        self._grad_clip = grad_clip
        self._accumulate = accumulate
        self._ema = ema
        self._given_metric = metric
        self._metric = make_metric(metric, maximize, loss)
        self._device = make_device(device)
        self.pinned = self._device is not None and self._device.index is not None
        self._amp = amp
        self._shuffle = shuffle
        self._checkpoint = checkpoint
        self._frozen = None if limit is False else FrozenCache(limit)
        self._described: dict[str, Any] | None = None
        self._largest: int | None = None  # of the cohorts that fit the memory, once one did not
        self._labels = self._find_labels()
        self.metric = self._metric.name
        self.maximize = self._metric.maximize
        self.pauses = bool(checkpoint)
        self.longest = int(max(possible(epochs)))
        self.changes = self._find_changes()
        self.reported = frozenset({"train_loss", "val_loss", self.metric, "lr"})

    def _find_labels(self) -> dict[str, Description]:
        found: dict[str, Description] = {}
        for name, value in (("optimizer", self._optimizer), ("schedule", self._schedule)):
            if isinstance(value, Fields):
                prefix = "" if name == "optimizer" else name
                for label, description in value.descriptions(prefix).items():
                    add_label(found, label, description)
        for name, value in (
            ("optimizer", self._optimizer),
            ("schedule", self._schedule),
            ("batch_size", self._batch_size),
            ("epochs", self._epochs),
            ("grad_clip", self._grad_clip),
            ("accumulate", self._accumulate),
            ("ema", self._ema),
        ):
            if isinstance(value, Description):
                refuse_nested(name, value)
                add_label(found, name, value)
        return found

    def _find_changes(self) -> frozenset[str] | None:
        """Numbers that a step is taken with. All else shapes what checkpoints hold (the state of
        an optimizer, averages), or how many steps there are."""
        if not self._checkpoint or isinstance(self._epochs, Description):
            return None
        found = set(numbers_in(self._optimizer)) if isinstance(self._optimizer, Fields) else set()
        if isinstance(self._grad_clip, Description):
            found.add(self._grad_clip.label or "grad_clip")
        return frozenset(found)

    def hyperparameters(self) -> Mapping[str, Description]:
        return self._labels

    def describe(self) -> dict[str, Any]:
        if self._described is None:
            own = not isinstance(self._given_metric, str)
            code = describe_callable(self._given_metric) if own else None
            self._described = {
                "kind": "supervised",
                "train_data": self._train.describe(),
                "val_data": self._val.describe(),
                "loss": describe_loss(self._loss.given),
                "optimizer": jsonable(self._optimizer),
                "schedule": jsonable(self._schedule),
                "batch_size": jsonable(self._train.sampling.batch_size or self._batch_size),
                "epochs": jsonable(self._epochs),
                "grad_clip": jsonable(self._grad_clip),
                "accumulate": jsonable(self._accumulate),
                "ema": jsonable(self._ema),
                "metric": {"name": self.metric, **(code or {})},
                "maximize": self.maximize,
                "amp": self._amp,
                "shuffle": self._shuffle,
            }
        return self._described

    def validate(self, space: Any) -> None:
        """Run a few sampled models on the first batch, with the loss and the metric.

        Args:
            space: a ModelSpace, a SearchSpace, or ``None`` to check the device alone.

        Raises:
            EvaluatorError: the device is not there, there is no model to train, or data, loss,
                metric and models do not fit.
        """
        device = usable_device(self._device, self._amp)
        models = getattr(space, "model", space)
        if models is None:
            if space is not None:
                raise _no_model()
            return
        check_on_samples(models, self._train, self._val, self._loss, self._metric, device)

    def trains_on(self) -> torch.device:
        return usable_device(self._device, self._amp)

    def examples(self, size: int, seed: int) -> Examples:
        batch = first_batch(self._train, torch.device("cpu"), None, size, seed)
        return Examples(batch.inputs, batch.targets, self._loss.on)

    def kept(self) -> Sequence[torch.Tensor]:
        return tensors([source.whole for source in (self._train, self._val)])

    def settings(self, trial: Trial) -> Settings:
        """How a trial is trained, its choices made.

        Raises:
            EvaluatorError: a hyper-parameter is missing or out of range, or no such device.
        """
        values = trial.hyperparameters
        optimizer = chosen(values, "optimizer", self._optimizer).resolved(values)
        schedule = make_schedule(chosen(values, "schedule", self._schedule))
        own = self._shuffle == "trial"
        return Settings(
            optimizer=optimizer,
            schedule=schedule.resolved(values, "schedule"),
            epochs=chosen(values, "epochs", self._epochs),
            batch_size=chosen(values, "batch_size", self._batch_size),
            grad_clip=chosen(values, "grad_clip", self._grad_clip),
            accumulate=chosen(values, "accumulate", self._accumulate),
            ema=chosen(values, "ema", self._ema),
            device=usable_device(self._device, self._amp),
            amp=self._amp,
            seed=trial.seed,
            data_seed=trial.seed if own else trial.search_seed,
            shuffle=self._shuffle is not False,
        )

    def build(self, trial: Trial, settings: Settings) -> nn.Module:
        """A trial's model, freshly initialised.

        Raises:
            EvaluatorError: there is no model.
        """
        if trial.candidate is None:
            raise _no_model()
        with Stream(trial.seed, settings.device):
            model: nn.Module = trial.candidate.build(trial.seed)
        return model

    def trainer(self, trial: Trial) -> EpochTrainer:
        """A trial's model, freshly initialised and ready to train.

        Raises:
            EvaluatorError: as :meth:`settings`.
            TrialError: the model has no parameter to train.
        """
        settings = self.settings(trial)
        task = self.task
        return EpochTrainer(
            self.build(trial, settings), settings, task.train, task.val, task.loss, task.metric
        )

    @property
    def task(self) -> Task:
        """What every trial is trained for."""
        return Task(self._train, self._val, self._loss, self._metric)

    def record(self, trial: Trial) -> Record:
        """What is kept of a trial, with its checkpoints where it has any."""
        keeper = None
        if self._checkpoint and trial.directory is not None:
            keeper = Checkpoints(trial.directory, self._identity(trial))
        return Record(trial, keeper, self.metric, self.maximize)

    def attach(self, trial: Trial) -> Attach | None:
        """What cohorts are given to begin where their frozen part ends; ``None``: nothing is kept.

        Args:
            trial: one of the cohort; says where the search's directory is.
        """
        if self._frozen is None:
            return None
        return partial(self._frozen.attach, directory=_beside(trial), say=trial.note)

    def run(self, cohort: Sequence[Trial]) -> None:
        if len(cohort) > 1 or self._frozen is not None:
            self._largest = train_together(self, cohort, self._largest)
            return
        for trial in cohort:
            self.run_alone(trial)

    def run_alone(self, trial: Trial) -> None:
        """Train one trial by itself, from its newest checkpoint where there is one."""
        with failures_end(trial):
            trial.start()
            record = self.record(trial)
            if record.ended_before():
                return
            trainer = self.trainer(trial)
            saved = record.resumed()
            if saved is not None:
                trainer.restore(saved)
            finish_alone(record, trainer)

    def _identity(self, trial: Trial) -> str:
        return identity(
            {
                "evaluator": self.describe(),
                "seeds": [trial.seed, trial.search_seed],
                "decisions": {k: show(v) for k, v in trial.decisions.items()},
                "hyperparameters": {k: show(v) for k, v in trial.hyperparameters.items()},
            }
        )


def _beside(trial: Trial) -> Path | None:
    """Where all trials of a search keep what they share; a trial of no search keeps its own."""
    if trial.directory is None:
        return None
    trials = trial.directory.parent
    return (trials.parent if trials.name == "trials" else trial.directory) / "frozen"


def _no_model() -> EvaluatorError:
    return EvaluatorError(
        "Supervised trains models, and this space has none",
        where="Supervised",
        fix="give a ModelSpace (without a mutator it is one model), or use rt.Function",
    )


def _check_optimizer(given: Any) -> None:
    for plain in possible(given):
        if isinstance(plain, Optimizer):
            continue
        names = ", ".join(f"rt.{kind.__name__}" for kind in Optimizer.__subclasses__())
        if isinstance(plain, type) and issubclass(plain, Optimizer):
            cause, fix = f"the class {plain.__name__}", f"make one: rt.{plain.__name__}(lr=...)"
        elif isinstance(plain, torch.optim.Optimizer):
            cause, fix = "an optimizer of torch, bound to one model", f"use one of {names}"
        else:
            cause, fix = f"{plain!r:.60}", f"use one of {names}"
        raise EvaluatorError(f"optimizer is {cause}", where="Supervised(optimizer=...)", fix=fix)


def _check_option(name: str, given: Any, options: Sequence[Any]) -> None:
    if not any(
        given is option or (given == option and isinstance(given, str)) for option in options
    ):
        texts = [o for o in options if isinstance(o, str)]
        raise EvaluatorError(
            f"{name} is {given!r}, which is none of {', '.join(map(repr, options))}",
            where=f"Supervised({name}=...)",
            fix=nearest(str(given), texts),
        )
