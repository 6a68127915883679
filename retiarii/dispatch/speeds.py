"""How fast cohorts of a size train on a kind of device, as measured so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# A new measurement counts this much against all before it.
_WEIGHT = 0.3
# Doubling a cohort must gain this much to be worth it: beyond, trials wait longer for less.
_GAIN = 1.05


@dataclass(frozen=True, slots=True)
class Speeds:
    """Trial-epochs a second, by device kind and cohort size. Immutable: `add` makes another.

    Attributes:
        rates: device kind -> size -> trial-epochs a second of the whole cohort.
    """

    rates: Mapping[str, Mapping[int, float]] = field(default_factory=lambda: MappingProxyType({}))

    def add(self, kind: str, size: int, rate: float) -> Speeds:
        """With one more measurement."""
        of_kind = dict(self.rates.get(kind, {}))
        before = of_kind.get(size)
        of_kind[size] = rate if before is None else before + _WEIGHT * (rate - before)
        return Speeds(MappingProxyType({**self.rates, kind: MappingProxyType(of_kind)}))

    def rate(self, kind: str, size: int) -> float | None:
        """The rate of a size: measured, or on the line between the two next to it.

        Beyond the largest that was measured, a cohort is taken to gain nothing more; below the
        smallest, a trial to cost what it costs there. ``None`` without any measurement.
        """
        known = self.rates.get(kind)
        if not known:
            return None
        if size in known:
            return known[size]
        below = max((s for s in known if s < size), default=None)
        above = min((s for s in known if s > size), default=None)
        if below is None:
            assert above is not None
            return known[above] * size / above
        if above is None:
            return known[below]
        share = (size - below) / (above - below)
        return known[below] + share * (known[above] - known[below])

    def target(self, kind: str, first: int, most: int) -> int:
        """How many trials the next cohort should have.

        It doubles for as long as doubling was seen to gain, and goes back where it did not.

        Args:
            kind: the device's.
            first: where to begin.
            most: never more than this.
        """
        known = self.rates.get(kind, {})
        size = max(1, min(first, most))
        while size > 1 and size in known and _loses(known, size // 2, size):
            size //= 2
        while size * 2 <= most and size in known and not _loses(known, size, size * 2):
            size *= 2
        return size


def _loses(known: Mapping[int, float], smaller: int, larger: int) -> bool:
    """Whether the larger size was seen not to gain over the smaller one."""
    if smaller not in known or larger not in known:
        return False
    return known[larger] < _GAIN * known[smaller]
