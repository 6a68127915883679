"""A space whose size is known otherwise than by counting its choices as they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from retiarii.ir.graph import Pattern
from retiarii.mutators.mutator import Mutator
from retiarii.space import ModelSpace


class CountedSpace(ModelSpace):
    """A `ModelSpace` that is counted by a shorter way, for as long as nothing is added to it."""

    _short: Callable[[], int] | None = None

    def counted_by(self, short: Callable[[], int]) -> CountedSpace:
        """Lets ``short`` answer ``count()``: it must be exact for the space as it is now."""
        self._short = short
        return self

    def apply_mutator(
        self, target: Pattern, mutator: Mutator, *, shared: bool = False, name: str | None = None
    ) -> ModelSpace:
        self._short = None
        return super().apply_mutator(target, mutator, shared=shared, name=name)

    def require(self, test: Callable[[Any], Any], *, name: str | None = None) -> ModelSpace:
        self._short = None
        return super().require(test, name=name)

    def count(self) -> int:
        """See `ModelSpace.count`; the same number, sooner."""
        return super().count() if self._short is None else self._short()
