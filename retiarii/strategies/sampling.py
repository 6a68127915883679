"""Drawing and moving raw values: the only place that knows the kinds of domains apart.

Numeric domains are seen in *unit space*, [0, 1], linear or logarithmic. A whole number owns the
interval of half a unit to both sides, so that both ends are as likely as the rest.
"""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from random import Random

from retiarii.mutators.choice import Categorical, Domain, Integer, Raw, Real

# Draws before the values that are left are counted out; by then most are closed.
_DRAWS = 16


def size(domain: Domain) -> int | None:
    """How many values a domain has; ``None`` where they are a continuum."""
    match domain:
        case Categorical(n):
            return n
        case Integer(low, high):
            return high - low + 1
        case Real(low, high):
            return 1 if low == high else None


def first(domain: Domain) -> Raw:
    """The value that comes first in order."""
    return 0 if isinstance(domain, Categorical) else domain.low


def last(domain: Domain) -> Raw:
    """The value that comes last in order."""
    return domain.n - 1 if isinstance(domain, Categorical) else domain.high


def sample(domain: Domain, rng: Random) -> Raw:
    """A value drawn as the domain says: uniform, or uniform in the logarithm."""
    if isinstance(domain, Categorical):
        return rng.randrange(domain.n)
    return from_unit(domain, rng.random())


def sample_open(domain: Domain, rng: Random, closed: AbstractSet[Raw]) -> Raw:
    """A value that is not in ``closed``, drawn as the domain says.

    Where nearly all are closed, each of those that are left is as likely. ``closed`` holds values
    of the domain, and not all of them.
    """
    for _ in range(_DRAWS if closed else 1):
        raw = sample(domain, rng)
        if raw not in closed:
            return raw
    count = size(domain)
    if count is None:
        # A continuum: a value drawn before comes up again only where floats are that sparse.
        return sample(domain, rng)
    # The k-th open value, found from the closed ones: the domain itself may be far larger.
    raw = first(domain) + rng.randrange(count - len(closed))
    for taken in sorted(closed):
        if taken > raw:
            break
        raw += 1
    return raw


def to_unit(domain: Real | Integer, raw: Raw) -> float:
    """Where ``raw`` lies in unit space."""
    low, high = _ends(domain)
    if low == high:
        return 0.5
    position = math.log(raw) if domain.log else float(raw)
    return min(max((position - low) / (high - low), 0.0), 1.0)


def from_unit(domain: Real | Integer, unit: float) -> Raw:
    """The value at ``unit`` in [0, 1]; always inside of the domain."""
    low, high = _ends(domain)
    position = low + unit * (high - low)
    number = math.exp(position) if domain.log else position
    if isinstance(domain, Integer):
        return min(max(math.floor(number + 0.5), domain.low), domain.high)
    return min(max(number, domain.low), domain.high)


def perturb(domain: Domain, raw: Raw, rng: Random, scale: float) -> Raw:
    """Another value than ``raw``: any other option, or a number near by.

    Numbers move by a Gaussian of standard deviation ``scale`` in unit space, reflected at the ends.
    A domain of a single value gives that value.
    """
    count = size(domain)
    if count == 1:
        return raw
    if isinstance(domain, Categorical):
        other = rng.randrange(domain.n - 1)
        return other + (other >= raw)
    moved = from_unit(domain, _reflect(to_unit(domain, raw) + rng.gauss(0.0, scale)))
    if moved != raw:
        return moved
    if isinstance(domain, Real):
        return sample(domain, rng)
    steps = [n for n in (int(raw) - 1, int(raw) + 1) if domain.low <= n <= domain.high]
    return rng.choice(steps)


def fits(old: Domain, raw: Raw, new: Domain) -> bool:
    """Whether a value chosen in ``old`` means the same in ``new``.

    A label may be asked with other bounds in another branch; an index into other options means
    nothing there.
    """
    if old == new:
        return True
    if isinstance(old, Categorical) or isinstance(new, Categorical) or type(old) is not type(new):
        return False
    return new.low <= raw <= new.high


def _ends(domain: Real | Integer) -> tuple[float, float]:
    half = 0.5 if isinstance(domain, Integer) else 0.0
    low, high = domain.low - half, domain.high + half
    return (math.log(low), math.log(high)) if domain.log else (low, high)


def _reflect(unit: float) -> float:
    folded = math.fmod(abs(unit), 2.0)
    return 2.0 - folded if folded > 1.0 else folded
