"""CUDA graphs: of each model's step, of all models' steps on streams of their own, and of ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from _fusion.contestant import Contestant, SkippedError
from _fusion.ours import CohortLoop, Merged
from _fusion.serial import Serial
from _fusion.workloads import Cohort
from retiarii.training.cohort.recording import WARM_UP


def _needs_cuda(cohort: Cohort) -> None:
    if cohort.device.type != "cuda":
        raise SkippedError("CUDA graphs need a GPU")


class _Captured:
    """A call as a CUDA graph.

    Args:
        call: what a replay does again; its result stays where it is.
        pool: of another graph, to share its memory.
    """

    def __init__(self, call: Callable[[], Tensor], pool: Any = None) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for i in range(WARM_UP):
                result = call()
                if i == 0:
                    self.first = result.clone()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.result = call()

    def replay(self) -> Tensor:
        self.graph.replay()
        return self.result


class _OnGraphs(Contestant):
    """What replays graphs. Their memory is what was reserved for them."""

    watchable: ClassVar[bool] = False

    def _capture(self, *calls: Callable[[], Tensor]) -> None:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        begin = time.perf_counter()
        self._graphs: list[_Captured] = []
        for call in calls:
            # Graphs that are replayed one after the other may share memory.
            pool = self._graphs[0].graph.pool() if self._graphs else None
            self._graphs.append(_Captured(call, pool))
        torch.cuda.synchronize()
        self.setup += time.perf_counter() - begin
        torch.cuda.empty_cache()
        self.captured = max(0, torch.cuda.memory_reserved() - before)
        self.first = torch.stack([graph.first for graph in self._graphs]).flatten()

    def step(self) -> Tensor:
        return torch.stack([graph.replay() for graph in self._graphs]).flatten()


class SerialGraphs(_OnGraphs, Serial):
    """A graph for each model's whole step, replayed one after the other."""

    def __init__(self, cohort: Cohort) -> None:
        _needs_cuda(cohort)
        Serial.__init__(self, cohort, "foreach")
        self._capture(
            *(lambda i=i: self.train_one(i) for i in range(len(self.models)))  # type: ignore[misc]
        )


class Streams(_OnGraphs, Serial):
    """One graph in which each model's step runs on a stream of its own."""

    def __init__(self, cohort: Cohort) -> None:
        _needs_cuda(cohort)
        Serial.__init__(self, cohort, "foreach")
        self._streams = [torch.cuda.Stream() for _ in self.models]
        self._capture(self._all)

    def _all(self) -> Tensor:
        here = torch.cuda.current_stream()
        losses = []
        for index, stream in enumerate(self._streams):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                losses.append(self.train_one(index))
        for stream in self._streams:
            here.wait_stream(stream)
        return torch.stack(losses)


class MergedGraph(_OnGraphs, Merged):
    """The step around `rt.merge` as one graph."""

    def __init__(self, cohort: Cohort) -> None:
        _needs_cuda(cohort)
        Merged.__init__(self, cohort)
        self._capture(lambda: Merged.step(self))


class CohortGraph(CohortLoop):
    """The cohort loop as a search runs it: its trainer records the step by itself."""

    watchable: ClassVar[bool] = False

    def __init__(self, cohort: Cohort) -> None:
        _needs_cuda(cohort)
        super().__init__(cohort, graphs=True)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        begin = time.perf_counter()
        self.first = self.step().clone()
        for _ in range(WARM_UP):
            self.step()
        torch.cuda.synchronize()
        self.setup += time.perf_counter() - begin
        torch.cuda.empty_cache()
        self.captured = max(0, torch.cuda.memory_reserved() - before)
        if not any("CUDA graph" in phrase for phrase in self.trainer.execution):
            raise SkippedError("; ".join(self.trainer.execution))
