"""Strategies: they propose points of a space and learn from their scores."""

from retiarii.strategies.base import Strategy
from retiarii.strategies.registry import STRATEGIES, make_strategy

__all__ = ["STRATEGIES", "Strategy", "make_strategy"]
