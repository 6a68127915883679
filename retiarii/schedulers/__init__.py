"""Schedulers: they say which trials are worth training further."""

from retiarii.schedulers.base import Scheduler
from retiarii.schedulers.registry import SCHEDULERS, make_scheduler

__all__ = ["SCHEDULERS", "Scheduler", "make_scheduler"]
