"""Finding the user's line that made a call."""

from __future__ import annotations

import os
import sys
from types import CodeType, FrameType, TracebackType

import torch

_LIBRARY = tuple(
    os.path.join(os.path.dirname(os.path.abspath(path)), "")
    for path in (torch.__file__, os.path.dirname(os.path.dirname(__file__)))
)
# A frame of this code between a call and its module: the call is inside a custom function.
_CUSTOM_APPLY: CodeType = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]


class CallSites:
    """Walks Python frames cheaply; remembers which code belongs to torch or to retiarii.

    Args:
        stop: the code of the function through which modules are called.
    """

    def __init__(self, stop: CodeType) -> None:
        self._stop = stop
        self._library: dict[CodeType, bool] = {}

    def here(self) -> tuple[str | None, bool]:
        """The innermost line of the user's, and whether a custom autograd function is running.

        The line is ``None`` where only torch's own code runs inside the innermost module.
        """
        frame: FrameType | None = sys._getframe(2)
        found: str | None = None
        while frame is not None:
            code = frame.f_code
            if code is self._stop:
                return found, False
            if code is _CUSTOM_APPLY:
                return found, True
            if found is None and not self._is_library(code):
                found = place(code.co_filename, frame.f_lineno)
            frame = frame.f_back
        return found, False

    def of_traceback(self, trace: TracebackType | None) -> str | None:
        """The innermost line of the user's in a traceback."""
        found = None
        while trace is not None:
            code = trace.tb_frame.f_code
            if not self._is_library(code):
                found = place(code.co_filename, trace.tb_lineno)
            trace = trace.tb_next
        return found

    def _is_library(self, code: CodeType) -> bool:
        known = self._library.get(code)
        if known is None:
            name = code.co_filename
            known = self._library[code] = name.startswith(_LIBRARY) or name.startswith("<frozen")
        return known


def place(filename: str, line: int) -> str:
    """``file:line``, the file relative to the working directory where it lies inside."""
    inside = os.path.join(os.getcwd(), "")
    return f"{filename.removeprefix(inside)}:{line}"
