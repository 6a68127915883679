"""Tells a strategy how trials are trained, and refuses what does not go with its way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from retiarii.errors import StrategyError
from retiarii.strategies.base import Strategy, Training

if TYPE_CHECKING:
    from retiarii.schedulers.base import Scheduler
    from retiarii.training.evaluator import Evaluator


def prepare(
    strategy: Strategy,
    evaluator: Evaluator,
    scheduler: Scheduler | None,
    under_way: tuple[int, int],
    asked: Mapping[str, object],
) -> None:
    """Calls `Strategy.prepare`.

    Args:
        strategy: the user's, not what was put around it.
        evaluator: says what may change while a model trains.
        scheduler: what stops trials early.
        under_way: trials proposed together, and how many times so many are under way at once.
        asked: further parts of the search by their options' names; falsy ones are not there.

    Raises:
        StrategyError: the strategy cannot work with it; one that says how far trials train goes
            with nothing of ``asked``.
    """
    own = evaluator.hyperparameters()
    changes = None if evaluator.changes is None else evaluator.changes.intersection(own)
    named = None if scheduler is None else scheduler.name
    strategy.prepare(Training(*under_way, evaluator.longest, changes, named))
    refused = [name for name, value in asked.items() if value] if strategy.staged else []
    if refused:
        raise StrategyError(
            f"{strategy.name} trains in intervals, and each goes on from an earlier trial's "
            f"weights: {refused[0]} knows only trials that train from their begin",
            where=f"strategy {strategy.name}",
            fix=f"leave {refused[0]} out, or use another strategy",
        )
