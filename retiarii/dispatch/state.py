"""What a dispatch policy sees, and what it may answer: values, and nothing that acts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from retiarii.dispatch.speeds import Speeds
from retiarii.runtime.executor import Device


@dataclass(frozen=True, slots=True)
class Waiting:
    """A trial that no device trains at the moment.

    Attributes:
        number: its number in the search.
        since: when it began to wait, in seconds of the state's clock.
        kin: trials of equal ``kin`` may be trained together; ``None``: only by itself.
        memory: bytes that it takes in a cohort; 0 where that is not known.
        begun: whether it was trained for a while before.
    """

    number: int
    since: float
    kin: Hashable
    memory: int = 0
    begun: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """A cohort that a device trains.

    Attributes:
        job: its number.
        device: the device's name.
        trials: those of its trials that have not ended.
        size: how many it began with.
        since: when it began.
        kin: as of `Waiting`.
        leaving: whether it was asked to give its device back.
        memory: bytes that one trial of it takes; 0 where that is not known.
    """

    job: int
    device: str
    trials: tuple[int, ...]
    size: int
    since: float
    kin: Hashable
    leaving: bool = False
    memory: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a policy goes by.

    Attributes:
        now: seconds, of a clock that never goes back.
        devices: where cohorts can run.
        waiting: in the order in which they came.
        running: the cohorts under way.
        speeds: what was measured so far.
        fits: device kind -> the most trials that are known to fit its memory together.
    """

    now: float
    devices: tuple[Device, ...]
    waiting: tuple[Waiting, ...]
    running: tuple[Running, ...]
    speeds: Speeds
    fits: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    _kinds: dict[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_kinds", {d.name: d.kind for d in self.devices})

    def idle(self) -> tuple[Device, ...]:
        """Devices without a cohort, in order."""
        busy = {cohort.device for cohort in self.running}
        return tuple(device for device in self.devices if device.name not in busy)

    def kind_of(self, device: str) -> str | None:
        """The kind of a device by its name; ``None`` once it has gone."""
        return self._kinds.get(device)


@dataclass(frozen=True, slots=True)
class Launch:
    """Train these trials together, on this device."""

    device: str
    trials: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Leave:
    """Ask a cohort to give its device back after the epoch at hand; why, in a few words."""

    job: int
    why: str


Action = Launch | Leave
Policy = Callable[[State], tuple[Action, ...]]
