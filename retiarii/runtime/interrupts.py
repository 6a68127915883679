"""Ctrl-C: the first lets the epoch at hand end, the second ends all at once."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Final

from retiarii.runtime.executor import Deliver, Runner

_SAID: Final = b"\nfinishing the epoch; Ctrl-C again stops at once\n"
_POLL_SECONDS = 1.0


class Interrupts:
    """Within it Ctrl-C is noted, and raised as usual only when it comes again.

    Other threads than the main one cannot do that, and where somebody else handles Ctrl-C or
    ignores it, that stays as it is.

    Args:
        gentle: whether there is anything to wait for; without that the first one is raised.
    """

    def __init__(self, gentle: bool) -> None:
        self._gentle = gentle
        self._before: Any = None
        self.asked = False

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()
        if self._gentle and main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            signal.default_int_handler(number, frame)
        self.asked = True
        # Whatever was being printed when it came: this is whole, and waits for nothing.
        with suppress(OSError):
            os.write(2, _SAID)

    def wind_down(self, runner: Runner, deliver: Deliver) -> None:
        """Waits until all cohorts have given their devices back."""
        runner.rest()
        while runner.busy():
            runner.poll(_POLL_SECONDS, deliver)
