"""Where a search of ours spends its time: a look at its stack every few milliseconds."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, MappingProxyType

EVERY = 0.005

LOADING = "libraries, data, space"
REST = "the rest"

# What a function stands for. The innermost one on the stack counts.
PHASES: Mapping[str, str] = MappingProxyType(
    {
        "retiarii.commands.run:run": LOADING,
        "retiarii.experiment:Experiment.run": REST,
        "retiarii.search.explorer:Explorer._propose": "proposing",
        "retiarii.training.cohort.session:_Session._member": "building models",
        "retiarii.optimizer.merged:MergedModel.__init__": "merging, to train",
        "retiarii.optimizer.choose:choose": "measuring what to fuse",
        "retiarii.optimizer.merged:MergedModel.program": "merging, to score",
        "retiarii.training.cohort.trainer:CohortTrainer._train_epoch": "training",
        "retiarii.training.cohort.trainer:CohortTrainer._validate": "scoring",
        "retiarii.training.loop:EpochTrainer._train_epoch": "training",
        "retiarii.training.loop:EpochTrainer._validate": "scoring",
        "retiarii.training.record:Record.add": "checkpoints and store",
        "retiarii.training.record:Record.end": "checkpoints and store",
    }
)


class Looks:
    """Seconds a phase.

    Attributes:
        seconds: phase -> seconds of wall-clock.
    """

    def __init__(self) -> None:
        self._counted: Counter[str] = Counter()
        self._last = time.perf_counter()
        self._known = {_place(name): phase for name, phase in PHASES.items()}

    def look(self, _signal: int, frame: FrameType | None) -> None:
        """Notes which phase the stack is in, for the time since the last look."""
        now = time.perf_counter()
        while frame is not None:
            code = frame.f_code
            phase = self._known.get((frame.f_globals.get("__name__", ""), code.co_qualname))
            if phase is not None:
                break
            frame = frame.f_back
        else:
            phase = LOADING  # the command line itself
        self._counted[phase] += int((now - self._last) * 1e9)
        self._last = now

    @property
    def seconds(self) -> dict[str, float]:
        return {phase: ns / 1e9 for phase, ns in self._counted.items()}


def _place(name: str) -> tuple[str, str]:
    module, _, function = name.partition(":")
    return module, function


@contextmanager
def looking() -> Iterator[Looks]:
    """Looks at the main thread's stack until the end."""
    looks = Looks()
    before = signal.signal(signal.SIGALRM, looks.look)
    signal.setitimer(signal.ITIMER_REAL, EVERY, EVERY)
    try:
        yield looks
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
