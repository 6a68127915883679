"""Python's garbage collector while a forest is made: switched off."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Collects no cycles inside.

    The collector looks through all objects each time that many new ones were made. A merge of
    1,000 models makes millions, and drops few: half of its time went there.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
