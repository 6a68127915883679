"""Functions of ``torch.jit.script`` in a trace: their Python code runs, so that calls are seen."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Where torch keeps the function that a scripted one was made from (for its own compiler).
_ORIGINAL = "_torchdynamo_inline"


class _Call:
    """What a call of a scripted function does meanwhile; in other threads, what it always does."""

    def __init__(self, usual: Any) -> None:
        self.usual = usual
        self.thread: int | None = threading.get_ident()

    def __get__(self, scripted: Any, kind: Any = None) -> Any:
        original = getattr(scripted, _ORIGINAL, None)
        if original is None or self.thread != threading.get_ident():
            return self.usual.__get__(scripted, kind)
        return original


@contextmanager
def scripts_opened() -> Iterator[None]:
    """Lets scripted functions whose Python code is at hand run that, in this thread."""
    kind: Any = torch.jit.ScriptFunction
    call = _Call(vars(kind)["__call__"])
    kind.__call__ = call
    try:
        yield
    finally:
        call.thread = None
        # Another thread may have put its own before ours: ours goes when that one does.
        here = vars(kind)["__call__"]
        while isinstance(here, _Call) and here.thread is None:
            here = here.usual
        kind.__call__ = here
