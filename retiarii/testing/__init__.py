"""Suites that check parts which others write; they need pytest."""

from retiarii.testing.executors import ExecutorConformance
from retiarii.testing.strategies import StrategyConformance, ToySpace

__all__ = ["ExecutorConformance", "StrategyConformance", "ToySpace"]
