"""Evaluates trials that were given together: as merged programs where that can be."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import nn

from retiarii.optimizer.stats import Stats
from retiarii.training.checkpoint import Checkpoint
from retiarii.training.cohort.failure import fail, out_of_memory
from retiarii.training.cohort.member import Member, compatible, is_whole
from retiarii.training.cohort.merging import pays
from retiarii.training.cohort.ordering import Ordering
from retiarii.training.cohort.part import Attach
from retiarii.training.cohort.room import Room
from retiarii.training.cohort.single import single_trainer
from retiarii.training.cohort.trainer import CohortTrainer
from retiarii.training.loop import EpochTrainer, Settings, Task, finish_alone, trained_parameters
from retiarii.training.record import InTraining, Record
from retiarii.training.trial import Trial, describe_error, failures_end


class Trains(Protocol):
    """What is asked of an evaluator."""

    @property
    def task(self) -> Task: ...

    def settings(self, trial: Trial) -> Settings: ...

    def build(self, trial: Trial, settings: Settings) -> nn.Module: ...

    def record(self, trial: Trial) -> Record: ...

    def attach(self, trial: Trial) -> Attach | None: ...

    def run_alone(self, trial: Trial) -> None: ...


def train_together(
    evaluator: Trains, trials: Sequence[Trial], largest: int | None = None
) -> int | None:
    """Train trials, those that fit together as one merged program.

    Trials fit together that see the same batches on the same device. A cohort is cut to what the
    free memory is estimated to take, those together whose models have most in common. When memory
    does not suffice all the same, it is halved and goes on from the last checkpoints. When a cohort
    cannot be trained merged for any other reason than a trial's own, its trials are trained one by
    one.

    Args:
        evaluator: makes models, settings and records.
        trials: each ends by `finish` or `fail`, whatever the others do.
        largest: how many may be in one cohort.

    Returns:
        How many may be in one cohort, as far as is known by now; ``None`` for any number.
    """
    session = _Session(evaluator, largest)
    session.run(trials)
    return session.largest


class _Session:
    def __init__(self, evaluator: Trains, largest: int | None) -> None:
        self._evaluator = evaluator
        self.largest = largest

    def run(self, trials: Sequence[Trial]) -> None:
        members = []
        for trial in trials:
            with failures_end(trial):
                member = self._member(trial)
                if member is not None:
                    members.append(member)
        for group in compatible(members):
            self._train_in_cuts(group)

    def _train_in_cuts(self, group: list[Member]) -> None:
        """Trains members together, as many at a time as the memory has room for."""
        most = len(group)
        ordering: Ordering | None = None
        room: Room | None = None
        while group:
            # Memory that did not suffice, meanwhile too, says more than any estimate.
            most = min(most, self.largest or most, len(group))
            if room is None and len(group) > 1:
                room = Room(group)
                if most < len(group) or not room.surely_for(group):
                    ordering = Ordering(group)
            if ordering is not None:
                group = ordering.alike_first(group)
            number, free = (most, "") if room is None else room.number(group[:most])
            if number < most:
                group[0].trial.note(
                    f"{number} of {most} trials are trained together: the {free} that are free "
                    "take no more",
                    fits=number,
                )
                most = number
            self._train(group[:number])
            group = group[number:]

    def _member(self, trial: Trial) -> Member | None:
        """A trial made ready; ``None`` if it was trained before."""
        trial.start()
        record = self._evaluator.record(trial)
        if record.ended_before():
            return None
        settings = self._evaluator.settings(trial)
        module = self._evaluator.build(trial, settings)
        trained_parameters(module)
        graph = getattr(trial.candidate, "graph", None)
        state = record.resumed()
        epoch = 0 if state is None else state.epoch
        return Member(record, settings, graph, module, state, epoch)

    def _train(self, group: Sequence[Member]) -> None:
        if len(group) == 1:
            self._alone(group[0])
            return
        trouble: Exception | None = None
        try:
            self._together(list(group))
        except Exception as error:
            # Without its frames, which hold on to the merged model.
            trouble = error.with_traceback(None)
        if trouble is not None:
            left = [member.trial for member in group if member.open]
            _free_memory()
            self._after(trouble, left)

    def _after(self, trouble: Exception, left: Sequence[Trial]) -> None:
        """Goes on when a cohort could not."""
        if not left:
            return
        if out_of_memory(trouble) and len(left) > 1:
            self.largest = (len(left) + 1) // 2
            left[0].note(
                f"a cohort of {len(left)} does not fit the memory; going on with {self.largest} "
                "at a time",
                fits=self.largest,
            )
            self.run(left)
            return
        reason = describe_error(trouble).splitlines()[0]
        left[0].note(f"a cohort of {len(left)} is trained one by one: {reason}")
        for trial in left:
            self._evaluator.run_alone(trial)

    # --- one member -------------------------------------------------------------------------------

    def _alone(self, member: Member) -> None:
        """Trains a member to its end by itself."""
        with failures_end(member.trial):
            finish_alone(member.record, self._trainer(member))

    def _trainer(self, member: Member) -> InTraining:
        task = self._evaluator.task
        attach = self._evaluator.attach(member.trial)
        if attach is not None and is_whole(member.graph, member.module):
            single = single_trainer(member.part(), task, attach)
            if single is not None:
                return single
        trainer = EpochTrainer(
            member.module, member.settings, task.train, task.val, task.loss, task.metric
        )
        if member.state is not None:
            trainer.restore(member.state)
        return trainer

    def _one_epoch(self, member: Member) -> None:
        """Brings a member that is behind the others one epoch further."""
        with failures_end(member.trial):
            trainer = self._trainer(member)
            metrics = trainer.advance()
            state = Checkpoint(trainer.epoch, dict(trainer.tensors()), trainer.meta())
            member.state, member.epoch = state, trainer.epoch
            member.record.add(trainer.epoch, metrics, lambda: (state.tensors, state.meta))

    # --- a cohort ---------------------------------------------------------------------------------

    def _together(self, active: list[Member]) -> None:
        """Trains members merged, epoch by epoch; those that are behind catch up first."""
        running = _Running([], None)
        while True:
            for member in active:
                if member.done or member.record.wants_to_stop():
                    with failures_end(member.trial):
                        # The member's own state, wherever it is.
                        member.end(partial(running.state_of, member), not member.done)
            active = [member for member in active if member.open]
            if not active:
                return
            if len(active) == 1:
                running.hand_over(active)
                self._alone(active[0])
                return
            epoch = min(member.epoch for member in active)
            behind = [member for member in active if member.epoch == epoch]
            if len(behind) == 1:
                running.hand_over(behind)
                self._one_epoch(behind[0])
                continue
            if running.members != behind:
                merged = self._merged(running, active, behind)
                if merged is None:
                    running.hand_over(active)
                    for member in active:
                        self._alone(member)
                    return
                running = merged
                if torch.cuda.is_available():
                    _free_memory()  # of the trainer before, which its CUDA graphs hold on to
            self._advance(running)

    def _merged(
        self, running: _Running, active: Sequence[Member], members: list[Member]
    ) -> _Running | None:
        """What trains the members together; ``None`` where that would not pay."""
        attach = self._evaluator.attach(members[0].trial)
        if running.trainer is not None and all(m in running.members for m in members):
            gone = [i for i, member in enumerate(running.members) if member not in members]
            running.hand_over([m for m in active if m not in members])
            trainer = running.trainer.without(gone, attach)
        else:
            running.hand_over(active)
            running.trainer = None  # so that its memory is free for the next
            trainer = CohortTrainer([m.part() for m in members], self._evaluator.task, attach)
        described = _described(trainer.stats)
        if not pays(trainer.stats, self._evaluator.task, members[0].settings.device):
            members[0].trial.note(f"{described}: trained one by one")
            return None
        for member in members:
            member.state = None
        members[0].trial.note(described)
        return _Running(members, trainer)

    def _advance(self, running: _Running) -> None:
        trainer = running.trainer
        assert trainer is not None
        for index, (member, result) in enumerate(
            zip(running.members, trainer.advance(), strict=True)
        ):
            if isinstance(result, Exception):
                fail(member.trial, result)
                continue
            member.epoch = trainer.epoch
            with failures_end(member.trial):
                member.record.add(trainer.epoch, result, partial(trainer.state, index))
        for phrase in trainer.execution:
            # That nothing is compiled is the usual.
            if phrase not in running.said and not phrase.startswith("eager"):
                running.said.add(phrase)
                running.members[0].trial.note(phrase)


def _described(stats: Stats) -> str:
    """What a cohort was merged to, in one line."""
    parts = [f"cohort of {stats.models}: {stats.nodes_before} calls as {stats.nodes_after}"]
    if stats.shared:
        parts.append(f"{stats.shared} shared")
    ratio = stats.choice.estimated_ratio
    if not stats.choice.fuse:
        parts.append(stats.choice.reason)
    elif ratio is not None:
        parts.append(f"about {ratio:.1f} times as fast as one by one")
    return ", ".join(parts)


class _Running:
    """The members that train now, and what trains them."""

    def __init__(self, members: list[Member], trainer: CohortTrainer | None) -> None:
        self.members = members
        self.trainer = trainer
        self.said: set[str] = set()

    def state_of(self, member: Member) -> Checkpoint:
        """What a member's training goes on from."""
        if self.trainer is not None and member in self.members:
            return self.trainer.checkpoint(self.members.index(member))
        assert member.state is not None
        return member.state

    def hand_over(self, members: Sequence[Member]) -> None:
        """Gives members their state, for another trainer."""
        for member in members:
            if self.trainer is not None and member in self.members:
                member.state = self.state_of(member)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
