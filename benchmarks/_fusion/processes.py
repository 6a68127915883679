"""A process for each model, all at once; each has one thread, and they share the cores."""

from __future__ import annotations

import io
import multiprocessing
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from _fusion.contestant import Contestant, Skipped
from _fusion.workloads import MOMENTUM, Cohort


def _saved(value: Any) -> bytes:
    """By value: what goes through a pipe is not to hang on to shared memory."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _work(pipe: Connection, keep: bool) -> None:
    """What a process does: take a model, or run steps, until it is told to end.

    It imports torch and nothing of ours but this file and what makes the model.
    """
    from retiarii.optimizer.allocator import keep_memory

    if keep:
        keep_memory()
    torch.set_num_threads(1)
    job: tuple[Any, ...] | None = None
    while True:
        kind, value = pipe.recv()
        if kind == "end":
            return
        if kind == "model":
            model, x, y, rate, device = torch.load(io.BytesIO(value), weights_only=False)
            model.to(device)
            params = [p for p in model.parameters() if p.requires_grad]
            job = (
                model,
                x.to(device),
                y.to(device),
                torch.optim.SGD(params, lr=rate, momentum=MOMENTUM, foreach=True),
            )
            pipe.send(None)
        elif job is not None:
            pipe.send(_steps(*job, value))


def _steps(model: Any, x: Tensor, y: Tensor, optimizer: Any, count: int) -> float:
    for _ in range(count):
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return loss.item()


class Pool:
    """Processes that are used by one cohort after the other: starting them takes long.

    Args:
        keep: whether they keep freed memory, as this process does.
        largest: how many there may be.
    """

    def __init__(self, keep: bool, largest: int) -> None:
        self._keep = keep
        self.largest = largest
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[tuple[BaseProcess, Connection]] = []

    def take(self, count: int) -> list[Connection]:
        """Pipes to that many processes."""
        while len(self._workers) < count:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_work, args=(theirs, self._keep), daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, ours))
        return [pipe for _, pipe in self._workers[:count]]

    def close(self) -> None:
        for _, pipe in self._workers:
            pipe.send(("end", None))
        for process, _ in self._workers:
            process.join(10)
            if process.is_alive():
                process.terminate()
        self._workers.clear()


class Processes(Contestant):
    """K processes that train a model each.

    Args:
        cohort: what to train.
        pool: where processes come from.

    Raises:
        Skipped: the pool may not be as large.
    """

    watchable: ClassVar[bool] = False
    own_threads: ClassVar[bool] = True

    def __init__(self, cohort: Cohort, pool: Pool) -> None:
        count = len(cohort.makers)
        if count > pool.largest:
            raise Skipped(f"more than {pool.largest} processes (--processes)")
        models = cohort.build()
        pipes = pool.take(count)
        begin = time.perf_counter()
        self._pipes = pipes
        for pipe, model, rate in zip(pipes, models, cohort.rates, strict=True):
            given = (model.cpu(), cohort.x.cpu(), cohort.y.cpu(), rate, str(cohort.device))
            pipe.send(("model", _saved(given)))
        for pipe in pipes:
            pipe.recv()
        self.started = time.perf_counter() - begin

    def step(self) -> Tensor:
        return self.run(1)

    def run(self, steps: int) -> Tensor:
        for pipe in self._pipes:
            pipe.send(("steps", steps))
        return torch.tensor([pipe.recv() for pipe in self._pipes])

    def tensors(self) -> Iterable[Tensor]:
        return ()
