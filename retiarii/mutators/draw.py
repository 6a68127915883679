"""Uniform draws: the chooser behind `ModelSpace.sample`."""

from __future__ import annotations

import math
import random

from retiarii.mutators.choice import Categorical, Chooser, Domain, Integer, Raw, Real


def uniform_chooser(seed: int) -> Chooser:
    """Answers uniformly (in the logarithm, for log ranges), determined by ``seed``."""
    rng = random.Random(seed)

    def choose(_label: str, domain: Domain) -> Raw:
        match domain:
            case Categorical(n):
                return rng.randrange(n)
            case Integer(low, high, log):
                if not log:
                    return rng.randint(low, high)
                drawn = math.exp(rng.uniform(math.log(low), math.log(high + 1)))
                return min(high, max(low, int(drawn)))
            case Real(low, high, log):
                if log:
                    return min(high, max(low, math.exp(rng.uniform(math.log(low), math.log(high)))))
                return rng.uniform(low, high)

    return choose
