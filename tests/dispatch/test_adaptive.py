"""What the adaptive policy decides, state by state."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from retiarii.dispatch.adaptive import Adaptive
from retiarii.dispatch.speeds import Speeds
from retiarii.dispatch.state import Launch, Leave, Running, State, Waiting
from retiarii.runtime.executor import Device

GPUS = tuple(Device(f"cuda:{i}", "gpu") for i in range(4))


def waiting(count: int, first: int = 0, kin: object = "a", since: float = 0.0) -> list[Waiting]:
    return [Waiting(n, since, kin) for n in range(first, first + count)]  # type: ignore[arg-type]


def running(
    job: int, device: Device, count: int, size: int | None = None, since: float = 0.0
) -> Running:
    trials = tuple(range(1000 * job, 1000 * job + count))
    return Running(job, device.name, trials, size or count, since, "a")


def state(
    devices: tuple[Device, ...] = GPUS,
    trials: list[Waiting] | None = None,
    cohorts: tuple[Running, ...] = (),
    rates: dict[int, float] | None = None,
    now: float = 100.0,
    **more: object,
) -> State:
    speeds = Speeds({"gpu": rates} if rates else {})
    return State(now, devices, tuple(trials or ()), cohorts, speeds, **more)  # type: ignore[arg-type]


def sizes(actions: tuple[object, ...]) -> list[int]:
    return [len(a.trials) for a in actions if isinstance(a, Launch)]


def test_nothing_waits() -> None:
    assert Adaptive()(state()) == ()
    assert Adaptive()(state(cohorts=(running(1, GPUS[0], 3),))) == ()


def test_no_device_idles_where_trials_wait() -> None:
    assert sizes(Adaptive(first=16)(state(trials=waiting(16)))) == [4, 4, 4, 4]
    assert sizes(Adaptive(first=16)(state(trials=waiting(3)))) == [1, 1, 1]
    assert sizes(Adaptive(first=2)(state(trials=waiting(100)))) == [2, 2, 2, 2]


def test_oldest_first_and_in_order() -> None:
    late = waiting(2, first=10, kin="b", since=1.0)
    actions = Adaptive(first=2)(state(GPUS[:1], [*waiting(3, since=2.0), *late]))
    assert actions == (Launch("cuda:0", (10, 11)),)


def test_only_kin_together_and_the_lonely_alone() -> None:
    trials = [*waiting(2), *waiting(2, first=5, kin="b"), *waiting(2, first=8, kin=None)]
    actions = Adaptive()(state(trials=trials))
    assert [a.trials for a in actions if isinstance(a, Launch)] == [(0, 1), (5, 6), (8,), (9,)]


def test_cohorts_grow_while_that_gains() -> None:
    one = GPUS[:1]
    grow = Adaptive(first=16, most=64)
    assert sizes(grow(state(one, waiting(100)))) == [16]
    assert sizes(grow(state(one, waiting(100), rates={16: 10.0}))) == [32]
    assert sizes(grow(state(one, waiting(100), rates={16: 10.0, 32: 15.0}))) == [64]
    assert sizes(grow(state(one, waiting(100), rates={16: 10.0, 32: 15.0, 64: 15.1}))) == [32]
    assert sizes(grow(state(one, waiting(100), rates={8: 10.0, 16: 10.0}))) == [8]


def test_memory_and_what_is_known_to_fit() -> None:
    small = (Device("cuda:0", "gpu", memory=10),)
    heavy = [Waiting(n, 0.0, "a", memory=3) for n in range(8)]
    assert sizes(Adaptive()(state(small, heavy))) == [3]
    giants = [Waiting(n, 0.0, "a", memory=30) for n in range(8)]
    assert sizes(Adaptive()(state(small, giants))) == [1]  # it may fit all the same
    assert sizes(Adaptive()(state(GPUS[:1], waiting(50), fits={"gpu": 5}))) == [5]


RATES = {1: 1.0, 2: 1.9, 4: 3.5, 8: 6.0, 16: 10.0}


def test_two_half_empty_cohorts_become_one() -> None:
    two = GPUS[:2]
    cohorts = (running(1, two[0], 4, size=16), running(2, two[1], 4, size=16))
    other = waiting(4, first=90, kin="b")
    actions = Adaptive()(state(two, other, cohorts, {**RATES, 4: 2.0}))
    assert [a.job for a in actions if isinstance(a, Leave)] == [1, 2]
    # Not where nobody waits, nor soon after a change, nor where it is no faster.
    assert Adaptive()(state(two, [], cohorts, {**RATES, 4: 2.0})) == ()
    assert Adaptive()(state(two, other, cohorts, {**RATES, 4: 2.0}, now=5.0)) == ()
    assert Adaptive()(state(two, other, cohorts, {1: 1.0, 4: 4.0, 8: 4.1})) == ()
    full = (running(1, two[0], 9, size=16), running(2, two[1], 9, size=16))
    assert Adaptive()(state(two, other, full, {**RATES, 4: 2.0})) == ()


def test_a_half_empty_cohort_takes_in_kin() -> None:
    one = GPUS[:1]
    cohorts = (running(1, one[0], 2, size=16),)
    (leave,) = Adaptive()(state(one, waiting(12, first=50), cohorts, RATES))
    assert leave == Leave(1, "room for trials that wait")
    assert Adaptive()(state(one, waiting(12, first=50, kin="b"), cohorts, RATES)) == ()
    flat = dict.fromkeys(RATES, 1.0)
    assert Adaptive()(state(one, waiting(12, first=50), cohorts, flat)) == ()


def test_one_change_at_a_time() -> None:
    one = GPUS[:1]
    leaving = replace(running(1, one[0], 2, size=16), leaving=True)
    assert Adaptive()(state(one, waiting(12, first=50), (leaving,), RATES)) == ()


def test_faster_devices_get_more() -> None:
    both = (Device("new", "gpu"), Device("old", "old"))
    speeds = Speeds({"gpu": {16: 9.0}, "old": {16: 3.0}})
    actions = Adaptive()(State(0.0, both, tuple(waiting(16)), (), speeds))
    assert sizes(actions) == [12, 4]
    half_known = Speeds({"gpu": {16: 9.0}})
    assert sizes(Adaptive()(State(0.0, both, tuple(waiting(16)), (), half_known))) == [8, 8]


def test_idle_devices_take_a_part() -> None:
    """Of the cohort that holds up the rest, where smaller cohorts have shorter epochs."""
    cohorts = (running(1, GPUS[0], 4, size=16, since=95.0), running(2, GPUS[1], 12, size=16))
    assert Adaptive()(state(GPUS, [], cohorts, RATES)) == (Leave(2, "idle devices take a part"),)
    linear = {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0, 16: 16.0}  # an epoch of any size takes as long
    assert Adaptive()(state(GPUS, [], cohorts, linear)) == ()
    assert Adaptive()(state(GPUS, [], cohorts, RATES, now=5.0)) == ()
    assert Adaptive()(state(GPUS, [], cohorts, None)) == ()
    lonely = (running(1, GPUS[0], 1, size=16),)
    assert Adaptive()(state(GPUS, [], lonely, RATES)) == ()
    assert Adaptive()(state(GPUS[:2], [], cohorts, RATES)) == ()  # none is idle


def test_time_is_sliced_when_asked() -> None:
    two = GPUS[:2]
    cohorts = (running(1, two[0], 16, since=50.0), running(2, two[1], 16, since=20.0))
    sliced = Adaptive(quantum=30.0)
    (leave,) = sliced(state(two, waiting(4, first=50, since=60.0), cohorts, RATES))
    assert isinstance(leave, Leave)
    assert leave.job == 2
    assert sliced(state(two, waiting(4, first=50, since=80.0), cohorts, RATES)) == ()
    assert Adaptive()(state(two, waiting(4, first=50, since=60.0), cohorts, RATES)) == ()


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 50)), max_size=40),
    st.integers(0, 4),
    st.integers(0, 4),
    st.dictionaries(st.sampled_from([1, 2, 4, 8, 16, 32]), st.floats(0.1, 100), max_size=6),
    st.integers(1, 20),
)
def test_whatever_the_state(
    trials: list[tuple[str | None, int]],
    busy: int,
    devices: int,
    rates: dict[int, float],
    fits: int,
) -> None:
    """Each trial goes to one idle device at most, with its kin, and no idle device is left."""
    here = GPUS[:devices]
    cohorts = tuple(running(i + 1, here[i], 3, size=8) for i in range(min(busy, devices)))
    queue = [Waiting(n, float(since), kin) for n, (kin, since) in enumerate(trials)]
    before = state(here, queue, cohorts, rates, fits={"gpu": fits})
    launches = [a for a in Adaptive()(before) if isinstance(a, Launch)]
    launched = [number for launch in launches for number in launch.trials]
    assert len(launched) == len(set(launched))
    idle = [device.name for device in before.idle()]
    assert [launch.device for launch in launches] == idle[: len(launches)]
    assert len(launches) == len(idle) or len(launched) == len(queue)
    for launch in launches:
        assert 0 < len(launch.trials) <= fits
        kin = {queue[number].kin for number in launch.trials}
        assert len(kin) == 1
        assert kin != {None} or len(launch.trials) == 1
