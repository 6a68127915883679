"""Training steps recorded once and replayed: one launch in the place of thousands.

A recording does the same to the same memory again; nothing of Python runs in it. So what a step
reads must be tensors that stay where they are, and what changes must change in them. Batches are
copied to one place; weights, states, counts and learning rates lie in one already.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import torch
from torch import Tensor

from retiarii.training.cohort.failure import reraise_memory
from retiarii.training.cohort.hosts import HostWatch
from retiarii.training.readers import Batch
from retiarii.training.structure import leaves, map_tensors
from retiarii.training.trial import describe_error

# Steps that run before one is recorded: what is made once and kept is made in them, and the
# libraries' workspaces. They train as all others do.
WARM_UP: Final = 3
# Kinds of steps that are recorded: each holds on to memory of its own.
_MOST: Final = 4


@dataclass(frozen=True, slots=True)
class Done:
    """What a step leaves behind.

    Attributes:
        losses: before the step, ``[K]``.
        without: models whose loss depends on none of their parameters.
        failed: models whose loss could not be computed.
    """

    losses: Tensor
    without: frozenset[int]
    failed: Mapping[int, Exception]


Run = Callable[[], Done]


@dataclass(frozen=True, slots=True)
class Recording:
    """A step that can be run again.

    Attributes:
        replay: runs it, on whatever its tensors hold by then.
        done: what it leaves behind, in the same memory after every replay.
    """

    replay: Callable[[], None]
    done: Done


class Recorder(Protocol):
    """Records what runs on a device."""

    def warm(self, run: Run) -> Done:
        """Runs it as it would be recorded."""

    def record(self, run: Run, generators: Sequence[torch.Generator]) -> Recording:
        """Records it, without that anything is computed.

        Args:
            run: the step.
            generators: what it draws random numbers from.
        """


@dataclass(slots=True)
class _Kind:
    """Steps on batches of one shape."""

    batch: Batch
    runs: int = 0
    recording: Recording | None = None


class RecordedSteps:
    """Runs steps, the first of a kind as they are, and from then on their recording.

    Args:
        device: where they run.
        recorder: records them there.
        step: one step on a batch; whatever else it reads stays where it is.
        generators: what it draws from.

    Attributes:
        refused: why steps are not recorded, once that is known.
    """

    def __init__(
        self,
        device: torch.device,
        recorder: Recorder,
        step: Callable[[Batch], Done],
        generators: Callable[[], Iterable[torch.Generator]],
    ) -> None:
        self._device = device
        self._recorder = recorder
        self._step = step
        self._generators = generators
        self._kinds: dict[Hashable, _Kind] = {}
        self.refused: str | None = None

    @property
    def recorded(self) -> int:
        """How many kinds of steps are replayed."""
        return sum(kind.recording is not None for kind in self._kinds.values())

    def __call__(self, batch: Batch, key: Hashable) -> Done:
        """One step.

        Args:
            batch: on the device; it is left as it is.
            key: equal for steps that do the same on batches of the same shape.
        """
        kind = None if self.refused else self._kind(batch, key)
        if kind is None:
            return self._step(batch)
        _copy(batch, kind.batch)
        if kind.recording is None and kind.runs >= WARM_UP:
            self._record(kind)
        if kind.recording is None:
            return self._run(kind)
        kind.recording.replay()
        done = kind.recording.done
        # The next replay writes to the same memory.
        return replace(done, losses=done.losses.clone())

    def _kind(self, batch: Batch, key: Hashable) -> _Kind | None:
        whole = (key, _shape(batch))
        if whole not in self._kinds:
            if len(self._kinds) == _MOST:
                return None
            places = map_tensors(torch.empty_like, (batch.inputs, batch.targets))
            self._kinds[whole] = _Kind(Batch(places[0], places[1], batch.size, None))
        return self._kinds[whole]

    def _run(self, kind: _Kind) -> Done:
        kind.runs += 1

        if self.refused:
            return self._step(kind.batch)
        if kind.runs < WARM_UP:
            return self._recorder.warm(lambda: self._step(kind.batch))
        # The last before it is recorded: by now what is kept was made.
        with HostWatch(self._device) as watch:
            done = self._recorder.warm(lambda: self._step(kind.batch))
        if watch.found is not None:
            self.refused = f"a step needs the host: {watch.found}"
        return done

    def _record(self, kind: _Kind) -> None:
        try:
            made = self._recorder.record(lambda: self._step(kind.batch), list(self._generators()))
            for error in made.done.failed.values():
                raise error  # of recording it: the steps before had none
            kind.recording = made
        except Exception as error:
            reraise_memory(error)
            self.refused = describe_error(error).splitlines()[0]


def _copy(batch: Batch, places: Batch) -> None:
    given = leaves((batch.inputs, batch.targets))
    ours = leaves((places.inputs, places.targets))
    for value, place in zip(given, ours, strict=True):
        if isinstance(place, Tensor):
            place.copy_(value, non_blocking=True)


def _shape(batch: Batch) -> Hashable:
    """All of a batch but the values of its tensors."""
    found: list[Hashable] = []
    for leaf in leaves((batch.inputs, batch.targets)):
        if isinstance(leaf, Tensor):
            found.append((leaf.shape, leaf.stride(), leaf.dtype))
        else:
            found.append(repr(leaf))
    return (batch.size, *found)
