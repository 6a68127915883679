"""Trials that go on from the weights of earlier ones: who from whom, and which weights are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from retiarii.search.state import drop_checkpoints, trial_directory
from retiarii.training.stage import Stage

if TYPE_CHECKING:
    from retiarii.runtime.store import Store
    from retiarii.search_space import Point
    from retiarii.strategies.base import Strategy

_STAGE = "stage."


class Lineage:
    """Where the trials of one search go on from.

    Args:
        strategy: says so, and which trials it is done with.
        store: keeps it.
        directory: the search's, with the trials' checkpoints.
    """

    def __init__(self, strategy: Strategy, store: Store, directory: Path) -> None:
        self._strategy = strategy
        self._store = store
        self._directory = directory

    def note(self, number: int, point: Point) -> None:
        """Writes down which part of a training a new trial is, if it is not all of it."""
        if point.stage is not None:
            self._store.set_meta(**{f"{_STAGE}{number}": list(point.stage)})

    def parent(self, point: Point) -> Path | None:
        """The directory of the checkpoint that a trial goes on from; ``None``: it begins."""
        if point.stage is None or point.stage.parent is None:
            return None
        return self._place(point.stage.parent)

    def release(self) -> None:
        """Deletes the checkpoints of trials that nothing will go on from."""
        for number in self._strategy.released():
            row = self._store.row(number)
            if row is not None and row.same_as is None:
                drop_checkpoints(self._place(number))

    def _place(self, number: int) -> Path:
        row = self._store.row(number)
        if row is not None and row.same_as is not None:
            row = self._store.row(row.same_as)
        assert row is not None
        return trial_directory(self._directory, row.id, row.attempt)


def stages(store: Store) -> dict[int, Stage]:
    """Trial -> which part of a training it is, of all that are not all of it."""
    found = store.metas(_STAGE)
    return {int(key.removeprefix(_STAGE)): Stage(*stage) for key, stage in found.items()}
