"""What a search runs on, from what the user asked for: an executor, and who decides for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from retiarii.dispatch.adaptive import Adaptive
from retiarii.dispatch.dispatcher import Dispatcher
from retiarii.dispatch.fixed import AsGiven
from retiarii.dispatch.reporting import Reporting
from retiarii.dispatch.state import Policy
from retiarii.errors import RetiariiError
from retiarii.runtime.executor import Executor
from retiarii.runtime.logs import FOLDER
from retiarii.runtime.source import FileSource

if TYPE_CHECKING:
    from retiarii.runtime.cluster.need import Need
    from retiarii.runtime.source import Loaded
    from retiarii.search_space import SearchSpace
    from retiarii.space import ModelSpace
    from retiarii.training.evaluator import Evaluator


@dataclass(frozen=True, slots=True)
class Ground:
    """What there is to run, and where it is kept.

    Attributes:
        model: the space; ``None`` searches hyper-parameters alone.
        space: the same, with the evaluator's hyper-parameters.
        evaluator: how candidates are scored.
        source: the file that they were loaded from, if any.
        directory: the search's.
        held: a descriptor that workers keep open (the directory's lock), or ``None``.
    """

    model: ModelSpace | None
    space: SearchSpace
    evaluator: Evaluator
    source: Loaded | None
    directory: Path
    held: int | None

    @property
    def kept(self) -> bool:
        """Whether the directory outlives the search."""
        return self.held is not None

    @property
    def logs(self) -> Path | None:
        """Where what workers print goes; ``None``: where this process prints."""
        return self.directory / FOLDER if self.kept else None


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the user asked it to run on.

    Attributes:
        executor: its name, one of `EXECUTORS`.
        workers: how many workers at most; ``None``: one a device.
        first: how many trials a cohort begins with, where its size is found by measuring.
        adapt: whether cohorts are made by what is measured; else they are as proposed.
        address: of a Ray cluster.
        need: what each worker takes of a node of that.
    """

    executor: str
    workers: int | None
    first: int
    adapt: bool = False
    address: str | None = None
    need: Need | None = None

    def policy(self) -> Policy:
        """Who decides which trials are trained together."""
        return Adaptive(first=self.first) if self.adapt else AsGiven()


def make_dispatcher(on: Hardware, ground: Ground, phase: str = "search") -> Dispatcher | Reporting:
    """An executor, and the dispatcher before it.

    Args:
        on: what the user asked for.
        ground: what there is to run.
        phase: what the trials are for: ``search`` or ``confirm``.

    Raises:
        RetiariiError: the executor cannot be used here.
    """
    executor = EXECUTORS[on.executor](on, ground)
    dispatcher = Dispatcher(executor, on.policy(), regroup=on.adapt)
    return Reporting(dispatcher, ground.directory, phase) if ground.kept else dispatcher


def _inline(on: Hardware, ground: Ground) -> Executor:
    from retiarii.runtime.inline import InlineExecutor

    del on
    return InlineExecutor(ground.space, ground.evaluator)


def _local(on: Hardware, ground: Ground) -> Executor:
    from retiarii.runtime.gpus import gpus_for
    from retiarii.runtime.local import LocalExecutor
    from retiarii.runtime.packing import memory_source
    from retiarii.runtime.sharing import publish

    gpus = gpus_for(ground.evaluator)
    workers = on.workers or max(1, len(gpus))
    data = publish(ground.evaluator.kept())
    if data is not None:  # this process needs no copy of its own either
        data.shared.adopt(ground.evaluator.kept())
    if ground.source is not None:
        source = FileSource(ground.source.path, ground.source.digest)
        return LocalExecutor(source, workers, ground.held, gpus, logs=ground.logs, data=data)
    packed = memory_source(ground.model, ground.evaluator)
    return LocalExecutor(packed, workers, ground.held, gpus, logs=ground.logs, data=data)


def _ray(on: Hardware, ground: Ground) -> Executor:
    from retiarii.runtime.cluster.executor import RayExecutor

    if ground.source is None:
        raise RetiariiError(
            "a cluster's workers load the space from its file, and there is none",
            where='Experiment(executor="ray")',
            fix="run it as a file: retiarii run space.py --executor ray",
        )
    source = FileSource(ground.source.path, ground.source.digest)
    return RayExecutor(source, ground.directory, on.address, on.workers, on.need, logs=ground.logs)


EXECUTORS: Mapping[str, Callable[[Hardware, Ground], Executor]] = MappingProxyType(
    {"inline": _inline, "local": _local, "ray": _ray}
)
