"""Steps recorded as CUDA graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch

from retiarii.training.cohort.recording import Done, Recorder, Recording, Run


class CudaGraphs:
    """A `Recorder` of a GPU. Its recordings share memory: they run one after the other.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool: Any = None

    def warm(self, run: Run) -> Done:
        """Runs it on the stream of the recording, for which libraries keep workspaces."""
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                done = run()
            current.wait_stream(self._stream)
        return done

    def record(self, run: Run, generators: Sequence[torch.Generator]) -> Recording:
        """The step as a graph. Its random numbers go on where the generators are at each replay."""
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        # The stream twice: an error in the graph's own context leaves its stream the current one.
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            try:
                # Other threads may go on (a data loader that pins memory).
                with torch.cuda.graph(
                    graph,
                    pool=self._pool,
                    stream=self._stream,
                    capture_error_mode="thread_local",
                ):
                    done = run()
            except Exception:
                self._free([*generators, self._default()])
                raise
        if self._pool is None:
            self._pool = graph.pool()
        return Recording(graph.replay, done)

    def _default(self) -> torch.Generator:
        index = self._device.index
        return torch.cuda.default_generators[
            torch.cuda.current_device() if index is None else index
        ]

    def _free(self, generators: Sequence[torch.Generator]) -> None:
        """Generators of a recording that broke off would wait for its end forever."""
        for generator in generators:
            with contextlib.suppress(RuntimeError):
                generator.graphsafe_set_state(generator.clone_state().graphsafe_get_state())


def recorder_of(device: torch.device) -> Recorder | None:
    """What records steps on a device; ``None`` where nothing does."""
    return CudaGraphs(device) if device.type == "cuda" else None
