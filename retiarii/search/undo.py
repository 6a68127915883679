"""Leaves no trace of a search that a user's mistake ended before it had begun."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from retiarii.errors import RetiariiError, SchedulerError
from retiarii.runtime.place import DATABASE
from retiarii.runtime.store import Store
from retiarii.search.beginning import carried_of


class Undo:
    """Called with the error that ends a search; removes its store if that is new and empty.

    A search without a single trial can only be begun again, with the mistake mended; and one whose
    scheduler has nothing to go by can only be begun again too.

    Args:
        directory: of the search.
        made: whether the directory was made for it.
        store: of the search, made for it.
    """

    def __init__(self, directory: Path, made: bool, store: Store) -> None:
        self._directory = directory
        self._made = made
        self._store = store

    def __call__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        del kind, trace
        if isinstance(error, RetiariiError) and self._nothing_lost(error):
            self._store.close()
            for file in self._directory.glob(f"{DATABASE}*"):
                file.unlink(missing_ok=True)
            shutil.rmtree(self._directory / "trials", ignore_errors=True)
            if self._made:
                (self._directory / "lock").unlink(missing_ok=True)
                with suppress(OSError):  # somebody has put something there
                    self._directory.rmdir()
        return False

    def _nothing_lost(self, error: RetiariiError) -> bool:
        if isinstance(error, SchedulerError):
            return True
        return self._store.count() == len(carried_of(self._store))
