"""A process of its own that trains one model: jobs come in on stdin, results go out on stdout.

It imports torch, and nothing else that takes time.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from retiarii.optimizer.allocator import keep_memory


def _model(source: str | None, given: Any) -> nn.Module:
    """A module as it is, or from its source and its state."""
    if source is None:
        module: nn.Module = given
        return module
    scope: dict[str, Any] = {"__name__": "model"}
    exec(compile(source, "model.py", "exec"), scope)
    made: nn.Module = scope["Model"]()
    made.load_state_dict(given)
    return made


class _Job:
    def __init__(self, saved: bytes) -> None:
        source, given, x, y, rate, momentum, device = torch.load(
            io.BytesIO(saved), weights_only=False
        )
        self._model = _model(source, given).to(device)
        self._x, self._y = x.to(device), y.to(device)
        params = [p for p in self._model.parameters() if p.requires_grad]
        # The same choice for all: that of the faster serial one depends on the device.
        kind = {"cpu": "fused"}.get(self._x.device.type, "foreach")
        self._optimizer = torch.optim.SGD(params, lr=rate, momentum=momentum, **{kind: True})

    def run(self, steps: int) -> float:
        for _ in range(steps):
            self._optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(self._model(self._x), self._y)
            loss.backward()
            self._optimizer.step()
        return loss.item()


def main() -> None:
    """Answer requests until there are none: bytes are a job, a number is steps to run."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    torch.set_num_threads(1)
    if sys.argv[1] == "keep":
        keep_memory()
    job: _Job | None = None
    while True:
        try:
            asked = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            if isinstance(asked, bytes):
                job = None  # its memory is free before the next one is made
                job = _Job(asked)
                answer: float | str = 0.0
            else:
                assert job is not None
                answer = job.run(asked)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
