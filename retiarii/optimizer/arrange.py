"""Passes 2 and 3 together: the cheaper of two groupings, each laid out.

Calls around a convolution can follow its groups: then nothing is copied between them, and there are
more of them. Which is better depends on how models mix their branches. Both are tried.
"""

from __future__ import annotations

from typing import Final

from retiarii.optimizer.forest import Forest
from retiarii.optimizer.group import group
from retiarii.optimizer.layout import layout
from retiarii.optimizer.plan import Plan
from retiarii.optimizer.repeat import repeat
from retiarii.optimizer.routes import route
from retiarii.optimizer.storage import store
from retiarii.optimizer.sums import inlined

# Pieces that may be copied in the time of one more call, forward and backward: 2 to 5 on a CPU.
_CALL: Final = 3.0
# Forests of more items are grouped one way only: about 500 models.
_MOST: Final = 40_000


def arrange(forest: Forest) -> Plan:
    """The forest grouped and laid out."""
    beside = layout(group(repeat(forest), beside=True))
    if len(forest.items) > _MOST:
        return beside
    return min(layout(group(forest)), beside, key=_cost)


def _cost(plan: Plan) -> float:
    reduced, sums = inlined(plan)
    routes = route(reduced, store(reduced), sums)
    reads = {routes.read(*key) for key in routes.inputs}
    return _CALL * len(plan.groups) + sum(len(r.first) for r in reads if not r.whole)
