"""A trial's place among others: its value in each objective."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from retiarii.objectives.names import Objective
from retiarii.objectives.pareto import Values


def values_of(objectives: Sequence[Objective], metrics: Mapping[str, Any]) -> Values | None:
    """The value of each objective, more being better; ``None`` where one is missing."""
    found = [(each, metrics.get(each.name)) for each in objectives]
    numbers = [each.gain(v) for each, v in found if isinstance(v, int | float) and math.isfinite(v)]
    return tuple(numbers) if len(numbers) == len(found) else None
