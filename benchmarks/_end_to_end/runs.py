"""Starts contestants, each in a process of its own, and reads what they found."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Run:
    """One search.

    Attributes:
        seconds: from the start of the process to its end.
        scores: (seconds since the start, accuracy) of each trial, in the order of their ends.
        cpu: seconds of processor time of the process itself.
        decisions: of the trials, where it is ours.
        phases: phase -> seconds, where it is ours and trains in the process itself.
    """

    seconds: float
    scores: list[tuple[float, float]]
    cpu: float
    decisions: list[dict[str, object]] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def best(self) -> float:
        return max(score for _, score in self.scores)

    @property
    def mean(self) -> float:
        return sum(score for _, score in self.scores) / len(self.scores)

    def reached(self, target: float) -> float:
        """Seconds until a trial had that score; the whole search where none has."""
        return next((at for at, score in self.scores if score >= target), self.seconds)


class FailedError(Exception):
    """A contestant did not get to its end."""


class Runs:
    """Where contestants are started.

    Args:
        folder: for what they write.
        epochs: of each trial.
        trials: of each search.
    """

    def __init__(self, folder: Path, epochs: int, trials: int) -> None:
        self.folder, self.trials = folder, trials
        # What ours measures of the machine it keeps, and so the first search has it to measure.
        own = {"END_TO_END_EPOCHS": str(epochs), "RETIARII_CACHE_DIR": str(folder / "cache")}
        self._environment = os.environ | own
        self._number = 0

    def ours(self, task: str, seed: int, *arguments: str) -> Run:
        """``retiarii run``, with further arguments.

        Raises:
            FailedError: it ended with an error.
        """
        out = self._next()
        directory = out.with_suffix("")
        words = ["run", str(HERE / f"{task}.py"), "--out", str(directory), "--seed", str(seed)]
        words += ["--trials", str(self.trials), *arguments]
        began = time.time()
        seconds = self._start(["ours.py", str(out), *words])
        found = json.loads(out.read_text())
        with sqlite3.connect(directory / "search.db") as db:
            rows = db.execute("SELECT decisions, score, finished, state FROM trials ORDER BY id")
            trials = [(_decided(d), s, f) for d, s, f, state in rows if state == "complete"]
        if len(trials) != self.trials:
            raise FailedError(f"{len(trials)} of {self.trials} trials are complete")
        scores = sorted((finished - began, score) for _, score, finished in trials)
        decisions = [decided for decided, _, _ in trials]
        phases = found["phases"] if "inline" in arguments else {}
        return Run(seconds, scores, found["cpu"], decisions, phases)

    def plain(
        self,
        task: str,
        seed: int,
        *arguments: str,
        enqueue: Sequence[dict[str, object]] | None = None,
        trials: int | None = None,
        limit: float | None = None,
    ) -> Run:
        """Optuna and plain PyTorch.

        Args:
            task: which.
            seed: of Optuna's sampler.
            arguments: of ``plain.py``.
            enqueue: the candidates to train; ``None``: those that the sampler proposes.
            trials: how many; ``None``: as many as all.
            limit: seconds that it may take.

        Raises:
            FailedError: it ended with an error, or took too long.
        """
        out = self._next()
        words = ["plain.py", task, str(out), "--seed", str(seed), *arguments]
        words += ["--trials", str(trials or self.trials)]
        if enqueue is not None:
            file = out.with_suffix(".candidates")
            file.write_text(json.dumps(list(enqueue)))
            words += ["--enqueue", str(file)]
        seconds = self._start([*words, "--spawned", repr(time.time())], limit)
        found = json.loads(out.read_text())
        return Run(seconds, [tuple(pair) for pair in found["scores"]], found["cpu"])

    def _next(self) -> Path:
        self._number += 1
        return self.folder / f"{self._number:03}.json"

    def _start(self, words: list[str], limit: float | None = None) -> float:
        began = time.perf_counter()
        command = [sys.executable, str(HERE / words[0]), *words[1:]]
        try:
            done = subprocess.run(
                command,
                env=self._environment,
                timeout=limit,
                capture_output=True,
                text=True,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise FailedError(f"not done after {limit:.0f} s") from error
        if done.returncode:
            raise FailedError((done.stderr.strip() or done.stdout.strip()).splitlines()[-1])
        return time.perf_counter() - began


def _decided(text: str) -> dict[str, object]:
    """Label -> value, from what the store keeps: label, position, value."""
    return {label: value for label, *_, value in json.loads(text)}
