"""The policy of `--cohort auto`: cohorts as large as pays, on every device that there is.

After Gandiva (Xiao et al., OSDI 2018): what was measured while running decides. There a job is a
model; here it is a cohort, which can also be made larger, smaller, or one out of two.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from retiarii.dispatch.state import Action, Launch, Leave, Running, State, Waiting
from retiarii.runtime.executor import Device


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Decides by what was measured.

    Attributes:
        first: how many trials a cohort has before anything was measured.
        most: never more than this.
        settle: seconds for which a cohort is left alone before it is joined with another, so
            that merging again is paid for.
        gain: how much faster, all in all, training must become for two cohorts to be joined.
        quantum: seconds after which a cohort makes room for trials that wait and have not begun;
            ``None``: never.
    """

    first: int = 16
    most: int = 256
    settle: float = 10.0
    gain: float = 1.1
    quantum: float | None = None

    def __call__(self, state: State) -> tuple[Action, ...]:
        launches = tuple(self._launches(state))
        taken = {number for launch in launches for number in launch.trials}
        left = [each for each in state.waiting if each.number not in taken]
        if any(cohort.leaving for cohort in state.running):
            return launches  # one change at a time: what leaves has not come back yet
        moves = self._joins(state, left) or self._slices(state, left)
        return (*launches, *(moves or self._splits(state, len(launches))))

    # -- trials that wait, and devices that are idle

    def _launches(self, state: State) -> Iterator[Launch]:
        queues = _by_kin(state.waiting)
        idle = list(state.idle())
        while queues and idle:
            # Whoever has waited longest is first; then comes who can be trained with them.
            queue = min(queues, key=lambda each: (each[0].since, each[0].number))
            queues.remove(queue)
            # What else waits needs devices too; the rest is for these, evenly.
            mine = idle[: max(1, len(idle) - len(queues))]
            share = len(queue) * self._part(state, mine)
            device = idle.pop(0)
            size = min(self._size(state, device, queue), max(1, round(share)))
            yield Launch(device.name, tuple(each.number for each in queue[:size]))
            if queue[size:]:
                queues.append(queue[size:])

    def _size(self, state: State, device: Device, queue: Sequence[Waiting]) -> int:
        if queue[0].kin is None:
            return 1
        most = min(self.most, state.fits.get(device.kind, self.most))
        if device.memory is not None:
            room, count = device.memory, 0
            for each in queue:
                room -= each.memory
                if room < 0:
                    break
                count += 1
            most = min(most, max(1, count))
        return state.speeds.target(device.kind, self.first, most)

    # -- cohorts that have become small

    def _joins(self, state: State, left: Sequence[Waiting]) -> tuple[Leave, ...]:
        """Two half-empty cohorts that become one, where others wait for the device."""
        if not left or state.idle():
            return ()
        settled = [
            cohort
            for cohort in state.running
            if state.now - cohort.since >= self.settle and len(cohort.trials) * 2 <= cohort.size
        ]
        settled.sort(key=lambda cohort: (len(cohort.trials), cohort.job))
        alone = next((c for c in settled if self._refills(state, c, left)), None)
        if alone is not None:
            return (Leave(alone.job, "room for trials that wait"),)
        for index, one in enumerate(settled):
            for other in settled[index + 1 :]:
                if one.kin == other.kin and one.kin is not None and self._pays(state, one, other):
                    why = "one of two half-empty cohorts"
                    return (Leave(one.job, why), Leave(other.job, why))
        return ()

    def _refills(self, state: State, cohort: Running, left: Sequence[Waiting]) -> bool:
        """Whether trials that wait can take the places of those that have ended."""
        kin = sum(each.kin == cohort.kin for each in left)
        kind = state.kind_of(cohort.device)
        if kind is None or cohort.kin is None or not kin:
            return False
        now = state.speeds.rate(kind, len(cohort.trials))
        then = state.speeds.rate(kind, min(cohort.size, len(cohort.trials) + kin))
        return now is not None and then is not None and then >= self.gain * now

    def _pays(self, state: State, one: Running, other: Running) -> bool:
        """Whether one cohort of both, and the first of those that wait, is faster than they are."""
        here, there = state.kind_of(one.device), state.kind_of(other.device)
        if here is None or there is None:
            return False
        together = len(one.trials) + len(other.trials)
        if together > state.fits.get(here, self.most):
            return False
        rates = (
            state.speeds.rate(here, together),
            state.speeds.rate(there, 1),
            state.speeds.rate(here, len(one.trials)),
            state.speeds.rate(there, len(other.trials)),
        )
        known = [rate for rate in rates if rate is not None]
        return len(known) == len(rates) and known[0] + known[1] >= self.gain * (known[2] + known[3])

    # -- devices that have nothing to do

    def _splits(self, state: State, launched: int) -> tuple[Leave, ...]:
        """The cohorts that hold up the rest, where idle devices would be faster with a part."""
        idle = list(state.idle()[launched:])
        if not idle or state.waiting:
            return ()
        settled = [
            (epoch, cohort)
            for cohort in state.running
            if state.now - cohort.since >= self.settle
            and len(cohort.trials) > 1
            and cohort.kin is not None
            and (epoch := self._epoch(state, cohort)) is not None
        ]
        settled.sort(key=lambda each: (-each[0], each[1].job))
        share = max(1, len(idle) // max(1, len(settled)))
        leaving = []
        for epoch, cohort in settled:
            helpers = idle[: min(share, len(cohort.trials) - 1)]
            if helpers and epoch >= self.gain**2 * self._parted(state, cohort, helpers):
                leaving.append(Leave(cohort.job, "idle devices take a part"))
                del idle[: len(helpers)]
        return tuple(leaving)

    def _epoch(self, state: State, cohort: Running) -> float | None:
        """Seconds of a cohort's epoch, if something is known of its device."""
        kind = state.kind_of(cohort.device)
        rate = None if kind is None else state.speeds.rate(kind, len(cohort.trials))
        return None if rate is None else len(cohort.trials) / rate

    def _parted(self, state: State, cohort: Running, helpers: Sequence[Device]) -> float:
        """The same, where other devices take parts of it; infinite if one is not known."""
        size = -(-len(cohort.trials) // (len(helpers) + 1))
        kinds = [state.kind_of(cohort.device), *(device.kind for device in helpers)]
        rates = [None if kind is None else state.speeds.rate(kind, size) for kind in kinds]
        known = [rate for rate in rates if rate is not None]
        return size / min(known) if len(known) == len(rates) else math.inf

    def _part(self, state: State, devices: Sequence[Device]) -> float:
        """The part of the work that is the first device's, by how fast they are."""
        rates = [state.speeds.rate(device.kind, self.first) for device in devices]
        known = [rate for rate in rates if rate is not None]
        return known[0] / sum(known) if len(known) == len(rates) else 1 / len(rates)

    # -- more trials than fit

    def _slices(self, state: State, left: Sequence[Waiting]) -> tuple[Leave, ...]:
        """A cohort that has had its time makes room for trials that have had none."""
        if self.quantum is None or state.idle():
            return ()
        fresh = [each for each in left if state.now - each.since >= self.quantum]
        longest = min(state.running, key=lambda cohort: (cohort.since, cohort.job), default=None)
        if not fresh or longest is None or state.now - longest.since < self.quantum:
            return ()
        return (Leave(longest.job, "its time is up, and others wait"),)


def _by_kin(waiting: Sequence[Waiting]) -> list[list[Waiting]]:
    """Trials in groups that may be trained together; each group in order."""
    groups: dict[Hashable, list[Waiting]] = {}
    for each in waiting:
        key = ("alone", each.number) if each.kin is None else ("kin", each.kin)
        groups.setdefault(key, []).append(each)
    return list(groups.values())
