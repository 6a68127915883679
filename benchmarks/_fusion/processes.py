"""A process for each model, all at once; each has one thread, and they share the cores."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from _fusion.contestant import Contestant, SkippedError
from _fusion.workloads import MOMENTUM, Cohort


class Worker:
    """A process, see `worker.py`.

    Args:
        keep: whether it keeps freed memory, as this process does.
    """

    def __init__(self, keep: bool) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "_fusion.worker", "keep" if keep else "give"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )

    def ask(self, what: bytes | int) -> None:
        """Send a job, or how many steps to run."""
        assert self._process.stdin is not None
        pickle.dump(what, self._process.stdin)
        self._process.stdin.flush()

    def answer(self) -> float:
        """Wait for what was asked; the loss of the last step.

        Raises:
            RuntimeError: what went wrong there.
        """
        assert self._process.stdout is not None
        try:
            found = pickle.load(self._process.stdout)
        except EOFError:
            raise RuntimeError(f"a process ended by itself: {self._process.wait()}") from None
        if isinstance(found, str):
            raise RuntimeError(found)
        loss: float = found
        return loss

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Pool:
    """Processes that are used by one cohort after the other: starting them takes long.

    Args:
        keep: whether they keep freed memory.
        largest: how many there may be.
    """

    def __init__(self, keep: bool, largest: int) -> None:
        self._keep = keep
        self.largest = largest
        self._workers: list[Worker] = []

    def take(self, count: int) -> Sequence[Worker]:
        """That many processes."""
        while len(self._workers) < count:
            self._workers.append(Worker(self._keep))
        return self._workers[:count]

    def close(self) -> None:
        """End them all."""
        for worker in self._workers:
            worker.close()
        self._workers.clear()


class Processes(Contestant):
    """K processes that train a model each.

    Args:
        cohort: what to train.
        pool: where processes come from.

    Raises:
        SkippedError: the pool may not be as large.
    """

    watchable: ClassVar[bool] = False
    own_threads: ClassVar[bool] = True

    def __init__(self, cohort: Cohort, pool: Pool) -> None:
        count = len(cohort.makers)
        if count > pool.largest:
            raise SkippedError(f"more than {pool.largest} processes (--processes)")
        self._workers = pool.take(count)
        for index, worker in enumerate(self._workers):
            worker.ask(_job(cohort, index))
        for worker in self._workers:
            worker.answer()

    def step(self) -> Tensor:
        return self.run(1)

    def run(self, steps: int) -> Tensor:
        for worker in self._workers:
            worker.ask(steps)
        return torch.tensor([worker.answer() for worker in self._workers])

    def tensors(self) -> Iterable[Tensor]:
        return ()


def _job(cohort: Cohort, index: int) -> bytes:
    """A model with its batch. What a candidate builds cannot be pickled; its source can."""
    model: Any = cohort.makers[index]()
    source = None
    if cohort.candidates:
        source, model = cohort.candidates[index].graph.to_source(), model.state_dict()
    file = io.BytesIO()
    rest = (cohort.x.cpu(), cohort.y.cpu(), cohort.rates[index], MOMENTUM, str(cohort.device))
    torch.save((source, model, *rest), file)
    return file.getvalue()
