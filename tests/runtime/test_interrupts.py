from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from retiarii.runtime.interrupts import Interrupts


def test_the_first_is_noted_and_the_second_raised(capfd: pytest.CaptureFixture[str]) -> None:
    with Interrupts(gentle=True) as interrupts:
        assert not interrupts.asked
        signal.raise_signal(signal.SIGINT)
        assert interrupts.asked
        said = "finishing the epoch; Ctrl-C again stops at once"
        assert capfd.readouterr().err.split("\n") == ["", said, ""]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_with_nothing_to_wait_for_the_first_is_raised() -> None:
    with Interrupts(gentle=False) as interrupts, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert not interrupts.asked


def test_what_others_have_set_stays(capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with Interrupts(gentle=True) as interrupts:
            signal.raise_signal(signal.SIGINT)
            assert not interrupts.asked
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().err == ""


def test_in_another_thread_nothing_is_changed() -> None:
    found: list[object] = []

    def look() -> None:
        with Interrupts(gentle=True):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


def test_an_error_inside_restores_it() -> None:
    with pytest.raises(ValueError, match="so"), Interrupts(gentle=True):
        raise ValueError("so")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_no_worker_starts_with_interrupts() -> None:
    """Not the first one either: with it Python starts a helper, and unblocks what was blocked."""
    script = """
    import signal
    from multiprocessing import resource_tracker
    from retiarii.runtime.worker import without_interrupts

    with without_interrupts():
        resource_tracker.getfd()  # as the start of a process does
        print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]
